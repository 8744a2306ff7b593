"""The instrument in a loop of your own: `python examples/own_loop.py` trains on digits and ends in a
sentence for each finding, the most urgent first.

The lines with `watch`, `step` and `findings` are ours. With and without them the weights are
the same bits.
"""

import torch
from torch import nn

from gradiometer import Draw, Sampling, say, watch
from gradiometer.problems import load

EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 32, 0.1


def main() -> None:
    torch.manual_seed(0)
    digits = load("digits")
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    sampling = Sampling(Draw.RESHUFFLED, len(digits.train))
    with watch(
        model, optimizer, loss=digits.loss, name="own-loop", sampling=sampling, budget=0.5
    ) as w:
        for _ in range(EPOCHS):
            for index in torch.randperm(len(digits.train)).split(BATCH_SIZE):
                batch = digits.train.batch(index)
                optimizer.zero_grad()
                loss = digits.loss(model, batch).mean()
                loss.backward()
                w.step(loss, batch)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    for finding in w.findings():
        print(say(finding).seen)


if __name__ == "__main__":
    main()
