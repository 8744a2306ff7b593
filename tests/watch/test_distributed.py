"""Several processes: their gradients are the micro-batches; one that is killed ends the others, and
the run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fixed_point import BATCH, NOISE_SCALE, assert_known
from gradiometer import Run, diagnose
from gradiometer.integrations.fsdp import _places
from gradiometer.measurement import Objective
from gradiometer.problems import load
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.train import train as train_alone
from gradiometer_lab.temperature.thermometer import heat_balance
from known_steps import kept_steps
from several_ranks import ended, run_all, start

pytestmark = pytest.mark.slow  # two processes are started for every kind of loop
COVERAGE = 300  # seconds: these train a hundred times, which takes 103 s on two idle cores

TESTS = Path(__file__).parents[1]
LOOPS = [sys.executable, str(TESTS / "support" / "rank_loops.py")]
GRADIOMETER = [sys.executable, "-m", "gradiometer"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave of several loops: to start the processes takes longer than a loop."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_all(2, *LOOPS, "known,gauges,alike,trained", str(folder))
    return folder


def test_two_ranks_measure_the_known_noise_and_keep_the_bits(two_ranks: Path) -> None:
    runs = sorted((two_ranks / "known").iterdir())
    assert len(runs) == 4  # one a loop: the first rank alone writes
    for run in runs[:2]:
        assert_known(diagnose(Run.open(run)).estimates)


def test_of_two_ranks_the_first_reads_the_temperature_and_the_trajectory_of_all(
    two_ranks: Path,
) -> None:
    plain, accumulated, on_a_budget = (
        Run.open(run) for run in sorted((two_ranks / "gauges").iterdir())
    )
    for run in (plain, accumulated):
        series = run.series("temperature")
        assert (
            series.steps.tolist() == [*range(60)]
            and (series.batch_size == BATCH).all()
            and run.warnings == []
        )
        assert (series.moments["factor"] < 0.9).any()  # it clips at a norm of 0.5
        balance = heat_balance(series)
        size = np.abs(balance.configurational) + np.abs(balance.heat) + np.abs(balance.drift)
        assert (
            len(balance.drift) > 50
            and (np.abs(balance.residual) < 1e-10 * size.sum(1, keepdims=True)).all()
        )
        assert run.series("trajectory").steps.tolist() == kept_steps(60)
    assert 1 <= on_a_budget.overhead["measured_steps"] < 300


def test_four_ranks_measure_the_known_noise(tmp_path: Path) -> None:
    run_all(4, *LOOPS, "known", str(tmp_path))
    for run in ("loop-1", "loop-2"):
        assert_known(diagnose(Run.open(tmp_path / "known" / run)).estimates)


@pytest.mark.nightly
def test_intervals_of_two_ranks_cover(tmp_path: Path) -> None:
    """At 90 %, of 100 runs: within three standard errors of a binomial, 0.9 ± 0.09."""
    run_all(2, *LOOPS, "covered", str(tmp_path), timeout=COVERAGE)
    found = [
        diagnose(Run.open(run)).estimates["noise_scale"] for run in (tmp_path / "covered").iterdir()
    ]
    assert len(found) == 100
    assert np.mean([one.low < NOISE_SCALE < one.high for one in found]) > 0.9 - 0.09


# Sharded by fully_shard
# ---------------------------------------------------------------------------------------------


def moments(run: Path) -> dict[str, np.ndarray]:
    """By step and layer."""
    series = Run.open(run).series("noise")
    assert series is not None
    return dict(series.moments)


class FSDPModule:
    """By this name a module is known that `fully_shard` was called on, which makes its kind a kind
    of this, too."""


def test_a_parameter_is_whole_where_the_innermost_sharded_module_around_it_is_run() -> None:
    """Also one that is called by another way first, with no sharded module on it."""
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict(
        {"plain": nn.Sequential(shared), "outer": nn.Sequential(nn.Linear(2, 2), nn.Tanh(), shared)}
    )
    outer, inner = model["outer"], model["outer"][0]
    for module in (outer, inner):
        module.__class__ = type("FSDPOfIts", (FSDPModule, type(module)), {})
    places = _places(Objective(model, lambda model, batch: model(batch)))
    assert places.keys() == {outer, inner}
    assert places[outer] == [(0, shared, "weight"), (1, shared, "bias")]
    assert places[inner] == [(2, inner, "weight"), (3, inner, "bias")]


def test_two_ranks_of_a_sharded_model_read_what_ddp_reads_and_keep_the_bits(
    two_ranks: Path,
) -> None:
    """By layer, to rounding in double precision."""
    folder = two_ranks / "alike"
    for sharded in folder.glob("sharded-*"):
        whole = moments(folder / sharded.name.replace("sharded", "DistributedDataParallel"))
        for name, values in moments(sharded).items():
            assert values.shape == (12, 4)
            assert values == pytest.approx(whole[name], rel=1e-10, abs=1e-12)
    assert len([*folder.glob("sharded-*")]) == 3


def test_four_ranks_of_replicated_shards_and_of_offloaded_ones_read_what_ddp_reads(
    tmp_path: Path,
) -> None:
    """HSDP of two groups of two, by layer, to rounding in double precision. Two of the four hold
    the same piece."""
    run_all(4, sys.executable, str(TESTS / "support" / "rank_hybrid.py"), str(tmp_path))
    for accumulation in (1, 2):
        whole = moments(tmp_path / f"DistributedDataParallel-{accumulation}-1")
        for kind in ("hybrid", "offloaded"):
            for name, values in moments(tmp_path / f"{kind}-{accumulation}-1").items():
                assert values.shape == (12, 4)
                assert values == pytest.approx(whole[name], rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_a_sharded_model_measure_the_known_noise(ranks: int, tmp_path: Path) -> None:
    """Of four, two hold no entry of the first parameter."""
    run_all(ranks, *LOOPS, "known_sharded", str(tmp_path))
    for run in ("loop-1", "loop-2"):
        assert_known(diagnose(Run.open(tmp_path / "known_sharded" / run)).estimates)


@pytest.mark.nightly
def test_intervals_of_two_ranks_of_a_sharded_model_cover(tmp_path: Path) -> None:
    """As above, 0.9 ± 0.09."""
    run_all(2, *LOOPS, "covered_sharded", str(tmp_path), timeout=COVERAGE)
    found = [
        diagnose(Run.open(run)).estimates["noise_scale"]
        for run in (tmp_path / "covered_sharded").iterdir()
    ]
    assert len(found) == 100
    assert np.mean([one.low < NOISE_SCALE < one.high for one in found]) > 0.9 - 0.09


def test_a_sharded_model_reads_the_same_however_it_is_computed(tmp_path: Path) -> None:
    """Kept whole after the forward, recomputed, compiled, run before: to single precision; in
    bfloat16, to its own."""
    run_all(2, *LOOPS, "variants", str(tmp_path))
    plain = moments(tmp_path / "variants" / "plain-1")
    others = [run for run in (tmp_path / "variants").iterdir() if run.name != "plain-1"]
    assert len(others) == 8
    for run in others:
        for name, values in moments(run).items():
            size = np.abs(plain[name]).max()
            assert values == pytest.approx(
                plain[name], abs=(0.03 if "mixed" in run.name else 1e-5) * size
            ), run.name


def test_a_sharded_model_on_one_process_is_measured_by_its_accumulated_backwards(
    tmp_path: Path,
) -> None:
    run_all(1, *LOOPS, "alone", str(tmp_path))
    assert_known(diagnose(Run.open(tmp_path / "alone" / "loop-1")).estimates)


def test_a_bad_loss_of_a_sharded_model_is_told_on_its_rank_and_no_rank_waits(
    tmp_path: Path,
) -> None:
    run_all(2, *LOOPS, "ill", str(tmp_path))
    series = Run.open(tmp_path / "ill" / "loop-1").series("noise")
    assert series is not None and series.steps.tolist() == [0, 1, 3]


def test_a_run_of_a_sharded_model_whose_rank_is_killed_is_interrupted(tmp_path: Path) -> None:
    (code, _, _), (killed, _, _) = ended(start(2, *LOOPS, "killed", str(tmp_path)))
    assert code != 0 and killed == -signal.SIGKILL
    run = Run.open(tmp_path / "killed" / "loop-1")
    assert run.status == "interrupted" and run.warnings == []
    assert run.losses[0].tolist() == [*range(20)]


def test_the_example_sharded_reads_what_it_reads_under_ddp(tmp_path: Path) -> None:
    """The same draws: the same training to single precision, and the same sentence."""
    example = str(TESTS.parent / "examples" / "torchrun.py")
    said = [
        run_all(2, "env", "-C", str(tmp_path), sys.executable, example, *flag)
        for flag in ([], ["--sharded"])
    ]
    assert all("2 processes: " in first and "noise scale" in first for (_, first, _), _ in said)
    readings = [moments(tmp_path / "runs" / name) for name in ("torchrun-1", "torchrun-2")]
    for name, values in readings[0].items():
        assert readings[1][name][:20] == pytest.approx(
            values[:20], rel=1e-3, abs=1e-6 * np.abs(values).max()
        )


# Refused, killed, resumed
# -------------------------------------------------------------------------------------------


def test_if_one_of_two_ranks_fails_while_measuring_both_train_on(tmp_path: Path) -> None:
    run_all(2, sys.executable, str(TESTS / "support" / "rank_faults.py"), str(tmp_path))


def test_what_cannot_be_measured_of_several_processes_is_refused(tmp_path: Path) -> None:
    run_all(2, *LOOPS, "refused", str(tmp_path))


SETTINGS = (
    "digits",
    "--model",
    "mlp",
    "-e",
    "4",
    "--momentum",
    "0.9",
    "--gauges",
    "noise",
    "--no-open",
)


def test_train_on_two_ranks_is_the_training_on_one(two_ranks: Path, tmp_path: Path) -> None:
    two = Run.open(two_ranks / "trained" / "digits-mlp-1")
    one = train_alone(load("digits", model="mlp"), two.configuration, tmp_path)
    assert two.manifest["ranks"] == 2 and two.overhead["mode"] == "shared"
    assert two.losses[1] == pytest.approx(one.losses[1], rel=1e-3)
    weights = [load_latest(RunFolder.open(run.path))[0].tensors for run in (two, one)]
    for name in weights[0]:
        if name.startswith("model."):
            assert weights[0][name].numpy() == pytest.approx(weights[1][name].numpy(), abs=1e-4)
    noise = [diagnose(run).estimates["gradient_variance"] for run in (two, one)]
    assert noise[0].low < noise[1].high and noise[1].low < noise[0].high


def test_forks_of_rank_0_decide_when_the_rate_of_all_ranks_goes_to_zero(tmp_path: Path) -> None:
    flags = (
        "digits",
        "--model",
        "mlp",
        "--steps",
        "60",
        "--lr",
        "1",
        "--cool",
        "auto",
        "--no-open",
    )
    run_all(2, *GRADIOMETER, "train", *flags, "--out", str(tmp_path))
    two = Run.open(tmp_path / "digits-mlp-1")
    one = train_alone(load("digits", model="mlp"), two.configuration, tmp_path)
    decisions = [
        [(event["step"], event["begins"]) for event in run.events if "begins" in event]
        for run in (two, one)
    ]
    assert two.manifest["ranks"] == 2 and decisions == [[(6, None), (48, 48)]] * 2
    assert two.losses[1] == pytest.approx(one.losses[1], rel=1e-3)


def test_the_command_trains_on_two_ranks_and_speaks_once(tmp_path: Path) -> None:
    command = [*GRADIOMETER, "train", *SETTINGS, "--every", "1", "--out", str(tmp_path)]
    (_, told, _), (_, silence, _) = run_all(2, *command)
    assert "noise scale" in told and silence == ""
    assert Run.open(tmp_path / "digits-mlp-1").manifest["ranks"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads")
@pytest.mark.parametrize("group", ["together()", "own()"])
def test_no_thread_of_gloo_outlives_the_training_of_two_ranks(group: str) -> None:
    """One that lets go of a tensor while the interpreter ends would abort the process."""
    run_all(2, sys.executable, "-c", THREADS.replace("GROUP", group))


THREADS = """
from contextlib import contextmanager
from pathlib import Path
import torch
import torch.distributed as dist
from gradiometer import watch
from gradiometer.run.ranks import Ranks, together

@contextmanager
def own():
    dist.init_process_group("gloo")
    yield Ranks.here()
    dist.barrier()
    dist.destroy_process_group()

def threads():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name or "tcpstore" in name]

with GROUP as ranks:
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    ranks.add(torch.ones(2))
    assert threads()
assert not threads(), threads()
"""


def test_a_rank_killed_in_the_middle_ends_the_others_and_the_run_goes_on_with_another_number(
    tmp_path: Path,
) -> None:
    often = ("--set", "checkpoint_seconds=0.3", "-e", "20", "--every", "5", "--out", str(tmp_path))
    processes = start(2, *GRADIOMETER, "train", *SETTINGS, *often)
    folder = tmp_path / "digits-mlp-1"
    while (
        not (folder / "checkpoints").is_dir()
        or len(list((folder / "checkpoints").glob("step_*[1-9]*"))) < 1
    ):
        assert processes[0].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    (code, _, error), (killed, _, _) = ended(processes)
    assert code == 5 and killed == -signal.SIGKILL
    assert (
        "rank 0 has lost another of the 2 processes" in error
        and f"gradiometer resume {folder}" in error
    )
    assert Run.open(folder).status == "interrupted" and Run.open(folder).warnings == []
    run_all(3, *GRADIOMETER, "resume", str(folder), "--no-open")
    run = Run.open(folder)
    assert run.status == "finished" and run.losses[0].tolist() == [*range(45 * 20)]
    assert len({*run.series("noise").steps.tolist()}) == 45 * 20 // 5


def test_under_torchrun_dropout_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """A follower's draws are a function of seed, rank and step: stopped and resumed or not, the end
    is the same."""
    (tmp_path / "mine.py").write_text(DROPOUT)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "gradiometer",
    ]
    settings = ["mine:problem", "-e", "60", "--no-open", "--set", "checkpoint_seconds=0.1"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    whole = [*torchrun, "train", *settings, "--out", str(tmp_path / "whole")]
    assert (
        subprocess.run(
            whole, check=False, env=environment, capture_output=True, timeout=120
        ).returncode
        == 0
    )
    broken = [*torchrun, "train", *settings, "--out", str(tmp_path / "broken")]
    process = subprocess.Popen(
        broken, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folder = tmp_path / "broken" / "mine-model-1"
    while not (folder / "checkpoints").is_dir() or not list(
        (folder / "checkpoints").glob("step_*[1-9]*")
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert Run.open(folder).status == "interrupted"
    resumed = [*torchrun, "resume", str(folder), "--no-open"]
    assert (
        subprocess.run(
            resumed, check=False, env=environment, capture_output=True, timeout=120
        ).returncode
        == 0
    )
    ends = [
        load_latest(RunFolder.open(path))[0]
        for path in (folder, tmp_path / "whole" / "mine-model-1")
    ]
    assert all(ends[0].tensors[name].equal(ends[1].tensors[name]) for name in ends[1].tensors)


DROPOUT = """
import torch
from torch import nn
from gradiometer import supervised
from gradiometer.problems import Examples, Problem

def problem():
    torch.manual_seed(0)
    data = (torch.randn(640, 8), torch.randint(5, (640,)))
    model = lambda: nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 5))
    return Problem(name="mine", model=model, loss=supervised(nn.CrossEntropyLoss(reduction="none")), train=Examples(data))
"""
