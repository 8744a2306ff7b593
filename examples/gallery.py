"""Six small trainings of different kinds: what the page says of each, and what a fork says of that.

    python examples/gallery.py                             all six, a few minutes
    python examples/gallery.py missing-value small-batch   some of them

The data are the digits, the source code of this package and, for three runs, Fashion-MNIST (the
Debian package `dataset-fashion-mnist`, or a folder in $GRADIOMETER_DATA). Every run is a folder
below `--out`, with its page. After the training a fork tries what the findings advise and what is
listed here, in four orders of the data.
"""

import argparse
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gradiometer
from gradiometer import (
    Configuration,
    Diagnosis,
    Draw,
    Examples,
    Finding,
    Problem,
    Run,
    Sampling,
    State,
    diagnose,
    watch,
)
from gradiometer.loop import Fork, fork, forks_of
from gradiometer.measurement import significant
from gradiometer.problems import load
from gradiometer.report.page import write_page
from gradiometer.train import incident_cause, loop_at, train
from gradiometer.verdict import say

WRONG, MISSING = 0.2, -999.0
STEPS, WARM, RATE, BATCH = 500, 50, 2e-3, 8
WIDTH, SEQUENCE, SYMBOLS = 64, 48, 128


def wrong_labels() -> Problem:
    """The digits for a softmax regression. A fifth of the training examples have a label drawn at
    random."""
    digits = load("digits")
    images, labels = digits.train.data
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < WRONG
    drawn = torch.randint(10, labels.shape, generator=generator)
    examples = Examples((images, torch.where(wrong, drawn, labels)))
    return replace(digits, name="wrong-labels", model=softmax, model_name="softmax", train=examples)


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def missing_value() -> Problem:
    """20,000 images of Fashion-MNIST. In one of them a row of pixels is missing, and was written as
    -999."""
    clothes = load("fashion-mnist")
    images, labels = clothes.train.data
    images = images[:20_000].clone()
    images[7, 0, 14] = MISSING
    return replace(clothes, name="missing-value", train=Examples((images, labels[:20_000])))


@dataclass(frozen=True)
class Exhibit:
    """A training, and what is tried after it.

    Args:
        title: What is trained.
        problem: Loads the problem.
        settings: What is not the default of a configuration.
        tried: Alternatives that are tried besides what is advised.
        at: Number of updates before the fork. Default: half of them.
    """

    title: str
    problem: Callable[[], Problem]
    settings: dict[str, Any]
    tried: tuple[str, ...] = ()
    at: int | None = None

    def run(self, name: str, out: Path) -> Run:
        """Train, and fork."""
        problem = self.problem()
        run = train(problem, Configuration(**self.settings), out, name=name)
        for spike in diagnose(run).spikes:
            incident_cause(run, spike.peak, problem=problem)
        known = set[str]()
        # advice that a fork refuted may leave room for other advice
        while alternatives := [
            text
            for text in dict.fromkeys((*advised(diagnose(run).findings), *self.tried))
            if text not in known
        ]:
            start = loop_at(run, self.at, problem=problem)
            fork(start, alternatives, horizon="100%", out=run.path)
            known.update(alternatives)
            run = run.refreshed()
        return run.refreshed()


def advised(findings: Iterable[Finding]) -> list[str]:
    """The alternatives that findings advise, but for what skips a batch: it would have to begin
    before it."""
    cures = [text for finding in findings for text in finding.cure]
    return [text for text in cures if not text.startswith("skip")]


class Transformer(nn.Module):
    """The next character: two pre-norm blocks of width 64 with 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.symbol, self.place = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(SEQUENCE, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, SYMBOLS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(SEQUENCE))

    def forward(self, symbols: Tensor) -> Tensor:
        embedded = self.symbol(symbols) + self.place.weight
        return self.head(self.blocks(embedded, mask=self.mask, is_causal=True))


def next_character(model: nn.Module, text: Tensor) -> Tensor:
    """The cross-entropy of the sequences in nats a character."""
    return nn.functional.cross_entropy(model(text[:, :-1]).transpose(1, 2), text[:, 1:])


def sequences() -> tuple[Tensor, Tensor]:
    """The source code of this package in sequences of characters: to train on, and 400
    to test on."""
    files = sorted(Path(gradiometer.__file__).parent.rglob("*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    symbols = torch.tensor([min(ord(character), SYMBOLS - 1) for character in text])
    whole = symbols[: len(symbols) // (SEQUENCE + 1) * (SEQUENCE + 1)].view(-1, SEQUENCE + 1)
    mixed = whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))]
    return mixed[400:], mixed[:400]


@dataclass(frozen=True)
class OwnLoop:
    """A loop of one's own with `watch`, which forks itself after its last step."""

    title: str

    def run(self, name: str, out: Path) -> Run:
        """Train a transformer with AdamW and a warm-up, and fork."""
        torch.manual_seed(0)
        examples, tested = sequences()
        model = Transformer()
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        warm_up = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM, 1.0)
        )
        loader = DataLoader(examples, BATCH, shuffle=True, drop_last=True)
        sampling = Sampling(Draw.RESHUFFLED, len(examples))
        with watch(
            model,
            optimizer,
            loss=next_character,
            sampling=sampling,
            every=4,
            out=out,
            name=name,
            quiet=True,
        ) as w:
            for _, text in zip(range(STEPS), loader, strict=False):
                optimizer.zero_grad()
                loss = next_character(model, text)
                loss.backward()
                w.step(loss, text)
                optimizer.step()
                warm_up.step()
            w.fork(
                batches=loader,
                evaluate=lambda copy: test_loss(copy, tested),
                alternatives=advised(w.findings()) or ["batch 2x, rate sqrt"],
                horizon=f"{STEPS // 2} updates",
            )
        return w.run


def test_loss(model: nn.Module, text: Tensor) -> dict[str, float]:
    """The loss on sequences that were not trained on."""
    with torch.no_grad():
        return {"test_loss": float(next_character(model, text))}


EXHIBITS: dict[str, Exhibit | OwnLoop] = {
    "cosine": Exhibit(
        "A CNN on the digits: SGD with momentum, cosine",
        lambda: load("digits", model="cnn"),
        {
            "model": "cnn",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "schedule": "cosine",
            "epochs": 30,
            "every": 4,
        },
        tried=("rate 0.5x", "rate 2x", "batch 2x, rate sqrt"),
    ),
    "text": OwnLoop("A transformer on text: AdamW with a warm-up, in a loop of one's own"),
    "wrong-labels": Exhibit(
        "A fifth of the labels are wrong: softmax regression on the digits",
        wrong_labels,
        {
            "problem": "gallery:wrong_labels",
            "learning_rate": 0.5,
            "batch_size": 16,
            "steps": 4000,
            "every": 4,
            "cool": "watch",
        },
        tried=("cool now",),
    ),
    "rate-too-high": Exhibit(
        "A learning rate that is too high: an MLP on Fashion-MNIST with momentum",
        lambda: load("fashion-mnist"),
        {
            "problem": "fashion-mnist",
            "learning_rate": 0.3,
            "momentum": 0.9,
            "steps": 800,
            "every": 2,
        },
        tried=("rate 0.25x",),
        at=1,
    ),
    "missing-value": Exhibit(
        "A loss spike: one image of 20,000 has a missing value",
        missing_value,
        {"problem": "gallery:missing_value", "epochs": 1, "every": 4},
    ),
    "small-batch": Exhibit(
        "A batch far below the noise scale: an MLP on Fashion-MNIST, B = 4",
        lambda: load("fashion-mnist"),
        {
            "problem": "fashion-mnist",
            "learning_rate": 0.02,
            "batch_size": 4,
            "steps": 2000,
            "every": 4,
        },
        tried=("batch 2x, rate 1.9x",),
    ),
}


def said(found: Diagnosis) -> list[str]:
    """What the page advises or warns of and what it means, else its first sentence; and what came of
    the advice."""
    urgent = [finding for finding in found.findings if finding.state in (State.ACT, State.LOOK)]
    sentences = [
        text
        for finding in urgent
        for text in (
            f"{say(finding).seen} {say(finding).means}",
            say(finding).advice and f"Try: {say(finding).advice} {say(finding).forecast}",
            say(finding).tried,
        )
    ]
    return [text.strip() for text in sentences if text] or [found.said]


def effects(fork: Fork) -> list[str]:
    """The effect of every alternative of a fork, if there is one."""
    lines = []
    for effect in fork.effects():
        value, low, high = (
            significant(end, 2)
            for end in (effect.estimate.value, effect.estimate.low, effect.estimate.high)
        )
        if effect.estimate.tells:
            lines.append(f"{effect.alternative}: {effect.verdict}, {value} [{low}, {high}]")
    return lines


def show(name: str, title: str, run: Run) -> None:
    """Write the page, and print what it says and what the forks say."""
    found = diagnose(run)
    print(f"{title}\n  {write_page(run, found)}")
    for sentence in said(found):
        print(textwrap.fill(sentence, 100, initial_indent="  - ", subsequent_indent="    "))
    for record in forks_of(run):
        if lines := effects(record.fork):
            print(f"  fork {record.name}, from step {record.plan.step:,}, change of the test loss:")
            print("".join(f"    {line}\n" for line in lines), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(EXHIBITS), metavar="NAME", help=", ".join(EXHIBITS)
    )
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder of the runs")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(EXHIBITS):
        parser.error(
            f"unknown NAME {sorted(unknown)[0]!r}: it must be one of {', '.join(EXHIBITS)}"
        )
    torch.set_num_threads(1)
    for name in asked.names:
        show(name, EXHIBITS[name].title, EXHIBITS[name].run(name, asked.out))


if __name__ == "__main__":
    main()
