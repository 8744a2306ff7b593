"""Snapshots: the model at the end of every cycle of the learning rate, stored with a checksum."""

import copy
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.arguments import check_whole
from gradiometer.convergence.schedules.shapes import SnapshotCycle
from gradiometer.errors import BadArgument, RunDamaged

# First entry of a snapshot's metadata: the kind of file, and the version of its layout.
KIND = "gradiometer snapshot 1"

# Share of a cycle that the last cycle must complete. Before that, η is above 2.4 % of its start.
COOLED = 0.9


@dataclass(frozen=True)
class Snapshot:
    """Parameters and buffers of a model at one step, each tensor stored once.

    Args:
        number: Its number within the run, from 1.
        step: Number of steps done when it was taken.
        tensors: Tensors by their names in the model's `state_dict`, on the CPU.
        shared: Second names of shared tensors: {second name: name among `tensors`}.
    """

    number: int
    step: int
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, number: int, step: int) -> "Snapshot":
        """A copy of the model's parameters and buffers."""
        tensors: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        first: dict[tuple[Any, ...], str] = {}
        for name, tensor in model.state_dict().items():
            # Shared tensors have one memory and one shape; parts of one tensor have another shape.
            memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and memory in first:
                shared[name] = first[memory]
                continue
            first[memory] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return cls(number, step, tensors, shared)

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The state for `load_state_dict`: a shared tensor under each of its names."""
        return {
            **self.tensors,
            **{name: self.tensors[stored] for name, stored in self.shared.items()},
        }

    def load_into(self, model: nn.Module) -> None:
        """Load the snapshot into a model.

        Raises:
            BadArgument: The model has another architecture. The message has the first difference;
                nothing is loaded.
        """
        own, theirs = model.state_dict(), self.state_dict
        for name in [*own, *theirs]:
            mine, stored = (
                f"`{name}` {_kind_of(state[name])}" if name in state else ""
                for state in (own, theirs)
            )
            if mine != stored:
                raise BadArgument(
                    f"`model` must have the architecture of {self.name}: it has "
                    f"{mine or f'no `{name}`'}, the snapshot has {stored or f'no `{name}`'}."
                )
        model.load_state_dict(theirs)

    @property
    def name(self) -> str:
        """Number and step, for messages."""
        return f"snapshot {self.number} (step {self.step:,})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole content, in hexadecimal."""
        digest = hashlib.sha256(
            json.dumps([KIND, self.number, self.step, sorted(self.shared.items())]).encode()
        )
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {_kind_of(tensor)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The content of a safetensors file. Names of shared tensors and a checksum are in its
        metadata."""
        from safetensors.torch import save  # noqa: PLC0415 (heavy)

        metadata = {
            "kind": KIND,
            "number": str(self.number),
            "step": str(self.step),
            "shared": json.dumps(dict(self.shared)),
            "sha256": self.digest,
        }
        content = save(dict(self.tensors), metadata)
        # safetensors shuffles the metadata, and equal snapshots would differ.
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> "Snapshot":
        """Read what `to_bytes` returned.

        Args:
            content: The content of the file.
            source: The name of the file, for error messages.

        Raises:
            RunDamaged: The file is incomplete, changed, or not a snapshot.
        """
        from safetensors import SafetensorError  # noqa: PLC0415 (heavy)
        from safetensors.torch import load  # noqa: PLC0415 (heavy)

        try:
            (length,) = struct.unpack("<Q", content[:8])
            metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
            snapshot = cls(
                int(metadata["number"]),
                int(metadata["step"]),
                load(content),
                json.loads(metadata["shared"]),
            )
            whole = metadata["kind"] == KIND and snapshot.digest == metadata["sha256"]
        # A damaged file may raise anything in the three libraries that read it.
        except (
            SafetensorError,
            struct.error,
            ArithmeticError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RuntimeError,
            MemoryError,
        ) as error:
            reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            raise RunDamaged(
                f"{source} is not a complete snapshot ({reason}): {_WAY_OUT}"
            ) from error
        if not whole:
            raise RunDamaged(
                f"{source} is corrupt, its tensors do not match their checksum: {_WAY_OUT}"
            )
        return snapshot


_WAY_OUT = "delete it, or train the run again."


class SnapshotCollector:
    """Takes the snapshots of a training run at the end of each cycle of a schedule.

    Use one schedule object for training and for collecting, so that the two agree. With any other
    schedule for training, the cycle only sets the steps of the snapshots; this is the ensemble
    without cycles, for comparison.

    Args:
        cycle: M cycles in T steps.
        keep: Called with each snapshot, for example to write it to disk. Default: collect them in
            `snapshots`.
        prepare: Called with a copy of the model first, for example to re-estimate the statistics of
            its BatchNorm.

    Raises:
        BadArgument: M is 1, or M cycles do not fit into T steps.

    Example:
        >>> import torch
        >>> from gradiometer import SnapshotCollector
        >>> from gradiometer.convergence.schedules import SnapshotCycle
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> cycle = SnapshotCycle(0.1, steps=30, snapshots=3)
        >>> collector, scheduler = SnapshotCollector(cycle), cycle.scheduler(optimizer)
        >>> for step in range(30):
        ...     optimizer.step()  # after a forward and a backward
        ...     scheduler.step()
        ...     snapshot = collector.after(step, model)
        >>> [snapshot.step for snapshot in collector.snapshots]
        [10, 20, 30]

    Source: Huang et al. (2017), Snapshot Ensembles, section 3.
    """

    def __init__(
        self,
        cycle: SnapshotCycle,
        keep: Callable[[Snapshot], object] | None = None,
        prepare: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self.cycle = checked_cycle(cycle)
        self.snapshots: list[Snapshot] = []
        self._keep = self.snapshots.append if keep is None else keep
        self._prepare = prepare

    def after(self, step: int, model: nn.Module) -> Snapshot | None:
        """Call this after step number `step`, from 0. Returns the snapshot if one was taken."""
        if not self.cycle.takes_snapshot(step):
            return None
        if self._prepare is not None:
            model = copy.deepcopy(model)
            self._prepare(model)
        snapshot = Snapshot.of(model, number=step // self.cycle.length + 1, step=step + 1)
        self._keep(snapshot)
        return snapshot


def checked_cycle(cycle: SnapshotCycle) -> SnapshotCycle:
    """The cycle, if it gives an ensemble: M ≥ 2, and the last cycle is nearly complete when the run
    ends.

    A cycle is ⌈T/M⌉ steps, so the last one may be up to M − 1 steps shorter.
    """
    steps, wanted = cycle.steps, cycle.snapshots
    check_whole("snapshots", wanted, 2, why="the average of one model is that model")
    # ⌈T/M⌉ steps a cycle leave a last one that may be short, and so still hot.
    last = _last_length(steps, wanted)
    if not last >= COOLED * cycle.length:
        fitting = [
            m for m in range(2, steps + 1) if _last_length(steps, m) >= COOLED * -(-steps // m)
        ]
        nearest = min(fitting, key=lambda m: abs(m - wanted), default=None)
        way_out = "train longer" if nearest is None else f"use {nearest}, or train longer"
        raise BadArgument(
            f"`snapshots`: {wanted} cycles of {cycle.length:,} steps do not fit into {steps:,} "
            f"steps, the last one would have {max(last, 0):,}: {way_out}."
        )
    return cycle


def _last_length(steps: int, cycles: int) -> int:
    return steps - (cycles - 1) * -(-steps // cycles)


def _kind_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of {list(tensor.shape)}"
