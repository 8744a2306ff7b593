"""The thresholds of triage, all in this file, each with the measurement that chose it.

"The clinic" is a set of small trainings with one known illness each and of healthy ones, of 300 to
1,000 steps, on digits, small images, tables and text, with MLPs, CNNs, residual, recurrent and
attention networks, under SGD, momentum, Adam and AdamW. Losses are in units of a guess, and
movements in units of the weights.
"""

# Relative difference of two losses of one batch that is rounding, bfloat16 included.
SAME_LOSS = 0.01

# `Signs.reach` below which the rate is too low, with SGD and with an adaptive optimizer, and the
# number of steps that it is for. In eight parts of the clinic 43 of 58 trainings are below whose
# rate is 3 to 30 times too low, and 14 of 341 good or cured ones, eight of which gained 3 to 22 %
# at twice the rate. Leaving out one part at a time chooses 7 to 9 and 12 to 13. On three tables of
# rates, of which no number was chosen, 95 % of good rates reach 8.6 and 12.5, and half of their
# tenths at most 4 and 5.5.
REACH, REACH_OF_ADAM, STEPS_OF_REACH = 8.0, 12.0, 400

# Share of the usual reach below which a training that goes on came next to nowhere, and a rate that
# is surely too low may be 8 times higher. A short way alone advises twice the rate: four times of
# it ended lower still in 44 of 45 sick trainings, and higher than without it in six of six healthy
# ones.
NEXT_TO_NOTHING = 0.25

# Share of the usual reach below which a constant rate is too low. All but one of 16 trainings that
# were stopped early have 0.4 and more of it.
STOPPED_ON_THE_WAY = 0.35

# Share of the usual reach below which a rate is not certain to be high enough: between 1 and this,
# twice the rate gained 2 % and more in half of twelve trainings that nothing else spoke against.
PERHAPS_FAR_ENOUGH = 1.5

# Share of a guess below which much has been learnt.
HALF_A_GUESS = 0.5

# Share of successive gradients above which a batch of few examples is not too small.
AGREE = 0.3

# Share of the usual reach, as far as it is forecast for the planned end, below which a training
# that goes on comes nowhere. After 300 steps 110 of 144 trainings at a 10th of good rates are named
# (107 with 0.5, 116 with 1), and five of 576 at good ones (5, 7).
FAR_TOO_LOW = 0.7

# Mean cosine of updates that are far apart: by its lower end, above which the path goes straight
# on; and above which a good rate is not certain. In 26 trainings of 300 steps: -0.08 to 0.16 at a
# good rate, and above the second in two; at a 30th of it 0.14 to 0.9, and above the first in 23,
# where the others came next to nowhere; at a tenth 0.04 to 0.84. In 39 more at a good rate: 0.25 at
# most.
SAME_DIRECTION, SOME_DIRECTION = 0.3, 0.13

# Shares of the edge of small batches from which a higher rate has no room, under plain SGD and with
# a momentum, and that have to be left before the end, since curvature rises. Under plain SGD at
# 0.56 and 0.68 four times a good rate lost 7 and 23 %; below a half twice the rate gained 3 to 30 %
# on each of the five networks that went straight on, and four times of it often diverged. With a
# momentum the best rates stand at 2 in the median; 2 in place of 0.5 makes four more headlines
# right of 542 and none wrong, and names ten more of 144 rates at a 10th of good ones and three of
# 576 good ones. See also `FAR_BELOW`.
HALF_OF_THE_EDGE, TWICE_THE_EDGE, LEFT_BEFORE_THE_END = 0.5, 2.0, 0.25

# Share of the edge of small batches that SGD passes where its large steps do harm. On three tables
# of rates and seven parts of the clinic it takes back no true claim, and five false ones of good or
# healthy trainings, whose edge was 0.9 to 1.9.
BEYOND_THE_EDGE = 2.5

# The same under an adaptive optimizer, above which the rate is too high: four times the edge of
# large batches of Adam with β₁ = 0.9, 38/η, so that a quarter of the rate still comes to it. Of 33
# trainings at 4 to 10 times a good rate 12 passed it, six of which nothing else named; of 231
# healthy ones none, whose highest was 72. One of 119 that were judged later did, with 128.
FAR_BEYOND_THE_EDGE = 76.0

# Updates that are compared are this part of the time at a high rate apart; and parts of the path
# that are compared at least.
APART, FEWEST_PARTS = 4, 6

# Factor by which the rate has risen since the middle of a training that goes on, above which that
# is its warm-up; and the share of the planned steps from which its rate is judged.
RISING, SEEN_OF_PLAN = 1.1, 0.25

# Share of a guess that leaves nothing to gain from a higher rate, however little the weights moved.
LEARNT = 0.05

# Share of a guess above which nothing was learnt.
AT_A_GUESS = 0.9

# Share of zeros in the gradient of a weight tensor from the start, above which its units are dead.
DEAD = 0.95

# Tensors with fewer entries have no share of zeros: the gradient of a few weights is zero if a loss
# is flat.
FEW_ENTRIES = 32

# Share of the entries of a gradient that were not zero at the start and still are not at the end,
# for the tensor with fewest, below which steps have killed units. At four times the rate of a grid:
# 0.00 to 0.6 wherever a quarter of it gained 20 % or more and weights did not diverge; at that
# rate: 0.45 and more with Adam, 0.18 in a narrow network, and 0.89 and more with SGD.
DIED = 0.12

# Stride that one in fifty steps of SGD exceeds, above which the rate is too high without
# normalisation. At four times the rate of a grid: 0.5 to 3; at that rate: up to 0.53; residual
# networks with BatchNorm have strides of 2.3 at their best rate. And `Signs.leap` of an adaptive
# optimizer, whose first steps are as large as its rate, whatever the gradient: of 36 trainings of
# eight parts of the clinic at rates that were 3 to 12 times too high 31 are above, and of 276
# others three, of one network (a quarter of the rate gained 0, 0 and 17 %); the next is at 3.1.
# Between 3.2 and 3.4 nothing changes, and leaving out one part at a time chooses 3.4. Of three
# tables of rates, which chose nothing, 21 of 47 that are 4 or 10 times too high are above, and the
# highest of 155 good ones is 2.9. Where units died the largest stride was 4.4 and more at rates
# that were too high, and at most 3.1 in 15 others (labels at random, inputs that were not scaled,
# two healthy ones that gained nothing at a lower rate).
OVERSHOT, LEAPT, LEAPT_TO_DEATH = 0.9, 3.2, 3.7

# Rise of the loss, in guesses, and in units of its usual change from step to step, of a jump, and
# the number of jumps of an unstable training, whose steps are small: the stride that one step in
# ten exceeds is below the last number. With larger steps jumps show no rate that is too high: plain
# SGD at its best rate jumps twice on its way in 8 of 380 trainings, where a quarter of the rate
# lost 36 % and more.
JUMPED, JUMPED_IN_NOISE, JUMPS, CALM = 0.5, 6.0, 2, 0.1

# Momentum from which it is the likely reason of a rate that is too high: that was meant for less.
# At the usual 0.9, a rate that is too high for it looks the same and is as likely.
MOMENTUM_COUNTS = 0.95

# `late_excess` over the fall of the loss in the second half, and `late_excess` itself, above which
# a decay gains more than it leaves unlearnt: a cosine makes half of the way of a constant rate. Of
# 84 trainings at constant rates, a cosine gained 5 to 70 % in 19 of the 22 above both (the others:
# two of -8 and -13 %, one of -3 % with a gain on another seed); it lost up to 540 % below, and
# gained more than 10 % in 4. All 18 of 138 other healthy ones that are above both gained 8 to 67 %;
# below them a cosine lost in 66, and gained more than 10 % in 29. Gradients of plain SGD that
# oppose each other decide nothing below: it gained less than 2 % in 12 of 29, and lost up to 69 %.
WORTH_OF_A_DECAY, LITTLE_EXCESS = 1.5, 0.06

# Fall of the loss in the second half from which more steps gain much: a decay lost up to 740 %
# there. And the loss in guesses that leaves something to gain: regressions end at 0.011 to 0.04.
STILL_LEARNS, LITTLE_LEFT = 0.36, 0.015

# Fall of the loss in the second half of a log with a constant rate, below which a decay is what is
# missing: 0.016 at a plateau; 0.06 in two logs of healthy trainings at a constant rate.
FLAT_IN_A_LOG = 0.03

# Share of the usual reach from which a training came far: below it a loss that still falls speaks
# for more steps; from it on clipping does no harm, and steps that stay far below the edge show no
# rate that is too low. Of 29 clinic trainings that stayed below an eighth of the edge, two came
# far: four times the rate lost 4 % of one, and the other had a batch of 3.
FAR = 2.2

# A rate below this share of its height decayed too early if it is so for more than `FADED_FOR`.
DECAYED = 0.02

# The share of the run that a rate is low for if its schedule was made for another length or unit. A
# cosine that ended at 70 % of the run, and was below 2 % of its height for 36 %, cost 3 to 11 %;
# one that ended at 55 %, 19 and 21 %. A step schedule with its last step at 75 % is so for 25 %.
FADED_FOR = 0.3

# Fall of the loss in the second half, and its error, below which a training that goes on may stop,
# after so many steps.
FLAT, LONG_ENOUGH = 0.01, 200

# Batches of at most so many examples and labels (four texts of 512 tokens are no small batch) may
# be too small. With 8 and 10 examples, a batch that was eight times as large gained 10 to 45 % in
# as many updates in five of six trainings, and lost 1 % in the sixth.
SMALL_BATCH, RATHER_SMALL, FEW_LABELS = 4, 8, 128

# The loss in guesses below which a tiny batch leaves nothing to gain: eight times the batch gained 48
# to 66 % in four trainings of 6,000 updates that ended at 0.009 to 0.013.
LEFT_BY_NOISE = 0.005

# Updates in an epoch, and batch from which it may be called large, after several epochs of fewer
# steps than `STEPS_OF_REACH`. Of 66 trainings in 8 epochs of 3,000 examples with batches of 128 to
# 512, a batch of 32 gained 8 to 84 % in 46 that had not come far.
FEW_AN_EPOCH, LARGE_BATCH = 30.0, 64

# Test loss now, over its lowest, above which further updates are not what is missing: a batch of 32
# then gained at most 15 %, mostly less than 7 %.
RISEN = 1.05

# Overfitting: the lowest test loss is before this share of the run, is now higher by this factor,
# and above training by this one. After a bad batch the next test loss is higher by the second, too.
BEST_BEFORE, ROSE, ABOVE_TRAINING = 0.7, 1.15, 1.3

# Test loss in units of the training loss, above which a model may overfit if the test loss has
# risen at all: 5 and 20 in 27 and 32 passes over 300 rows, where the best weights were 10 and 3 %
# better; at most 1.3 in healthy trainings whose test loss was lowest as early, and that went to
# their planned end.
FAR_ABOVE_TRAINING = 3.0

# Test loss in units of the training loss in the last quarter of the evaluations, and by how much it
# rose since the second, above which a training learns its examples by heart, unless the test loss
# is at its lowest. Four times the rate made one 26 % worse that was at 1.21 and rose by 0.13, and
# four times that of another one 2 %; at most 0.05 in seven at a rate that was too low. Twice the
# steps gained 19 % in one that came to 1.44, and whose test loss was lowest at the end.
APART_FROM_TRAINING, DRAWN_AWAY = 1.15, 0.1

# Passes over the data below which nothing is overfitted: most rows were seen once. A rate that is
# too high raised the test loss to 1.75 of its best in 1.1.
SEEN_AGAIN = 2.0

# Evaluations after the best one from which overfitting was not noticed: those who keep the best
# weights and stop wait for about three, and do not reach the planned end.
AFTER_THE_BEST = 4

# Share of the parameters that no backward reaches, below which they are a part that the model does
# not use.
UNREACHED = 0.01

# Classes in a batch, or the variance of its targets, over those expected from a shuffled order, by
# the mean of the looks and two standard errors, below which the data are not shuffled. Nine of
# twelve sick trainings are at 0.65 and less; the least of 668 others is 0.71.
SORTED = 0.67

# Spread of the inputs, and their mean in spreads, above which they are not scaled. Sick: 7.1 with
# every second column ten times as large.
WIDE, OFF_CENTRE = 5.0, 3.0

# Gradient norm in the first half of the layers over that of the last one, at the start, below
# which gradients vanish. Sick: at most 0.002; healthy: 0.1 and more, also with attention and at a
# width of 2,240. It is also the share of the usual signal that reaches the last layer: at most
# 0.004 with weights that began 0.15 to 0.4 times as large as PyTorch's in 3 to 9 layers, all of
# which ended 10 % and more above the usual start; 0.88 and more in all others without a
# normalisation.
VANISHED = 0.02

# Size of the weights of the median layer at the start over PyTorch's own, from which they are not
# small in every layer. Sick: at most 0.4; a network in which one convolution began with 0.02, and
# that ended no lower with the usual start: 1.
SMALL_SHARE = 0.7

# First loss in units of a guess, and spread of the first outputs, above which the start is too
# large.
EXPLODED, WIDE_OUTPUTS = 3.0, 2.0

# Median norm of the gradient after clipping over before, below which clipping acts too much, if the
# network did not come `FAR` in spite of it. Of 41 trainings with SGD between 0.04 and 0.5, all
# ended 9 to 82 % better without it; at 0.54 and more, none to 16 %. The steps of adaptive
# optimizers do not depend on the norm.
HALF_CLIPPED = 0.5

# Share of the movement that is weight decay alone, above which it is too large for SGD with a decay
# that is not usual; and the share from which it is so for every optimizer. Sick: 0.045 to 0.46 with
# SGD, 0.32 to 1.4 with AdamW; healthy AdamW with a decay of 0.05: 0.05 to 0.093. For weights with a
# normalisation it settles at √(ηλ/2): 0.016 for the usual SGD of residual networks.
DECAY_SHARE, DECAY_MOSTLY = 0.04, 0.25

# Weight decay that SGD is used with, up to ten times the 1e-4 of residual networks on ImageNet.
USUAL_DECAY = 1e-3

# A rate that falls by one factor again and again, at least so often, and ends below this share of its
# height, falls in the wrong unit: meant once an epoch. In 15 such trainings it ended below 0.0066.
# A factor that was chosen to end at a hundredth is meant: a cosine in its place gained less than 2 %
# in four of seven trainings, and 11 to 22 % in three. It is said for how long the rate was faded.
FEWEST_FALLS, BELOW_A_HUNDREDTH, FADED = 4, 0.0095, 0.1

# Share of a guess that the test loss never falls below if the labels have nothing to do with the
# inputs: 0.96 and more.
RANDOM = 0.95

# How far the test loss lies below training, less two of its standard errors, as a share of what it
# has fallen below a guess, from which the training labels are noisier than those of the test: a
# wrong label costs a guess at least. 21 of 37 evaluated trainings with wrong labels have 0.045 and
# more; the other 16 have 10 % of them or less, or learnt next to nothing. One of 468 evaluated
# trainings of other kinds, with labels at random, has 0.66, and the rest have 0.037 and less.
WRONG_SHARE = 0.04

# Share of dropout above which too little is left; that from which it is too much if the test loss
# is not above that on training examples by more than `ABOVE_TRAINING`. Of 36 trainings with a share
# of 0.7 or 0.85, all gained with 0.1 instead, by 7 to 97 %; of 12 with 0.5 and no gap, 11, by 7 to
# 43 %.
DROPPED, DROPPED_IN_VAIN = 0.7, 0.5

# `.grad` before `backward`, in units of that after it, below which it was zero.
STALE = 1e-3

# Share of the rows that come back in later epochs, below which training rows are changed at random
# each time.
COMES_BACK = 0.2

# A rate this many times its neighbours, a tenth of the run to each side, is a burst.
BURST = 5.0

# Rise of the loss of one step above all of the eight before it, in guesses, that only a bad batch
# makes. All of these eight are below `HALF_A_GUESS`: a rate that is too high leaps before much is
# learnt. Sick: rise 42 from at most 0.4; too high a rate: 1.6 from 0.3, and 10 from 1.2.
BAD_RISE = 2.0

# Fall of the logarithm of the rate at every step, from which a constant factor is in the wrong
# unit.
PER_STEP = 0.002

# Share of the looks at which `.grad` still held earlier gradients, from which that is the loop's
# habit.
CLEARED = 0.25

# Share of the rows of an evaluation that were trained on; and of the calls of the model with such
# rows, if training rows are evaluated as well: their calls have them anyway.
LEAKED, NEARLY_ALL = 0.05, 0.9

# Looks before anything that is not exact is said.
FEWEST_LOOKS = 5

# Steps, and lines of a log, each of several steps, before anything is said about rates, noise or
# the length.
FEWEST_STEPS, FEWEST_LOGGED = 50, 20
