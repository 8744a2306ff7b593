"""An error that cannot print itself."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError
