"""The data of the problems on which the choice of a learning rate was judged: pictures, texts,
tables, waves and walks.

Most are drawn from a seed. Labels and targets carry noise, so that the best final loss is well
above zero.
"""

from functools import cache

import torch
from now_runs import images, markov, teacher, text
from torch import Tensor
from torch.nn import functional

from gradiometer.problems import load

TRAIN, TEST = 2048, 2000
"""Examples of the larger problems."""

Data = tuple[Tensor, Tensor, Tensor, Tensor]
"""Inputs and targets to train on, and to test on."""

Pairs = tuple[Tensor, Tensor]


def relabelled(labels: Tensor, share: float) -> Tensor:
    """Labels of which a share is replaced by a random class out of ten."""
    generator = torch.Generator().manual_seed(11)
    drawn = torch.randint(10, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < share, drawn, labels)


@cache
def digits(wrong: float = 0.0) -> Data:
    """All digits, 8 x 8; a share of the labels is drawn at random."""
    problem = load("digits", model="mlp", data_dir=None, seed=0)
    assert problem.test is not None
    parts = []
    for examples in (problem.train, problem.test):
        pictures, labels = examples.batch(torch.arange(len(examples)))
        parts += [pictures.reshape(-1, 1, 8, 8), relabelled(labels, wrong)]
    return tuple(parts)


@cache
def fashion(wrong: float = 0.0) -> Data:
    """Fashion-MNIST at half its resolution, 14 x 14; a share of the labels is drawn at random."""
    pictures, labels = images("fashion-mnist", TRAIN + TEST)
    return split(functional.avg_pool2d(pictures, 2), relabelled(labels, wrong))


def split(inputs: Tensor, targets: Tensor) -> Data:
    """The first examples to train on, the next ones to test on."""
    return (
        inputs[:TRAIN],
        targets[:TRAIN],
        inputs[TRAIN : TRAIN + TEST],
        targets[TRAIN : TRAIN + TEST],
    )


def to_itself(data: Data) -> Data:
    """The inputs as the targets."""
    return data[0], data[0].flatten(1), data[2], data[2].flatten(1)


@cache
def chain(length: int, symbols: int) -> Data:
    """One-hot symbols of a random chain of the second order."""
    return letters(markov(TRAIN + TEST, length, symbols), symbols)


@cache
def prose(length: int) -> Data:
    """Python's own help texts: the letters, of either case, and one symbol for everything else."""
    inputs, targets = (fewer(codes) for codes in text(TRAIN + TEST, length))
    return letters((inputs, targets), 27)


def fewer(codes: Tensor) -> Tensor:
    """Character codes as 0 to 25 for the letters, and 26."""
    lower = torch.where((codes >= ord("A")) & (codes <= ord("Z")), codes + 32, codes)
    return torch.where((lower >= ord("a")) & (lower <= ord("z")), lower - ord("a"), 26)


def letters(data: Pairs, symbols: int) -> Data:
    """The stretches of a text in random order, one-hot."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(13))
    inputs, targets = (part[order] for part in data)
    return split(functional.one_hot(inputs, symbols).float(), targets)


@cache
def drawn_classes() -> Data:
    """Gaussian inputs of very different sizes, and classes drawn from a linear model."""
    generator = torch.Generator().manual_seed(17)
    sizes = torch.logspace(-1, 0.5, 30)
    inputs = sizes * torch.randn(TRAIN + TEST, 30, generator=generator)
    weights = torch.randn(30, 5, generator=generator) / sizes[:, None] / 3
    return split(
        inputs + 0.5, torch.multinomial((inputs @ weights).softmax(1), 1, generator=generator)[:, 0]
    )


def least_squares(spectrum: Tensor, heavy: bool, noise: float) -> Data:
    """Inputs whose second moments have this spectrum, in a random basis, and noisy targets of a
    linear model.

    The hidden weights are as large in flat directions as the loss makes visible: each direction
    holds the same loss.
    """
    generator = torch.Generator().manual_seed(19)
    size = len(spectrum)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    inputs = torch.randn(TRAIN + TEST, size, generator=generator)
    if heavy:  # each example has a size of its own
        inputs = inputs * (torch.randn(TRAIN + TEST, 1, generator=generator) / 2).exp()
    inputs = inputs * spectrum.sqrt()
    targets = inputs @ (spectrum**-0.5 / size**0.5)
    targets = targets + noise * torch.randn(TRAIN + TEST, generator=generator)
    return split(inputs @ basis, targets[:, None])


@cache
def taught() -> Data:
    """A regression on what a random network answers, with noise."""
    return split(*teacher(TRAIN + TEST, 16))


@cache
def gratings() -> Data:
    """Pictures of 8 x 8 with noisy waves of random phases and lengths, in ten directions, which are
    the classes."""
    generator = torch.Generator().manual_seed(23)
    count = TRAIN + TEST
    labels = torch.randint(10, (count,), generator=generator)
    phases, lengths = (
        2 * torch.pi * torch.rand(count, generator=generator),
        3 + 2 * torch.rand(count, generator=generator),
    )
    angles = (torch.pi * labels / 10)[:, None, None]
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    places = rows * angles.sin() + columns * angles.cos()
    waves = (2 * torch.pi * places / lengths[:, None, None] + phases[:, None, None]).sin()
    return split((waves + 0.7 * torch.randn(count, 8, 8, generator=generator))[:, None], labels)


@cache
def motifs(length: int, symbols: int) -> Data:
    """One-hot stretches that repeat a short random motif; one symbol in ten is random."""
    generator = torch.Generator().manual_seed(29)
    count = TRAIN + TEST
    periods = torch.randint(3, 6, (count, 1), generator=generator)
    motif = torch.randint(symbols, (count, 5), generator=generator)
    codes = motif.gather(1, torch.arange(length + 1) % periods)
    drawn = torch.randint(symbols, codes.shape, generator=generator)
    codes = torch.where(torch.rand(codes.shape, generator=generator) < 0.1, drawn, codes)
    return letters((codes[:, :-1], codes[:, 1:]), symbols)


@cache
def bent() -> Data:
    """Points near a curved surface of four dimensions in 24, with noise. The targets
    are not used."""
    generator = torch.Generator().manual_seed(31)
    inner = torch.randn(TRAIN + TEST, 4, generator=generator)
    points = (inner @ torch.randn(4, 24, generator=generator)).tanh()
    return split(points + 0.1 * torch.randn(points.shape, generator=generator), inner)


@cache
def blobs() -> Data:
    """Six classes, each of three Gaussian clouds in 20 dimensions that overlap with those of other
    classes."""
    generator = torch.Generator().manual_seed(37)
    count = TRAIN + TEST
    clouds = torch.randint(18, (count,), generator=generator)
    centres = torch.randn(18, 20, generator=generator)
    return split(centres[clouds] + 0.9 * torch.randn(count, 20, generator=generator), clouds % 6)


@cache
def sums(length: int, symbols: int) -> Data:
    """One-hot stretches in which a symbol is the sum of the two before it, or, one time in five,
    random."""
    generator = torch.Generator().manual_seed(41)
    codes = torch.randint(symbols, (TRAIN + TEST, length + 1), generator=generator)
    drawn = torch.rand(codes.shape, generator=generator) < 0.2
    for place in range(2, length + 1):
        summed = (codes[:, place - 1] + codes[:, place - 2]) % symbols
        codes[:, place] = torch.where(drawn[:, place], codes[:, place], summed)
    return letters((codes[:, :-1], codes[:, 1:]), symbols)


@cache
def tables() -> Data:
    """Rows of 12 yes-or-no columns and 12 log-normal ones, and four noisy classes that depend on
    pairs of them."""
    generator = torch.Generator().manual_seed(43)
    count = TRAIN + TEST
    flags = (torch.rand(count, 12, generator=generator) < torch.linspace(0.1, 0.9, 12)).float()
    sizes = torch.randn(count, 12, generator=generator)
    weights = torch.randn(24, 4, generator=generator) / 2
    crossed = flags * sizes.roll(3, dims=1)
    scores = torch.cat([flags - 0.5, sizes], dim=1) @ weights + crossed @ torch.randn(
        12, 4, generator=generator
    )
    labels = torch.multinomial((1.5 * scores).softmax(1), 1, generator=generator)[:, 0]
    return split(torch.cat([flags, (sizes / 2).exp() - 1], dim=1), labels)


@cache
def corners() -> Data:
    """Pictures of 8 x 8 with two bright bars that meet at a random place; the ten classes are pairs
    of directions."""
    generator = torch.Generator().manual_seed(47)
    count = TRAIN + TEST
    labels = torch.randint(10, (count,), generator=generator)
    pairs = torch.combinations(torch.arange(5), 2)[labels]
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    middles = 2.5 + 3 * torch.rand(count, 2, 1, 1, generator=generator)
    down, across = rows - middles[:, 0], columns - middles[:, 1]
    pictures = 0.5 * torch.randn(count, 8, 8, generator=generator)
    for which in range(2):
        angles = (2 * torch.pi * pairs[:, which] / 5)[:, None, None]
        along = down * angles.sin() + across * angles.cos()
        beside = across * angles.sin() - down * angles.cos()
        pictures += (beside.abs() < 0.8).float() * (along > -0.5).float()
    return split(pictures[:, None], relabelled(labels, 0.1))


@cache
def nested(length: int) -> Data:
    """One-hot stretches of brackets of three kinds, nested at most six deep and closed in order,
    and blanks."""
    generator = torch.Generator().manual_seed(53)
    texts = []
    for _ in range(TRAIN + TEST):
        draws, kinds = (
            torch.rand(length + 1, generator=generator),
            torch.randint(3, (length + 1,), generator=generator),
        )
        opened, codes = list[int](), list[int]()
        for draw, kind in zip(draws.tolist(), kinds.tolist(), strict=True):
            if draw < 0.1:
                codes.append(6)
            elif opened and (draw < 0.5 or len(opened) == 6):
                codes.append(3 + opened.pop())
            else:
                opened.append(kind)
                codes.append(kind)
        texts.append(codes)
    codes = torch.tensor(texts)
    return letters((codes[:, :-1], codes[:, 1:]), 7)


@cache
def tones() -> Data:
    """Stretches of 32 samples of two decaying tones of random pitch, with noise. The targets are
    not used."""
    generator = torch.Generator().manual_seed(59)
    count = TRAIN + TEST
    drawn = torch.rand(count, 2, 3, generator=generator)
    times = torch.arange(32.0)
    pitches, phases = 0.1 + 0.8 * drawn[..., :1], 2 * torch.pi * drawn[..., 1:2]
    waves = (pitches * times + phases).sin() * (-times * drawn[..., 2:] / 20).exp()
    return split(waves.sum(1) + 0.1 * torch.randn(count, 32, generator=generator), phases)


@cache
def topics() -> Data:
    """Counts of 36 words in texts of about 25, as logarithms, and one of its eight topics, drawn by
    their shares."""
    generator = torch.Generator().manual_seed(61)
    count = TRAIN + TEST
    words = (1.2 * torch.randn(8, 36, generator=generator)).softmax(1)
    shares = (1.5 * torch.randn(count, 8, generator=generator)).softmax(1)
    counts = torch.poisson(25 * shares @ words, generator=generator)
    return split(counts.log1p(), torch.multinomial(shares, 1, generator=generator)[:, 0])


@cache
def spirals() -> Data:
    """Five arms of a noisy spiral, seen in 16 dimensions through random waves."""
    generator = torch.Generator().manual_seed(67)
    count = TRAIN + TEST
    labels = torch.randint(5, (count,), generator=generator)
    along = torch.rand(count, generator=generator)
    turns = 2 * torch.pi * (labels / 5 + 0.6 * along)
    points = (0.3 + along)[:, None] * torch.stack([turns.cos(), turns.sin()], dim=1)
    points = points + 0.05 * torch.randn(count, 2, generator=generator)
    waves, phases = (
        2 * torch.randn(2, 16, generator=generator),
        2 * torch.pi * torch.rand(16, generator=generator),
    )
    return split((points @ waves + phases).sin(), relabelled(labels, 0.1) % 5)


@cache
def shapes() -> Data:
    """Pictures of 8 x 8 with a shape of random place and size, and noise; ten classes: five shapes,
    full or hollow."""
    generator = torch.Generator().manual_seed(71)
    count = TRAIN + TEST
    labels = torch.randint(10, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    middles = 2.5 + 2 * torch.rand(count, 2, 1, 1, generator=generator)
    sizes = 1.8 + 0.9 * torch.rand(count, 1, 1, generator=generator)
    down, across = (rows - middles[:, 0]) / sizes, (columns - middles[:, 1]) / sizes
    far, near = torch.maximum(down.abs(), across.abs()), torch.minimum(down.abs(), across.abs())
    triangle = torch.maximum(down, across.abs() - (1 + down) / 2)
    reach = torch.stack(
        [far, down.hypot(across), far + near, 0.6 * far + 2 * near, triangle], dim=1
    )
    reach = reach[torch.arange(count), labels % 5]
    drawn = (reach < 1) & ((labels < 5)[:, None, None] | (reach > 0.45))
    pictures = drawn.float() + 0.3 * torch.randn(count, 8, 8, generator=generator)
    return split(pictures[:, None], labels)


@cache
def mirrored(half: int, symbols: int) -> Data:
    """One-hot stretches whose second half is the first half in reverse, one symbol in eight of it
    replaced."""
    generator = torch.Generator().manual_seed(73)
    odds = torch.arange(1, symbols + 1.0).reciprocal().expand(TRAIN + TEST, symbols)
    codes = torch.multinomial(odds, half, replacement=True, generator=generator)
    drawn = torch.multinomial(odds, half, replacement=True, generator=generator)
    wrong = torch.rand(codes.shape, generator=generator) < 0.125
    codes = torch.cat([codes, torch.where(wrong, drawn, codes.flip(1))], dim=1)
    return letters((codes[:, :-1], codes[:, 1:]), symbols)


@cache
def walks() -> Data:
    """Random walks of 40 steps, each step partly like the one before. The targets are not used."""
    generator = torch.Generator().manual_seed(79)
    steps = torch.randn(TRAIN + TEST, 40, generator=generator)
    for place in range(1, 40):
        steps[:, place] += 0.7 * steps[:, place - 1]
    return split(steps.cumsum(1) / 10, steps)


@cache
def surveys() -> Data:
    """Answers from -2 to 2 to 40 questions, which depend on seven hidden traits, and six noisy
    yes-or-no outcomes."""
    generator = torch.Generator().manual_seed(83)
    count = TRAIN + TEST
    traits = torch.randn(count, 7, generator=generator)
    loads = torch.randn(7, 40, generator=generator) / 2
    leaning = torch.linspace(-1, 1, 40)
    answers = (
        (traits @ loads + leaning + 0.7 * torch.randn(count, 40, generator=generator))
        .round()
        .clamp(-2, 2)
    )
    odds = (1.5 * traits @ torch.randn(7, 6, generator=generator) - 0.5).sigmoid()
    return split(answers, torch.bernoulli(odds, generator=generator))


@cache
def pendulums() -> Data:
    """Two pendulums that a spring joins: angles, speeds, spring and friction, and the same angles
    and speeds later.

    The later values carry errors, a few of them large.
    """
    generator = torch.Generator().manual_seed(89)
    count = TRAIN + TEST
    angles, speeds = (1.2 * torch.randn(count, 2, generator=generator) for _ in range(2))
    spring, friction = torch.rand(2, count, 1, generator=generator)
    inputs = torch.cat([angles, speeds, 2 * spring - 1, 2 * friction - 1], dim=1)
    for _ in range(40):
        pull = 2 * spring * (angles.flip(1) - angles)
        speeds = speeds + 0.05 * (pull - angles.sin() - friction * speeds)
        angles = angles + 0.05 * speeds
    errors = torch.randn(count, 4, generator=generator)
    large = torch.rand(count, 4, generator=generator) < 0.05
    return split(inputs, torch.cat([angles, speeds], dim=1) + torch.where(large, 2.0, 0.4) * errors)


@cache
def profiles() -> Data:
    """Fashion-MNIST as the mean brightness of its 28 rows and 28 columns, centred; one label in ten
    is random."""
    pictures, labels = images("fashion-mnist", TRAIN + TEST)
    means = torch.cat([pictures.mean(3), pictures.mean(2)], dim=2).flatten(1)
    return split((means - means.mean(0)) / means.std(), relabelled(labels, 0.1))


@cache
def overlaid() -> Data:
    """Fashion-MNIST without its border, 12 x 12, under a fainter picture, mirrored; the class is
    the brighter one's."""
    pictures, labels = images("fashion-mnist", 2 * (TRAIN + TEST))
    small = functional.avg_pool2d(pictures[:, :, 2:26, 2:26], 2)
    above, below = small.split(TRAIN + TEST)
    return split(above + 0.4 * below.flip(3), labels[: TRAIN + TEST])


@cache
def moves() -> Data:
    """Three pictures of 8 x 8 of a soft spot that moves in one of eight directions or rests, the
    nine classes.

    The pictures are noisy, and one label in ten is random.
    """
    generator = torch.Generator().manual_seed(97)
    count = TRAIN + TEST
    labels = torch.randint(9, (count,), generator=generator)
    speeds = torch.where(labels < 8, 0.8 + 0.6 * torch.rand(count, generator=generator), 0.0)[
        :, None
    ]
    times = torch.arange(-1.0, 2.0)
    start = 2.5 + 2 * torch.rand(2, count, 1, generator=generator)
    turns = (torch.pi * labels / 4)[:, None]
    down, across = start[0] + speeds * turns.sin() * times, start[1] + speeds * turns.cos() * times
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    far = (rows - down[..., None, None]).square() + (columns - across[..., None, None]).square()
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return split((-far / 3).exp() + 0.3 * noise, relabelled(labels, 0.1) % 9)


@cache
def dialects(length: int, symbols: int) -> Data:
    """One-hot stretches, each from one of four random chains of the first order."""
    generator = torch.Generator().manual_seed(101)
    count = TRAIN + TEST
    odds = (2 * torch.randn(4, symbols, symbols, generator=generator)).softmax(2)
    which = torch.randint(4, (count,), generator=generator)
    codes = [torch.randint(symbols, (count,), generator=generator)]
    for _ in range(length):
        codes.append(torch.multinomial(odds[which, codes[-1]], 1, generator=generator)[:, 0])
    stretches = torch.stack(codes, dim=1)
    return letters((stretches[:, :-1], stretches[:, 1:]), symbols)


@cache
def spectra() -> Data:
    """Spectra of 48 places with three peaks of random place, width and height, and noise. The
    targets are not used."""
    generator = torch.Generator().manual_seed(103)
    drawn = torch.rand(TRAIN + TEST, 3, 3, generator=generator)
    places, widths, heights = (
        6 + 36 * drawn[..., :1],
        2 + 3 * drawn[..., 1:2],
        0.5 + 1.5 * drawn[..., 2:],
    )
    peaks = heights * (-((torch.arange(48.0) - places) / widths).square() / 2).exp()
    return split(peaks.sum(1) + 0.1 * torch.randn(TRAIN + TEST, 48, generator=generator), places)


@cache
def categories() -> Data:
    """Three columns of 16 categories, of which a few are frequent, one-hot, and a noisy sum of
    their effects."""
    generator = torch.Generator().manual_seed(107)
    count = TRAIN + TEST
    odds = torch.arange(1, 17.0).reciprocal()
    chosen = torch.multinomial(odds, 3 * count, replacement=True, generator=generator).view(
        count, 3
    )
    inputs = functional.one_hot(chosen, 16).float().flatten(1)
    effects = torch.randn(48, 1, generator=generator)
    return split(inputs, inputs @ effects + 0.7 * torch.randn(count, 1, generator=generator))
