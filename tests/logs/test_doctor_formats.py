"""The doctor reads what tools print and store: printed lines, Keras, MLflow and nested
JSON lines."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gradiometer import BadArgument
from gradiometer.cli.doctor import doctor
from gradiometer.logs import Log, log_findings, read_log
from gradiometer.logs.log import Column
from gradiometer.verdict.words.say import say

NANOGPT = """number of parameters: 10.65M
using fused AdamW: True
step 0: train loss 4.2874, val loss 4.2823
iter 0: loss 4.2664, time 29202.15ms, mfu -100.00%
iter 10: loss 3.1234, time 20.15ms, mfu 12%
iter 20: loss nan, time 20.15ms, mfu 12.3%
step 250: train loss 2.1000, val loss 2.2
saving checkpoint to out
iter 250: loss 2.05, time 20.15ms, mfu 12.3%
"""

KERAS = """Epoch 1/3
\x1b[1m1/938\x1b[0m \x1b[32m━\x1b[0m 5:12 333ms/step - accuracy: 0.1250 - loss: 2.3510\r\x1b[1m938/938\x1b[0m 2s 2ms/step - \
accuracy: 0.8750 - loss: 0.4312 - val_accuracy: 0.9490 - val_loss: 0.1741
Epoch 2/3
938/938 [==============================] - 2s 2ms/step - loss: 0.3000 - accuracy: 0.95 - val_loss: 0.16
Epoch 3/3
938/938 [==============================] - 2s 2ms/step - loss: 1.2e-01 - accuracy: 0.96 - val_loss: 0.15
"""


def read(folder: Path, text: str, name: str = "training.log", loss: str | None = None) -> Log:
    (folder / name).write_text(text, encoding="utf-8")
    return read_log(folder / name, loss)


def points(log: Log, name: str) -> dict[int, float]:
    column = log.columns[name]
    return dict(zip(column.steps.tolist(), column.values.tolist(), strict=True))


def training_loss(log: Log) -> dict[int, float]:
    assert log.losses is not None
    return points(log, log.losses.name)


def test_the_lines_of_nanogpt_have_both_losses(tmp_path: Path) -> None:
    log = read(tmp_path, NANOGPT)
    losses = training_loss(log)
    assert (losses[0], losses[10], losses[250]) == (4.2664, 3.1234, 2.05) and np.isnan(losses[20])
    assert points(log, "train_loss") == {0: 4.2874, 250: 2.1} and points(log, "val_loss") == {
        0: 4.2823,
        250: 2.2,
    }
    assert log.losses is not None and log.losses.name == "loss" and log.tool == "printed lines"
    assert log_findings(log)[0].gauge == "log_finite"


def test_the_lines_of_keras_count_epochs_and_the_last_print_of_a_bar_counts(tmp_path: Path) -> None:
    log = read(tmp_path, KERAS)
    assert training_loss(log) == {1: 0.4312, 2: 0.3, 3: 0.12}
    assert points(log, "val_loss") == {1: 0.1741, 2: 0.16, 3: 0.15}
    assert log.notes == ("No column has the step: the column epoch is used instead.",)


@pytest.mark.parametrize(
    ("line", "at", "loss"),
    [
        ("Epoch [2/5], Step [100/600], Loss: 0.5123", 700, 0.5123),
        ("step=1,200 | loss=2.5e-1 | lr=3.0e-4", 1200, 0.25),
        (" 12%|█▏        | 120/1000 [00:01<00:08, 100.00it/s, loss=2.3, lr=0.1]", 120, 2.3),
        ("[2024-05-01 10:00:00,123][INFO] - Iteration 300/5000 Loss 1.75 grad_norm 0.4", 300, 1.75),
        ("| epoch 1 | step 200 | lr 20.00 | ms/batch 5.51 | loss 5.92 | ppl 372.4", 200, 5.92),
        ("{'loss': 0.5, 'grad_norm': 1.25, 'learning_rate': 5e-05, 'step': 40}", 40, 0.5),
        ("global_step: 77, train loss: -3.5", 77, -3.5),
        (
            "Epoch: [0][ 10/500]\tTime  0.120 ( 0.130)\tLoss 2.3e+00 (6.9e+00)\tAcc@1   0.00",
            10,
            2.3,
        ),
        (
            "Epoch: [0]  [ 10/1251]  eta: 0:01:02  lr: 0.100000  img/s: 300.1  loss: 6.9 (6.95)  "
            "time: 0.1",
            10,
            6.9,
        ),
        ("epoch=0 batch=10/300 loss=1.5", 10, 1.5),
        ("3:120/500 loss 1.25 lr 0.001", 120, 1.25),
        ("| epoch 001:    100 / 1000 loss=8.5, nll_loss=5.1, lr=0.0005, gnorm=1.2", 100, 8.5),
        (
            '| INFO | train_inner | {"epoch": 1, "update": 0.1, "loss": "8.1", "num_updates": '
            '"60", "lr": "5e-4"}',
            60,
            8.1,
        ),
        ("Epoch 0:  10%|█ | 10/100 [00:01<00:08, 10.0it/s, v_num=0, train_loss=2.30]", 10, 2.3),
    ],
)
def test_many_forms_of_a_printed_line_are_read(
    tmp_path: Path, line: str, at: int, loss: float
) -> None:
    first = "Epoch [1/5], Step [600/600], Loss: 0.9\n" if line.startswith("Epoch [2") else ""
    assert training_loss(read(tmp_path, f"starting\n{first}{line}\n"))[at] == loss


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "wandb.csv",
            '"Step","run - loss","run - loss__MIN","run - '
            'loss__MAX"\n"0","2","1","3"\n"10","1.5","1","2"\n',
        ),
        ("loss.csv", "Wall time,Step,Value\n16.1,0,2\n16.2,10,1.5\n"),
        ("loss.json", "[[16.1, 0, 2.0], [16.2, 10, 1.5]]"),
    ],
    ids=["W&B", "TensorBoard's CSV", "TensorBoard's JSON"],
)
def test_exports_of_a_scalar_are_its_loss(tmp_path: Path, name: str, text: str) -> None:
    log = read(tmp_path, text, name)
    assert training_loss(log) == {0: 2.0, 10: 1.5} and len(log.columns) == 1


def test_a_scalar_of_validation_is_no_training_loss(tmp_path: Path) -> None:
    log = read(tmp_path, "Wall time,Step,Value\n16.1,0,2\n16.2,10,1.5\n", "run-tag-val_loss.csv")
    assert log.losses is None and log.held_out_losses is not None


def test_the_lines_that_were_understood_are_counted_and_half_must_be(tmp_path: Path) -> None:
    lines = [f"step {step} loss {2 - step / 100:.2f}" for step in range(54)]
    log = read(tmp_path, "\n".join([*lines, *(f"took {k} s" for k in range(6))]))
    assert log.understood == (54, 60)
    told = CliRunner().invoke(doctor, [str(tmp_path / "training.log")], standalone_mode=False)
    assert "54 of 60 lines understood." in told.output
    with pytest.raises(
        BadArgument, match="54 of 110 lines were understood, less than half"
    ) as refused:
        read(tmp_path, "\n".join([*lines, *(f"took {k} s" for k in range(56))]))
    assert refused.value.exit_code == 2


def test_epochs_in_fractions_are_kept_and_rows_counted(tmp_path: Path) -> None:
    lines = [
        f"Train Epoch: {1 + k // 10} [{k % 10 * 640}/6400 ({k % 10 * 10}%)]\tLoss: {2 - k / 20}"
        for k in range(30)
    ]
    log = read(tmp_path, "\n".join(lines))
    assert len(training_loss(log)) == 30 and "rows are counted" in log.notes[0]
    assert points(log, "epoch")[12] == pytest.approx(1.2)


def test_prose_with_the_word_loss_is_no_log(tmp_path: Path) -> None:
    for text in (
        "The loss went down to 3 by then.\nA great loss: 5 sheep.\n",
        "step 3: nothing\nstep 4: nothing\n",
    ):
        with pytest.raises(BadArgument, match=r"not a CSV with a header|no column of numbers"):
            read(tmp_path, text, "prose.txt")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_history_of_keras_counts_epochs(tmp_path: Path, wrapped: bool) -> None:
    history = {"loss": [0.9, 0.5, 0.4], "val_loss": [1.0, 0.7, 0.8]}
    whole = (
        {"params": {"epochs": 3}, "history": history, "epoch": [0, 1, 2]} if wrapped else history
    )
    log = read(tmp_path, json.dumps(whole, indent=1), "history.json")
    assert log.tool == "Keras" and list(training_loss(log)) == ([0, 1, 2] if wrapped else [1, 2, 3])
    assert list(training_loss(log).values()) == [0.9, 0.5, 0.4] and "val_loss" in log.columns


def test_whole_epochs_are_steps_only_where_they_rise(tmp_path: Path) -> None:
    assert list(training_loss(read(tmp_path, "epoch,loss\n0,3\n1,2\n5,1\n", "a.csv"))) == [0, 1, 5]
    assert list(training_loss(read(tmp_path, "epoch,loss\n0,3\n0,2\n1,1\n", "b.csv"))) == [0, 1, 2]
    assert list(training_loss(read(tmp_path, "epoch,loss\n0.5,3\n1,2\n", "c.csv"))) == [0, 1]


def test_metrics_of_mlflow_are_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    metrics = tmp_path / "mlruns" / "0" / "4f2c" / "metrics"
    (metrics / "train").mkdir(parents=True)
    for name, start in (("train/loss", 2.0), ("val_loss", 3.0)):
        lines = [f"{1700000000000 + step} {start - step / 100} {10 * step}" for step in range(20)]
        (metrics / name).write_text("\n".join(lines) + "\n")
    (metrics.parent / "meta.yaml").write_text("run_id: 4f2c\n")
    for path in (tmp_path / "mlruns", metrics.parent, metrics, metrics / "train" / "loss"):
        log = read_log(path)
        assert log.tool == "MLflow" and training_loss(log)[190] == pytest.approx(1.81)
        assert set(log.columns) == {"train/loss", "val_loss"}


def test_nested_json_lines_are_opened(tmp_path: Path) -> None:
    rows = [
        {
            "_step": step,
            "_runtime": 1.5 * step,
            "train": {"loss": 2 - step / 10, "lr": 0.1},
            "val": {"loss": 3.0},
        }
        for step in range(10)
    ]
    log = read(tmp_path, "\n".join(map(json.dumps, rows)), "wandb-history.jsonl")
    assert (
        training_loss(log)[9] == pytest.approx(1.1)
        and log.losses is not None
        and log.losses.name == "train/loss"
    )
    assert log.learning_rates is not None and "val/loss" in log.columns


def test_steps_and_losses_beyond_float_are_no_traceback(tmp_path: Path) -> None:
    rows = [f'{{"step": {step}, "loss": {2 - step / 100}}}' for step in range(40)]
    rows[5] = f'{{"step": {10**400}, "loss": 1.0}}'
    rows[6] = f'{{"step": 6, "loss": {10**400}}}'
    rows[7] = '{"step": 1e300, "loss": 1.0}'
    rows[8] = '{"step": 8, "loss": 1e308}'
    rows[9] = '{"step": NaN, "loss": 1.0}'
    log = read(tmp_path, "\n".join(rows), "log.jsonl")
    assert log.notes == ("2 rows had a step beyond 2⁵³ and were skipped.",)
    assert training_loss(log)[6] == np.inf and len(training_loss(log)) == 37
    assert any("not a finite number" in say(finding).seen.lower() for finding in log_findings(log))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [np.nan, np.inf, 0.0, 1e308, -1e308, 5e-324])
@pytest.mark.parametrize("epoch", [np.nan, np.inf, 1e308, 1.0])
def test_columns_of_any_number_are_no_traceback(loss: float, epoch: float) -> None:
    steps = np.arange(60)
    mixed = np.where(steps % 2 == 0, loss, 1.0)
    for losses in (np.full(60, loss), mixed, mixed[::-1]):
        columns = {
            "loss": losses,
            "epoch": np.full(60, epoch),
            "lr": np.abs(losses),
            "grad_norm": losses,
        }
        assert log_findings(
            Log("made", "a test", {name: Column(name, steps, v) for name, v in columns.items()})
        )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.log").symlink_to("/dev/null")
    with pytest.raises(BadArgument, match="is not a file"):
        read_log(tmp_path / "run.log")


def test_the_command_reads_a_folder_with_printed_lines(tmp_path: Path) -> None:
    spiky = 2 + 0.05 * np.random.default_rng(0).standard_normal(400)
    spiky[200] = 7.0
    lines = [
        f"iter {step}: loss {loss:.4f}, time 20.15ms, mfu 12%" for step, loss in enumerate(spiky)
    ]
    (tmp_path / "out.log").write_text("\n".join(lines))
    told = CliRunner().invoke(doctor, [str(tmp_path)], standalone_mode=False)
    assert told.return_value == 0 and "loss spiked at step 200" in " ".join(told.output.split())


@pytest.mark.parametrize(
    "line",
    [
        "loss" * 50_000,
        "epoch " * 40_000,
        "step" + " " * 200_000,
        "epoch" + " " * 200_000,
        "loss: " * 40_000,
        "a: 1 " * 40_000,
        "loss=" + "1" * 200_000 + "x",
        "loss=" + "1," * 100_000 + "x",
        "loss: 1e" + "1" * 200_000,
        "step " + "1" * 100_000,
        "epoch " + "1" * 100_000,
        "[" + "1" * 100_000 + "/2 (1%)]",
        "|" + "1" * 100_000 + "/2 [0:",
        "x1" * 100_000,
        "a.-/" * 50_000,
        "\x1b[" * 100_000,
    ],
    ids=lambda line: line[:8],
)
def test_no_printed_line_takes_long(tmp_path: Path, line: str) -> None:
    """The time of a line grows with its length, not with a power of it. Processor time, so that
    load does not matter."""
    began = time.process_time()
    log = read(tmp_path, f"step 1: loss 2.0\n{line}\nstep 2: loss 1.5\n")
    assert time.process_time() - began < 5
    assert {1: 2.0, 2: 1.5}.items() <= points(log, "loss").items()


def test_a_csv_with_a_field_of_megabytes_is_refused(tmp_path: Path) -> None:
    text = "step,loss,note\n" + "\n".join(f"{step},1.0,{'x' * 200_000}" for step in range(3))
    with pytest.raises(BadArgument, match=r"log.csv` is not a CSV \(field larger than field limit"):
        read(tmp_path, text, "log.csv")


@pytest.mark.parametrize("number", ["nan", "inf", "0.5"])
def test_a_printed_step_that_is_no_whole_number_is_left_out(tmp_path: Path, number: str) -> None:
    lines = [f"epoch 1 num_updates={step} loss={2 / (step + 1)}" for step in range(50)]
    path = tmp_path / "train.log"
    path.write_text("\n".join([*lines, f"epoch 1 num_updates={number} loss=0.1"]))
    assert len(points(read_log(path), "loss")) == 50


def test_a_printed_length_with_commas_is_counted_on(tmp_path: Path) -> None:
    lines = [
        f"epoch {epoch} step {step}/1,000 loss={2 / (step + 1)}"
        for epoch in (1, 2)
        for step in (100, 1000)
    ]
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines))
    assert list(points(read_log(path), "loss")) == [100, 1000, 1100, 2000]
