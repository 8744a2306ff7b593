"""Gaussian noise for a list of parameters: one draw into a flat tensor that is kept, returned as
views."""

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor


class Noise:
    """Standard normal numbers in the shapes of parameters, from one generator per device.

    Args:
        seed: Seed of the generators.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._buffers: dict[int, tuple[list[Tensor], Tensor, list[Tensor]]] = {}

    def draw(self, params: Sequence[Tensor], place: int) -> list[Tensor]:
        """New numbers, one tensor per parameter. The next draw at this place overwrites them.

        Args:
            params: Parameters of one device and dtype.
            place: Index of this list of parameters.
        """
        drawn_for, flat, views = self._buffers.get(place, ([], torch.empty(0), []))
        if len(drawn_for) != len(params) or not all(map(is_, params, drawn_for)):
            sizes = [param.numel() for param in params]
            flat = torch.empty(sum(sizes), dtype=params[0].dtype, device=params[0].device)
            views = [
                piece.view(param.shape)
                for piece, param in zip(flat.split(sizes), params, strict=True)
            ]
            self._buffers[place] = list(params), flat, views
        flat.normal_(generator=self._generator(params[0].device))
        return views

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator, by device."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the generators of another `state_dict`."""
        for device, value in state.items():
            self._generator(torch.device(device)).set_state(value.cpu())

    def _generator(self, device: torch.device) -> torch.Generator:
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[name]
