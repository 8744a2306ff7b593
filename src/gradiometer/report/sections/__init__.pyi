from .section import Numbers as Numbers
from .section import Section as Section
