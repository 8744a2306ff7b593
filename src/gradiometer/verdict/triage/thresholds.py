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

MOVED_FAST, GREW = 0.008, 4.0
"""Mean movement of a step and growth of the weights above which the rate is too high. Sick: 5.4 to 9.9; healthy: at
most 2.9; small training sets that are fitted for 15 epochs: 4.8 to 6.5, and then overfitting is the claim."""

FELL_BACK = 0.02
"""Mean movement of a step above which a loss that is still at a guess was kept there by the rate."""

AT_A_GUESS = 0.9
"""Share of a guess above which nothing was learnt."""

DEAD = 0.95
"""Share of zeros in the gradient of a weight tensor from the start, above which its units are dead."""

FEW_ENTRIES = 32
"""Tensors with fewer entries have no share of zeros: the gradient of a few weights is zero where a loss is flat."""

DIED = 0.12
"""Share of the entries of a gradient that were not zero at the start and still are not at the end, for the tensor with
fewest, below which a rate that was too high has killed units. Sick: 0.02 to 0.10; healthy: 0.47 and more; 0.15 with a
noisy constant rate."""

MOMENTUM_COUNTS = 0.8
"""Momentum from which it is the likely reason of weights that grow this much: the rate was meant for none. Sick: growth
of 5.4 and 7.9, and of 2.0 at three times a rate that was chosen with momentum."""

STILL_MOVING, LEFT_TO_GAIN = 0.01, 0.03
"""Movement of a step in the second half, and loss in units of a guess, above which a constant rate wants a decay. Sick:
0.0066 to 0.055. Of seven healthy trainings at a constant rate, a decay gained 11 to 13 % in two (0.0095 and 0.012), and
nothing in four of 0.008 to 0.0095."""

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

AFTER_THE_BEST = 4
"""Evaluations after the best one from which overfitting was not noticed: those who keep the best weights and stop wait
for about three."""

SORTED = 0.5
"""Classes in a batch over those expected from a shuffled order, below which the data are not shuffled. Sick: at most a
third."""

WIDE, FAR = 8.0, 3.0
"""Spread of the inputs, and their mean in spreads, above which they are not scaled."""

VANISHED, VANISHED_AT_REST, LONG_AT_A_GUESS = 0.1, 0.01, 0.2
"""Gradient of a weight in the first layer over that in the last, below which gradients vanish, if the weights travel
and if they do not, while the loss stays at a guess for more than this share of the run. Sick: 5e-9 to 0.072; healthy:
0.09 to 0.98, and at most 0.19; with a rate that is too low 0.06 to 0.12, and no travel."""

EXPLODED, WIDE_OUTPUTS = 3.0, 2.0
"""First loss in units of a guess, and spread of the first outputs, above which the start is too large."""

CLIPPED = 0.2
"""Median norm of the gradient after clipping over before, below which clipping is all that acts. Sick: 0.002 to
0.124."""

SHRANK, HELD_UP = 0.5, 0.3
"""Size of the weights over that at the start, and loss in units of a guess: weight decay wins against the loss."""

DECAY_SHARE, DECAY_LEFT = 0.04, 0.1
"""Share of the movement that is weight decay alone, and loss in units of a guess, above which it is too large. Sick:
0.05 to 1.6. For weights with a normalisation it settles at √(ηλ/2): 0.016 for the usual SGD of residual networks."""

FADED, FADED_FOR = 0.02, 0.25
"""A rate that falls by one factor at every step, and is below this share of its height for more than this share of the
run, falls in the wrong unit: meant once an epoch."""

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

BAD_RISE, NEXT_RISE = 1.5, 0.33
"""Rise of the loss of one step above all of the eight before it, in guesses, that only a bad batch makes; and the next
largest rise at another time, as a share of it: a rate that is too high makes many."""

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
