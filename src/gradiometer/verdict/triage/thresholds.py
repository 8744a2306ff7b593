"""The thresholds of triage, all in this file, each with the measurement that chose it.

"The clinic" is a set of small trainings with one known illness each and of healthy ones, of 300 to 1,000 steps, on
digits, small images, tables and text, with MLPs, CNNs, residual, recurrent and attention networks, under SGD, momentum,
Adam and AdamW. Losses are in units of a guess, and movements in units of the weights.
"""

SAME_LOSS = 0.01
"""Relative difference of two losses of one batch that is rounding, bfloat16 included."""

TRAVEL = 0.35
"""Travel of the weights below which the rate is too low. Sick: 0.04 to 0.28; healthy: 1.5 to 5.4."""

LEARNT = 0.05
"""Share of a guess that leaves nothing to gain from a higher rate, however little the weights moved."""

MOVED_FAST, GREW = 0.02, 2.0
"""Mean movement of a step and growth of the weights above which the rate is too high."""

MOMENTUM_HIGH, MOVED_FAST_WITH_MOMENTUM = 0.95, 0.008
"""At this momentum a rate is too high from a smaller movement on: each gradient counts 1/(1 − μ) times."""

AT_A_GUESS = 0.9
"""Share of a guess above which nothing was learnt."""

DEAD = 0.95
"""Share of zeros in the gradient of a weight tensor from the start, above which its units are dead."""

DIED = 0.9
"""The same at the end, by a rate that was too high."""

STILL_MOVING, LEFT_TO_GAIN = 0.0075, 0.03
"""Movement of a step in the second half, and loss in units of a guess, above which a constant rate wants a decay."""

DECAYED, DECAYED_FOR = 0.02, 0.5
"""A rate below this share of its height, for more than this share of the run, decayed too early."""

STILL_FALLING, FEW_EPOCHS = 0.08, 2.0
"""A loss that fell by more than this in the second half, in fewer passes over the data, was stopped early."""

SMALL_BATCH, ALL_NOISE = 4, 0.1
"""Batches of at most so many examples, whose successive gradients share less than this, are too small."""

FEW_UPDATES, NO_NOISE = 8.0, 0.5
"""Updates in an epoch, and share of successive gradients, from which a batch is too large. Sick: 0.74 to 0.97; healthy:
at most 0.2."""

BEST_BEFORE, ROSE, ABOVE_TRAINING = 0.7, 1.15, 1.3
"""Overfitting: the lowest test loss is before this share of the run, is now higher by this factor, and above training
by this one."""

SORTED = 0.5
"""Classes in a batch over those expected from a shuffled order, below which the data are not shuffled. Sick: at most a
third."""

WIDE, FAR = 8.0, 5.0
"""Spread of the inputs, and their mean in spreads, above which they are not scaled."""

VANISHED = 0.01
"""Gradient of a weight in the first layer over that in the last, at a guess, below which gradients vanish."""

EXPLODED, WIDE_OUTPUTS = 3.0, 3.0
"""First loss in units of a guess, and spread of the first outputs, above which the start is too large."""

CLIPPED = 0.1
"""Median norm of the gradient after clipping over before, below which clipping is all that acts."""

SHRANK, HELD_UP = 0.5, 0.3
"""Size of the weights over that at the start, and loss in units of a guess: weight decay wins against the loss."""

RANDOM = 0.97
"""Share of a guess that the test loss never falls below if the labels have nothing to do with the inputs."""

NOISY = 0.7
"""Test loss over training loss below which the training labels are noisier than those of the test."""

DROPPED = 0.8
"""Share of dropout above which too little is left."""

MOST = 0.8
"""Share of the looks at which an exact fault must be seen, to be more than a passing state."""

STALE = 1e-3
"""`.grad` before `backward`, in units of that after it, below which it was zero."""

UNDIVIDED = 0.3
"""The number that `backward` was called on is the mean loss of a micro-batch, not a part of it, within this."""

BURST, BURST_SHARE = 5.0, 0.05
"""A rate this many times its neighbours, for less than this share of the run, is a burst."""

BAD_RISE = 1.5
"""The loss of one step over the mean of its neighbours, in units of a guess above it, that only a bad batch makes."""

PER_STEP, STRAIGHT = 0.002, 0.05
"""Fall of the logarithm of the rate at every step, and largest distance from a straight line, of a constant factor:
rates are recorded when they have changed by 1 %."""

CLEARED = 0.25
"""Share of the looks at which `.grad` still held earlier gradients, from which that is the loop's habit."""

LEAKED, NEARLY_ALL = 0.05, 0.9
"""Share of the rows of an evaluation that were trained on; and of the calls of the model with such rows, if training
rows are evaluated as well: their calls have them anyway."""

FEWEST_LOOKS = 5
"""Looks before anything that is not exact is said."""

FEWEST_STEPS = 50
"""Steps before anything is said about rates, noise or the length."""
