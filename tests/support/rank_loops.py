"""What one of several processes does in the tests of distributed training: `python rank_loops.py
NAME,… FOLDER`.

Each name is a function of this file, whose runs lie in a folder of that name.
"""

import math
import os
import signal
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fixed_point import BATCH, DIMENSION, POINTS, RATE, SAMPLING, Position, losses
from gradiometer import BadArgument, Unsupported, watch
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train

torch.set_num_threads(1)


def loop(
    out: Path,
    *,
    steps: int,
    accumulation: int = 1,
    rate: float = RATE,
    watched: bool = True,
    seed: int = 1,
    make: Callable[[], nn.Module] = Position,
    wrap: Callable[[nn.Module], nn.Module] = DistributedDataParallel,
    held_back: bool = True,
    clip: bool = True,
    evaluated: bool = False,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **asked: Any,
) -> Any:
    """A loop on the standing problem, clipped, the batch shared by all ranks; the model and the
    watch.

    Where several backwards are accumulated, the first ones reduce nothing if they are held back.
    """
    model = make()
    wrapped = wrap(model)
    optimizer = kind(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(100 * seed + dist.get_rank())
    if evaluated:
        with torch.no_grad():
            wrapped(POINTS[:2])
    asked = {"every": 1, "level": 0.999, "sampling": SAMPLING} | asked
    w = watch(wrapped, optimizer, out=out, accumulation=accumulation, **asked) if watched else None
    if w:
        w.__enter__()
    size = BATCH // dist.get_world_size() // accumulation
    for _ in range(steps):
        optimizer.zero_grad()
        for part in range(accumulation):
            batch = POINTS[torch.randint(len(POINTS), (size,), generator=generator)]
            if held_back:
                reduce(wrapped, part == accumulation - 1)
            loss = wrapped(batch).mean()
            (loss / accumulation).backward()
            if w:
                w.step(loss, batch)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    if w:
        w.__exit__(None, None, None)
    return model, w


def reduce(wrapped: Any, whether: bool) -> None:
    """Whether the next backward averages gradients over processes, or keeps them for later."""
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.require_backward_grad_sync = whether
    else:
        wrapped.set_requires_gradient_sync(whether)


def sharded(model: nn.Module, **settings: Any) -> nn.Module:
    """The model under FSDP2: its blocks, if it has any, and what is around them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    settings = {"mesh": init_device_mesh("cpu", (dist.get_world_size(),))} | settings
    for block in getattr(model, "blocks", []):
        fully_shard(block, **settings)
    fully_shard(model, **settings)
    return model


class Blocks(nn.Module):
    """A small network with blocks, none of whose shapes two processes can share evenly; its output
    is its losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(DIMENSION, 7)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(7, 7), nn.Tanh()) for _ in range(2))
        self.last = nn.Linear(7, 3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.double()

    def forward(self, points: Tensor) -> Tensor:
        hidden = self.first(points)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        losses: Tensor = (self.last(hidden) * self.frozen).square().sum(-1)
        return losses


def known(out: Path) -> None:
    """Two runs of known noise, one accumulated; and a moving one with and without the
    instrument."""
    known_under(DistributedDataParallel, out)


def known_sharded(out: Path) -> None:
    """The same under FSDP2."""
    known_under(sharded, out)


def known_under(wrap: Callable[[nn.Module], nn.Module], out: Path) -> None:
    loop(out, steps=160, wrap=wrap)
    loop(out, steps=160, wrap=wrap, accumulation=2)
    moved = [
        loop(out, steps=40, rate=0.1, wrap=wrap, watched=watched)[0] for watched in (True, False)
    ]
    pairs = zip(*(map(local, model.parameters()) for model in moved), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert any(
        not torch.equal(*pair)
        for pair in zip(map(local, moved[0].parameters()), start(wrap), strict=True)
    )
    _, w = loop(out, steps=300, wrap=wrap, every=None, budget=0.05)
    assert (w.run is None) == (dist.get_rank() != 0)
    if w.run is not None:
        assert 1 <= w.overhead["measured_steps"] < 300
        assert w.overhead["mode"] == "shared" and w.run.manifest["ranks"] == dist.get_world_size()


def gauges(out: Path) -> None:
    """The thermometer and the trajectory of a moving loop, plain and accumulated, clipped; and on a
    budget."""
    for accumulation in (1, 2):
        asked: dict[str, Any] = {
            "gauges": "noise,temperature,trajectory",
            "accumulation": accumulation,
        }
        moved = [
            loop(out, steps=60, rate=0.1, watched=watched, **asked)[0] for watched in (True, False)
        ]
        pairs = zip(*(model.parameters() for model in moved), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    loop(out, steps=300, rate=0.1, every=None, budget=0.05, gauges="temperature")


def local(parameter: Any) -> Tensor:
    """What lies here of a parameter."""
    return cast(
        "Tensor", (parameter.to_local() if hasattr(parameter, "to_local") else parameter).detach()
    )


def start(wrap: Callable[[nn.Module], nn.Module]) -> list[Tensor]:
    model = Position()
    wrap(model)
    return [*map(local, model.parameters())]


def alike(out: Path) -> None:
    """The same training under DDP and under FSDP2, by one backward an update and by two, reduced at
    once or later."""
    for accumulation, held_back in ((1, True), (2, True), (2, False)):
        settings: dict[str, Any] = {
            "accumulation": accumulation,
            "held_back": held_back,
            "make": Blocks,
        }
        for wrap in (DistributedDataParallel, sharded):
            loop(
                out,
                steps=12,
                rate=0.01,
                wrap=wrap,
                name=f"{wrap.__name__}-{accumulation}-{held_back}",
                **settings,
            )
        kept = [
            loop(out, steps=12, rate=0.01, wrap=sharded, watched=on, **settings)[0]
            for on in (True, False)
        ]
        pairs = zip(*(map(local, model.parameters()) for model in kept), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def trained(out: Path) -> None:
    """The loop of `train`."""
    settings: dict[str, Any] = {"epochs": 2, "momentum": 0.9, "gauges": "noise", "every": 1}
    train(
        load("digits", model="mlp"), Configuration(problem="digits", model="mlp", **settings), out
    )


class Single(Blocks):
    """The same network in single precision, or in what its parameters are gathered in."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def forward(self, points: Tensor) -> Tensor:
        return super().forward(points.to(self.first.weight.dtype)).float()


def variants(out: Path) -> None:
    """What `fully_shard` goes with: the readings of each are those of the plain one, which is
    called `plain`."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import MixedPrecisionPolicy

    def checkpointed(model: Any) -> nn.Module:
        model.blocks = nn.ModuleList(map(checkpoint_wrapper, model.blocks))
        return sharded(model)

    def recomputed_whole(model: Any) -> nn.Module:
        sharded(model)
        for place, block in enumerate(model.blocks):
            model.blocks[place] = checkpoint_wrapper(block)
        return cast("nn.Module", model)

    def compiled(model: Any) -> nn.Module:
        for block in model.blocks:
            block.compile(backend="aot_eager")
        return sharded(model)

    def mixed(reduced: torch.dtype | None) -> Callable[[nn.Module], nn.Module]:
        return partial(
            sharded,
            mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduced),
        )

    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "plain": sharded,
        "kept": partial(sharded, reshard_after_forward=False),
        "checkpointed": checkpointed,
        "recomputed": recomputed_whole,
        "compiled": compiled,
        "compiled-whole": lambda model: cast(
            "nn.Module", torch.compile(sharded(model), backend="aot_eager")
        ),
        "evaluated": sharded,
        "mixed": mixed(torch.float32),
        "mixed-low": mixed(None),
    }
    for name, wrap in ways.items():
        asked: dict[str, Any] = {
            "evaluated": name == "evaluated",
            "held_back": name != "compiled-whole",
        }
        loop(out, steps=8, rate=0.01, accumulation=2, make=Single, wrap=wrap, name=name, **asked)


def refused(out: Path) -> None:
    """What cannot be measured of several processes."""
    with pytest.raises(BadArgument, match="which works on one process: leave it out"):
        one = Position()
        optimizer = torch.optim.SGD(one.parameters(), lr=RATE)
        watch(DistributedDataParallel(one), optimizer, loss=losses, gauges="noise_shape")
    sharded(model := Position())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with pytest.raises(
        BadArgument, match=r"which cannot measure a sharded model \(FSDP\): ask for noise"
    ):
        watch(model, optimizer, loss=losses, gauges="batch_sharpness")
    refused_meshes()
    refused_gradients(out)


def refused_meshes() -> None:
    """Parameters that lie otherwise than `fully_shard` over all processes lays them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    everyone = init_device_mesh("cpu", (2,))
    plane = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))

    def refusal(model: Any, words: str) -> None:
        with pytest.raises(Unsupported, match=words):
            watch(model, torch.optim.SGD(model.parameters(), lr=RATE), loss=losses)

    both = parallelize_module(Blocks(), plane["shards"], {"last": ColwiseParallel()})
    refusal(
        fully_shard(both, mesh=plane["replicas"]),
        r"`model` has last.weight placed as .* \(tensor parallel\?\)",
    )
    refusal(
        fully_shard(Blocks(), mesh=plane["shards"]),
        "`model` has first.weight sharded over 1 of 2 processes",
    )
    part = Blocks()
    fully_shard(part.blocks[0], mesh=everyone)
    refusal(part, "`model` has first.weight whole and others sharded")
    ignoring = Blocks()
    refusal(
        fully_shard(ignoring, mesh=everyone, ignored_params={ignoring.last.bias}),
        "`model` has last.bias whole",
    )
    tensor_parallel = parallelize_module(Blocks(), everyone, {"last": ColwiseParallel()})
    refusal(tensor_parallel, "`model` has last.weight sharded by other means than `fully_shard`")
    for original in (True, False):
        flat = FullyShardedDataParallel(
            Position(), device_id=torch.device("cpu"), use_orig_params=original
        )
        refusal(flat, r"`model` is under FullyShardedDataParallel \(FSDP1\)")


def refused_gradients(out: Path) -> None:
    """Gradients that are not the mean of what is heard: found out at the first measured step."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    def undivided(model: Any) -> nn.Module:
        sharded(model)
        model.blocks[0].set_gradient_divide_factor(1.0)
        model.blocks[0].set_force_sum_reduction_for_comms(True)
        return cast("nn.Module", model)

    def unheard(model: Any) -> nn.Module:
        sharded(model)
        for block in model.blocks:
            block.go = partial(nn.Sequential.forward, block)
            register_fsdp_forward_method(block, "go")
        return cast("nn.Module", model)

    class Going(Blocks):
        def forward(self, points: Tensor) -> Tensor:
            hidden, blocks = self.first(points), cast("Any", self.blocks)
            for block in blocks:
                hidden = hidden + block.go(hidden)
            return cast("Tensor", self.last(hidden).square().sum(-1))

    for make, wrap in ((Blocks, undivided), (Going, unheard)):
        with pytest.raises(
            BadArgument,
            match="`model` is not trained on the plain mean of the gradients that its 2",
        ):
            loop(out, steps=1, make=make, wrap=wrap)
    for accumulation in (1, 2):
        with pytest.raises(BadArgument, match="leave out averaging by hand"):
            loop(out, steps=1, wrap=lambda model: model, held_back=False, accumulation=accumulation)
    told_later(out)
    sharded(model := Position())
    with watch(model, torch.optim.SGD(model.parameters(), lr=RATE), out=out) as w:
        loss = model(POINTS[:4]).mean()
        loss.backward()
        model(POINTS[:4]).mean().backward()
        with pytest.raises(
            (BadArgument, Unsupported),
            match="`step` was called once after several backwards of a sharded model",
        ):
            w.step(loss, POINTS[:4])


def told_later(out: Path) -> None:
    """Another backward between two steps, which every rank hears and `.grad` holds no more: told,
    and not measured."""
    wrapped = DistributedDataParallel(model := Position())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watch(wrapped, optimizer, out=out, every=1, name="told") as w:
        for _ in range(3):
            optimizer.zero_grad()
            batch = POINTS[4 * dist.get_rank() :][:4]
            loss = wrapped(batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
            (-wrapped(batch).mean()).backward()
    if w.run is not None:
        assert w.run.series("noise").steps.tolist() == [0] and len(w.run.warnings) == 1
        assert "such steps are not measured" in w.run.warnings[0]


def alone(out: Path) -> None:
    """A sharded model on one process: its accumulated backwards are measured, and
    nothing else is."""
    sharded(model := Position())
    with pytest.raises(BadArgument, match=r"`model` is sharded \(FSDP\) over one process"):
        watch(model, torch.optim.SGD(model.parameters(), lr=RATE), loss=losses)
    loop(out, steps=250, accumulation=2, wrap=sharded, clip=False)


def ill(out: Path) -> None:
    """A loss that is not finite, on the second rank alone: no process waits for another, and
    nothing is measured."""
    sharded(model := Position())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with (
        watch(model, optimizer, loss=losses, out=out, every=1) as w,
        warnings.catch_warnings(record=True) as told,
    ):
        for step in range(4):
            batch = POINTS[:4] * (math.nan if step == 2 and dist.get_rank() == 1 else 1)
            loss = model(batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.zero_grad()
    assert [str(one.message) for one in told] == (
        ["the loss is nan at step 2, on rank 1, for the first time in this run."]
        if dist.get_rank() == 1
        else []
    )


def killed(out: Path) -> None:
    """The second rank is killed in the middle of a watched, sharded training."""
    sharded(model := Position())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watch(model, optimizer, out=out, every=1, sampling=SAMPLING) as w:
        for step in range(40):
            if step == 20 and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            loss = model(POINTS[:4]).mean()
            loss.backward()
            w.step(loss, POINTS[:4])
            optimizer.zero_grad()


def covered(out: Path, **asked: Any) -> None:
    """Many short runs."""
    for seed in range(100):
        loop(out, steps=60, level=0.9, seed=seed, **asked)


def covered_sharded(out: Path) -> None:
    """The same under FSDP2; unclipped, which takes most of the time there."""
    covered(out, wrap=sharded, clip=False)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for each in sys.argv[1].split(","):
        globals()[each](Path(sys.argv[2]) / each)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads may still let go of tensors, and abort where the interpreter is being taken
    # down
    os._exit(0)
