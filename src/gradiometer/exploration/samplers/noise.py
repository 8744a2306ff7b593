"""Gaussian noise for a list of parameters: one draw into memory that is kept, handed out as views."""

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor


class Noise:
    """Standard normal numbers in the shapes of parameters, from generators of its own, one a device.

    Args:
        seed: Of the generators.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._layouts: dict[int, _Layout] = {}

    def draw(self, params: Sequence[Tensor], place: int) -> list[Tensor]:
        """New numbers, one tensor a parameter; they are overwritten by the next draw at this place.

        Args:
            params: All of one device and type.
            place: Which of the lists of parameters this is.
        """
        layout = self._layouts.get(place)
        if layout is None or not layout.fits(params):
            layout = self._layouts[place] = _Layout(params)
        layout.flat.normal_(generator=self._generator(params[0].device))
        return layout.views

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator, by device."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where another left off."""
        for device, value in state.items():
            self._generator(torch.device(device)).set_state(value.cpu())

    def _generator(self, device: torch.device) -> torch.Generator:
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[name]


class _Layout:
    """One flat tensor, and its pieces in the shapes of the parameters."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        sizes = [param.numel() for param in params]
        self.flat = torch.empty(sum(sizes), dtype=params[0].dtype, device=params[0].device)
        self.views = [piece.view(p.shape) for piece, p in zip(self.flat.split(sizes), params, strict=True)]

    def fits(self, params: Sequence[Tensor]) -> bool:
        return len(params) == len(self.params) and all(map(is_, params, self.params))
