"""The thresholds of triage, all in this file, each with the measurement that chose it.

"The clinic" is a set of small trainings with one known illness each and of healthy ones, of 300 to 1,000 steps, on
digits, small images, tables and text, with MLPs, CNNs, residual, recurrent and attention networks, under SGD, momentum,
Adam and AdamW. Losses are in units of a guess, and movements in units of the weights.
"""

SAME_LOSS = 0.01
"""Relative difference of two losses of one batch that is rounding, bfloat16 included."""

TRAVEL, MOVED_SLOWLY = 0.6, 0.003
"""Travel of the weights, and mean movement of a step, below which the rate is too low. Sick: 0.04 to 0.44, and 0.0001
to 0.0017; healthy: 0.7 to 27, and 0.0018 to 0.07. A training that was stopped early travels as little, in faster
steps."""

LEARNT = 0.05
"""Share of a guess that leaves nothing to gain from a higher rate, however little the weights moved."""

MOVED_FAST, GREW, LEAPT = 0.008, 5.0, 0.35
"""Mean movement of a step, growth of the weights and, for adaptive optimizers, largest movement of one step above which
the rate is too high. Growth alone is not enough for these: weights that begin small grow by 6 to 8 with a right rate,
and by 5.0 at a constant one. Sick: growth 5.2 to 100, largest movement 0.40 to 0.69; healthy: growth at most 4.2,
largest movement at most 0.23, and 0.32 for weights that begin small."""

FELL_BACK = 0.02
"""Mean movement of a step above which a loss that is still at a guess was kept there by the rate."""

AT_A_GUESS = 0.9
"""Share of a guess above which nothing was learnt."""

LEFT_A_GUESS = 1.5
"""Loss at the end, in guesses, above which a training has not stayed at a guess: it went up."""

DEAD = 0.95
"""Share of zeros in the gradient of a weight tensor from the start, above which its units are dead."""

FEW_ENTRIES = 32
"""Tensors with fewer entries have no share of zeros: the gradient of a few weights is zero where a loss is flat."""

DIED = 0.1
"""Share of the entries of a gradient that were not zero at the start and still are not at the end, for the tensor with
fewest, below which a rate that was too high has killed units. Sick: 0.00 to 0.04; healthy: 0.47 and more; 0.23 at a
constant rate and 0.12 with noisy labels."""

MOMENTUM_COUNTS = 0.95
"""Momentum from which it is the likely reason of a rate that is too high: that was meant for less. At the usual 0.9, a
rate that is too high for it looks the same and is as likely."""

STILL_MOVING, LEFT_TO_GAIN, LONG_TRAVEL = 0.01, 0.03, 3.5
"""Movement of a step in the second half, loss in units of a guess, and travel above which a constant rate wants a
decay. Sick: 0.0066 to 0.067, and 4.0 to 27. At healthy constant rates a decay gained 5 to 19 % at 0.010 to 0.0125 after
a travel of 5 to 6, and lost 9 and 35 % after one of 2 to 3; at 0.008 to 0.0095 it gained nothing in four of five."""

SHORT_TRAVEL = 1.5
"""Travel below which a loss that still falls speaks for more steps, and above which for a decay. Sick: 0.4 and 1.0
(stopped early), 4.0 to 27 (no decay)."""

DECAYED, DECAYED_FOR = 0.02, 0.5
"""A rate below this share of its height, for more than this share of the run, decayed too early."""

STILL_FALLING, FEW_EPOCHS = 0.08, 2.0
"""A loss that fell by more than this in the second half, in fewer passes over the data, was stopped early."""

SMALL_BATCH, ALL_NOISE = 4, 0.1
"""Batches of at most so many examples, whose successive gradients share less than this, are too small."""

FEW_UPDATES, NO_NOISE = 12.0, 0.18
"""Updates in an epoch, and share of successive gradients, from which a batch is too large. Sick: 5 to 12, 0.21 to 0.97;
small training sets that are overfitted: 6 to 9, 0.07 to 0.18."""

BEST_BEFORE, ROSE, ABOVE_TRAINING = 0.7, 1.15, 1.3
"""Overfitting: the lowest test loss is before this share of the run, is now higher by this factor, and above training
by this one."""

SEEN_AGAIN = 2.0
"""Passes over the data below which nothing is overfitted: most rows were seen once. A rate that is too high raised the
test loss to 1.75 of its best in 1.1."""

AFTER_THE_BEST = 4
"""Evaluations after the best one from which overfitting was not noticed: those who keep the best weights and stop wait
for about three."""

SORTED = 0.5
"""Classes in a batch over those expected from a shuffled order, below which the data are not shuffled. Sick: at most a
third."""

WIDE, FAR = 5.0, 3.0
"""Spread of the inputs, and their mean in spreads, above which they are not scaled. Sick: 7.1 with every second column
ten times as large."""

VANISHED, VANISHED_AT_REST, LONG_AT_A_GUESS = 0.05, 0.01, 0.2
"""Gradient of a weight in the layer where it is smallest over that in the last, below which gradients vanish, if the
weights travel and if they do not, at the start and while the loss stays at a guess for more than this share of the run.
A rate that is too high kills units later, from a ratio of 0.2 to 0.9. Sick: at most 0.004; healthy: 0.09 and more, also
with attention; outputs that are far too wide: 0.04, and no travel."""

EXPLODED, WIDE_OUTPUTS = 3.0, 2.0
"""First loss in units of a guess, and spread of the first outputs, above which the start is too large."""

CLIPPED = 0.2
"""Median norm of the gradient after clipping over before, below which clipping is all that acts. Sick: 0.002 to
0.124."""

SHRANK, HELD_UP = 0.5, 0.3
"""Size of the weights over that at the start, and loss in units of a guess: weight decay wins against the loss."""

DECAY_SHARE, DECAY_LEFT, DECAY_MOSTLY = 0.04, 0.1, 0.25
"""Share of the movement that is weight decay alone, and loss in units of a guess, above which it is too large for SGD;
and the share from which it is so for every optimizer and at any loss that leaves something to gain. Sick: 0.045 to 0.46
with SGD, 0.32 to 1.4 with AdamW; healthy AdamW with a decay of 0.05: 0.05 to 0.093. For weights with a normalisation it
settles at √(ηλ/2): 0.016 for the usual SGD of residual networks."""

FADED, FADED_FOR = 0.02, 0.25
"""A rate that falls by one factor at every step, and is below this share of its height for more than this share of the
run, falls in the wrong unit: meant once an epoch."""

RANDOM = 0.97
"""Share of a guess that the test loss never falls below if the labels have nothing to do with the inputs."""

NOISY, NOISY_BY = 0.85, 0.07
"""Test loss over training loss, and how far below it lies in units of a guess, from which the training labels are
noisier than those of the test. Sick: 0.36 to 0.81, by 0.1 and more; healthy: down to 0.71 by chance where both are
small, by at most 0.04."""

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

BAD_RISE, NEXT_RISE, LEARNT_BEFORE = 2.0, 0.33, 0.6
"""Rise of the loss of one step above all of the eight before it, in guesses, that only a bad batch makes; the next
largest rise at another time, as a share of it: a rate that is too high makes many; and the largest loss of these eight,
in guesses: a rate that is too high leaps before much is learnt. Sick: rise 42 from at most 0.4; too high a rate: 1.6
from 0.3, and 10 from 1.2."""

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
