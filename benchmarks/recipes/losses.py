"""The losses of the recipes, each as its author's loop computes it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.data import Rows


def classes(model: nn.Module, batch: Rows) -> Tensor:
    """Cross-entropy of labels."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs), labels)


def smoothed(model: nn.Module, batch: Rows) -> Tensor:
    """The same with a tenth of each label over all classes."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs), labels, label_smoothing=0.1)


def tokens(model: nn.Module, batch: Rows) -> Tensor:
    """Cross-entropy of the next token at each place."""
    inputs, targets = batch
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def carried(model: nn.Module, batch: Rows) -> Tensor:
    """The same, from the state that the batch brings; from zero where it brings none."""
    return carried_on(model, batch)[0]


def carried_on(model: nn.Module, batch: Rows) -> tuple[Tensor, Rows]:
    """The same, with the state that the next batch goes on from."""
    inputs, targets, *state = batch
    logits, after = model(inputs, *state)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), after


def masked(model: nn.Module, batch: Rows) -> Tensor:
    """Cross-entropy of 15 % of the tokens, which the network does not see (BERT)."""
    inputs = batch[0]
    hidden = torch.rand(inputs.shape) < 0.15
    logits = model(inputs.masked_fill(hidden, 64))
    return functional.cross_entropy(logits[hidden], inputs[hidden])


def spelled(model: nn.Module, batch: Rows) -> Tensor:
    """Cross-entropy of the letters of a word, without what fills it up."""
    source, target = batch
    logits = model(source, target)
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0)


def skip_gram(model: nn.Module, batch: Rows) -> Tensor:
    """A neighbour against five words drawn at random, summed as word2vec updates by pairs.

    Words are drawn evenly by rank to the power 3/4, near word2vec's unigram table.
    """
    centre, neighbour = batch
    drawn = (999 * torch.rand(len(centre), 5) ** 2).long() + 1
    scores = model(centre, torch.cat([neighbour.unsqueeze(1), drawn], dim=1))
    truth = functional.one_hot(torch.zeros_like(centre), 6).float()
    return functional.binary_cross_entropy_with_logits(scores, truth, reduction="sum") / len(centre)


def values(model: nn.Module, batch: Rows) -> Tensor:
    """Squared error of one number a row."""
    inputs, targets = batch
    return functional.mse_loss(model(inputs).squeeze(1), targets)


def pictures(model: nn.Module, batch: Rows) -> Tensor:
    """Squared error of each pixel of another picture."""
    inputs, targets = batch
    return functional.mse_loss(model(inputs), targets)


def returns(model: nn.Module, batch: Rows) -> Tensor:
    """Huber's loss of the return after an action."""
    states, actions, targets = batch
    return functional.smooth_l1_loss(model(states, actions), targets)


def rebuilt(model: nn.Module, batch: Rows) -> Tensor:
    """Squared error of a picture that passed through a code."""
    inputs = batch[0]
    return functional.mse_loss(model(inputs), inputs.flatten(1))


def evidence(model: nn.Module, batch: Rows) -> Tensor:
    """The negative evidence bound of a VAE, in nats a picture."""
    inputs = batch[0].flatten(1)
    logits, mean, log_variance = model(inputs)
    rebuilding = functional.binary_cross_entropy_with_logits(logits, inputs, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
    return (rebuilding + divergence) / len(inputs)


def noise_found(model: nn.Module, batch: Rows) -> Tensor:
    """Huber's loss of the noise that was put into a picture, at a random time of diffusion."""
    images = 2 * functional.pad(batch[0], (1, 1, 1, 1)) - 1
    time = torch.randint(len(model.alphas), (len(images),))
    kept = model.alphas[time][:, None, None, None]
    noise = torch.randn_like(images)
    found = model(kept.sqrt() * images + (1 - kept).sqrt() * noise, time)
    return functional.smooth_l1_loss(found, noise)


def contrastive(model: nn.Module, batch: Rows) -> Tensor:
    """Pairs of one kind close together, others at least 1 apart (Hadsell et al., 2006)."""
    first, second, same = batch
    distance = model(first, second)
    apart = functional.relu(1 - distance) ** 2
    return (same * distance**2 + (1 - same) * apart).mean()
