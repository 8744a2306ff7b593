"""Snapshots: a model at the end of every cycle, taken by the schedule that cools it, as bytes that check themselves."""

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

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.errors import BadArgument

KIND = "gradiometer snapshot 1"
"""What the metadata of a snapshot begin with: what it is, and the version of its layout."""

FEWEST = 2
"""Members of an ensemble, at least: the average of one model is that model."""

COOLED = 0.9
"""Share of a cycle the last one must go through: after less, η is still above 2.4 % of where it started."""


@dataclass(frozen=True)
class Snapshot:
    """Parameters and buffers of a model at one step, each tensor stored once.

    Args:
        number: Which of its run, from 1.
        step: Steps done when it was taken.
        tensors: By their names in the model's `state_dict`, on the CPU.
        shared: Names of tensors that are another one: {second name: name among `tensors`}.
    """

    number: int
    step: int
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, number: int, step: int) -> "Snapshot":
        """A copy of where the model stands."""
        tensors: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        first: dict[tuple[Any, ...], str] = {}
        for name, tensor in model.state_dict().items():
            where = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and where in first:
                shared[name] = first[where]
                continue
            first[where] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return cls(number, step, tensors, shared)

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """As `load_state_dict` wants it: a shared tensor under each of its names."""
        return {**self.tensors, **{name: self.tensors[stored] for name, stored in self.shared.items()}}

    def load_into(self, model: nn.Module) -> None:
        """Put the model where the snapshot was taken.

        Raises:
            BadArgument: The model is of another architecture: the first difference is named, and nothing is loaded.
        """
        own, theirs = model.state_dict(), self.state_dict
        for name in [*own, *theirs]:
            if name not in own or name not in theirs:
                owner = "the model" if name in own else "the snapshot"
                raise BadArgument(f"{self.name} is of another architecture: only {owner} has `{name}`.")
            ours, stored = own[name], theirs[name]
            if ours.shape != stored.shape or ours.dtype != stored.dtype:
                raise BadArgument(
                    f"{self.name} is of another architecture: its `{name}` is {_kind_of(stored)}, the model's is "
                    f"{_kind_of(ours)}."
                )
        model.load_state_dict(theirs)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"snapshot {self.number} (step {self.step:,})"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all that it says, in hexadecimal."""
        digest = hashlib.sha256(json.dumps([KIND, self.number, self.step, sorted(self.shared.items())]).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {_kind_of(tensor)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """A safetensors file: every tensor once, the names of shared ones and a checksum in its metadata."""
        from safetensors.torch import save  # noqa: PLC0415 (heavy)

        metadata = {
            "kind": KIND,
            "number": str(self.number),
            "step": str(self.step),
            "shared": json.dumps(dict(self.shared)),
            "sha256": self.digest,
        }
        return save(dict(self.tensors), metadata)

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> "Snapshot":
        """What `to_bytes` wrote.

        Args:
            content: The file.
            source: What a refusal calls it.

        Raises:
            BadArgument: It is torn, changed, or no snapshot.
        """
        from safetensors import SafetensorError  # noqa: PLC0415 (heavy)
        from safetensors.torch import load  # noqa: PLC0415 (heavy)

        try:
            metadata = _metadata(content)
            snapshot = cls(
                int(metadata["number"]), int(metadata["step"]), load(content), json.loads(metadata["shared"])
            )
            whole = metadata["kind"] == KIND and snapshot.digest == metadata["sha256"]
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            raise BadArgument(f"{source} is not a whole snapshot ({reason}): {_WAY_OUT}") from error
        if not whole:
            raise BadArgument(f"{source} is corrupt: its tensors do not match their checksum: {_WAY_OUT}")
        return snapshot


_WAY_OUT = "leave it out, or train the run again."


class SnapshotCollector:
    """Takes the snapshots of a run, at the steps that its schedule says and at no others.

    The schedule that trains is the schedule that collects, one object, so that they cannot disagree:

        cycle = SnapshotCycle(0.1, steps=steps, snapshots=5)
        collector = SnapshotCollector(cycle)
        scheduler = cycle.scheduler(optimizer)
        for step in range(steps):
            ...
            optimizer.step()
            scheduler.step()
            collector.after(step, model)
        collector.snapshots

    Under any other schedule the cycle only says where: snapshots without cycles, the ensemble to compare with.

    Args:
        cycle: M coolings in T steps.
        keep: What is done with each snapshot, such as writing it to disk; left out, `snapshots` collects them.
        prepare: Applied to a copy of the model first, such as re-estimating the statistics of its BatchNorm.

    Raises:
        BadArgument: M is 1, or M cycles do not fit into T steps.

    Source: Huang et al. (2017), Snapshot Ensembles, section 3.
    """

    def __init__(
        self,
        cycle: SnapshotCycle,
        keep: Callable[[Snapshot], object] | None = None,
        prepare: Callable[[nn.Module], object] | None = None,
    ) -> None:
        check_cycles(cycle)
        self.cycle = cycle
        self.snapshots: list[Snapshot] = []
        self._keep = self.snapshots.append if keep is None else keep
        self._prepare = prepare

    def after(self, step: int, model: nn.Module) -> Snapshot | None:
        """To be called once step number `step`, from 0, is made. Returns the snapshot, if one was taken."""
        if not self.cycle.takes_snapshot(step):
            return None
        if self._prepare is not None:
            model = copy.deepcopy(model)
            self._prepare(model)
        snapshot = Snapshot.of(model, number=step // self.cycle.length + 1, step=step + 1)
        self._keep(snapshot)
        return snapshot


def checked_cycle(learning_rate: float, steps: int, snapshots: int) -> SnapshotCycle:
    """The cycle of a run of so many steps, refused as `check_cycles` does."""
    cycle = SnapshotCycle(learning_rate, steps, snapshots)
    check_cycles(cycle)
    return cycle


def check_cycles(cycle: SnapshotCycle) -> None:
    """Refuse a cycle that gives no ensemble: M = 1, or a last cycle that the run ends before it has cooled.

    A cycle is ⌈T/M⌉ steps, so that the last one is up to M − 1 steps short.
    """
    steps, wanted = cycle.steps, cycle.snapshots
    if not wanted >= FEWEST:
        raise BadArgument(
            f"`snapshots` must be at least {FEWEST}, got {wanted}: the average of one model is that model."
        )
    last = steps - (wanted - 1) * cycle.length
    if not last >= COOLED * cycle.length:
        fitting = [m for m in range(FEWEST, steps + 1) if steps - (m - 1) * -(-steps // m) >= COOLED * -(-steps // m)]
        nearest = min(fitting, key=lambda m: abs(m - wanted), default=None)
        way_out = "train longer" if nearest is None else f"ask for {nearest}, or train longer"
        raise BadArgument(
            f"`snapshots`: {wanted} cycles of {cycle.length:,} steps do not fit into {steps:,} steps, of which the "
            f"last would get {max(last, 0):,}: {way_out}."
        )


def _metadata(content: bytes) -> dict[str, str]:
    """The words in the header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def _kind_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of {list(tensor.shape)}"
