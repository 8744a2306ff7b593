"""What would have happened with another learning rate or batch? A fork of a training loop of your
own.

    python examples/fork_own_loop.py        half a minute

A small network learns digits with AdamW and a cosine schedule. After a third of the training the
loop asks `fork` what
other settings would have given: each alternative is trained from here on copies, on the same data,
with its rate going to zero, in four data orders. The training itself then continues as if nothing
had been asked.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import supervised
from gradiometer.loop import Fork, Loop, fork
from gradiometer.problems import load

EPOCHS, FORKED_AFTER, BATCH = 12, 4, 32
ALTERNATIVES = ["rate 0.25x", "rate 2x", "batch 2x, rate 1.41x", "weight decay 0.1", "cool now"]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load("digits", model="mlp")
    loader = DataLoader(TensorDataset(*digits.train.data), batch_size=BATCH, shuffle=True)
    model, loss = digits.model(), supervised(nn.CrossEntropyLoss(reduction="none"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        if epoch == FORKED_AFTER:
            loop = Loop(
                model,
                optimizer,
                loss=loss,
                batches=loader,
                evaluate=digits.test,
                scheduler=scheduler,
                left=f"{EPOCHS - epoch} epochs",
                index=epoch * len(loader),
            )
            show(fork(loop, ALTERNATIVES, horizon="25%"))
        for batch in loader:
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            optimizer.step()
            scheduler.step()


def show(found: Fork) -> None:
    """The effects as a table, and the clearest of them in a sentence."""
    length = f"{found.replicates} data orders of {found.horizon:,} examples"
    print(f"From step {found.step}, {length}. Test loss minus that of {found.names[0]!r}:")
    effects = found.effects("test_loss")
    for effect in effects:
        end = effect.estimate
        print(
            f"  {effect.alternative:22} {end.value:+.3f} [{end.low:+.3f}, {end.high:+.3f}]  "
            f"{effect.verdict}"
        )
    better = [effect for effect in effects if effect.verdict == "better"]
    best = min(better, key=lambda effect: effect.estimate.value, default=None)
    print(
        "None of these was shown to be better than to go on as it is."
        if best is None
        else f"{best.alternative!r} would have ended {-best.estimate.value:.3f} lower."
    )


if __name__ == "__main__":
    main()
