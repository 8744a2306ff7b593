"""Recipes that tell pictures apart."""

from functools import cache, partial

from torch import nn

from recipes import losses, networks
from recipes.data import dressed_pairs, fashion, standard_fashion
from recipes.recipe import Recipe, cosine, drops, linear, one_cycle, stairs
from recipes.training import train_model

large = partial(standard_fashion, 28)

resnet_steps = Recipe(
    name="resnet_steps",
    published="He et al. (2016), ResNet on CIFAR-10: SGD 0.1, momentum, drops at 1/2 and 3/4",
    data=standard_fashion,
    network=networks.resnet,
    loss=losses.classes,
    optimizer="sgd",
    rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule=drops(0.1, 0.5, 0.75),
    updates=1_000,
    batch=32,
)

resnet_one_cycle = Recipe(
    name="resnet_one_cycle",
    published="ResNet-9 of DAWNBench, as Jovian's course of PyTorch trains it: Adam, OneCycleLR to "
    "0.01, weight decay 1e-4, gradients clipped at 0.1",
    data=standard_fashion,
    network=networks.resnet_nine,
    loss=losses.classes,
    optimizer="adam",
    rate=0.01,
    weight_decay=1e-4,
    clip=0.1,
    dropout=0.2,
    schedule=one_cycle,
    updates=1_000,
    batch=32,
)

vit = Recipe(
    name="vit",
    published="Beyer et al. (2022), Better plain ViT baselines: AdamW 1e-3, warm-up, cosine, "
    "weight decay 0.1, clip 1; dropout 0.1 of Dosovitskiy et al. (2021)",
    data=large,
    network=networks.Vit,
    loss=losses.classes,
    optimizer="adamw",
    rate=1e-3,
    weight_decay=0.1,
    clip=1.0,
    dropout=0.1,
    warm_up=0.1,
    schedule=cosine,
    updates=1_000,
    batch=32,
)

mnist_adadelta = Recipe(
    name="mnist_adadelta",
    published="PyTorch examples, mnist: Adadelta 1.0, times 0.7 each epoch of 14, batch 64",
    data=standard_fashion,
    network=networks.MnistExample,
    loss=losses.classes,
    optimizer="adadelta",
    rate=1.0,
    dropout=0.5,
    schedule=stairs(0.7, 14),
    updates=1_400,
    batch=64,
)

tutorial_cnn = Recipe(
    name="tutorial_cnn",
    published="PyTorch tutorials, Training a classifier: SGD 0.001, momentum 0.9, batch 4",
    data=large,
    network=networks.Lenet,
    loss=losses.classes,
    optimizer="sgd",
    rate=1e-3,
    momentum=0.9,
    updates=2_500,
    batch=4,
)

quickstart = Recipe(
    name="quickstart",
    published="PyTorch tutorials, Quickstart: perceptron, SGD 0.001, batch 64",
    data=partial(fashion, 28),
    network=lambda dropout: networks.perceptron(784, 128, 128, 10, dropout=dropout),
    loss=losses.classes,
    optimizer="sgd",
    rate=1e-3,
    updates=4_000,
    batch=64,
)

keras_basic = Recipe(
    name="keras_basic",
    published="TensorFlow tutorials, Basic classification: one hidden layer of 128, Adam 0.001, "
    "batch 32",
    data=partial(fashion, 28),
    network=lambda dropout: networks.perceptron(784, 128, 10, dropout=dropout),
    loss=losses.classes,
    optimizer="adam",
    rate=1e-3,
    updates=4_000,
    batch=32,
)

label_smoothing = Recipe(
    name="label_smoothing",
    published="Müller, Kornblith & Hinton (2019): SGD 0.1 with Nesterov momentum, cosine, "
    "weight decay 5e-4, labels smoothed by 0.1",
    data=standard_fashion,
    network=networks.plain_convolutions,
    loss=losses.smoothed,
    held_out_loss=losses.classes,
    optimizer="sgd",
    rate=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule=cosine,
    updates=1_200,
    batch=64,
)

all_convolutions = Recipe(
    name="all_convolutions",
    published="Springenberg et al. (2015), All-CNN: SGD 0.05, momentum 0.9, weight decay 0.001, "
    "dropout, drops at 4/7, 5/7 and 6/7",
    data=standard_fashion,
    network=networks.all_convolutions,
    loss=losses.classes,
    optimizer="sgd",
    rate=0.05,
    momentum=0.9,
    weight_decay=1e-3,
    dropout=0.5,
    schedule=drops(0.1, 4 / 7, 5 / 7, 6 / 7),
    updates=1_050,
    batch=64,
)

mixer = Recipe(
    name="mixer",
    published="Tolstikhin et al. (2021), MLP-Mixer: Adam 0.001, warm-up, linear decay, "
    "weight decay 0.1, clip 1",
    data=large,
    network=networks.Mixer,
    loss=losses.classes,
    optimizer="adamw",
    rate=1e-3,
    weight_decay=0.1,
    clip=1.0,
    dropout=0.0,
    warm_up=0.1,
    schedule=linear,
    updates=1_000,
    batch=32,
)

siamese = Recipe(
    name="siamese",
    published="Keras examples, mnist_siamese: RMSprop 0.001, batch 128, dropout 0.1, "
    "contrastive loss",
    data=dressed_pairs,
    network=networks.Siamese,
    loss=losses.contrastive,
    optimizer="rmsprop",
    rate=1e-3,
    dropout=0.1,
    updates=1_500,
    batch=128,
)

_before_fine_tuning = Recipe(
    name="before fine-tuning",
    published="",
    data=partial(fashion, 14, (0, 1, 2, 3, 4)),
    network=networks.plain_convolutions,
    loss=losses.classes,
    optimizer="adam",
    rate=3e-3,
    schedule=linear,
    updates=600,
    batch=64,
)


@cache
def _pretrained() -> nn.Module:
    return train_model(_before_fine_tuning, 0)[0]


def _fine_tuned(dropout: float) -> nn.Module:
    """The network that five kinds of clothes have trained, with a new head for the other five."""
    model = networks.plain_convolutions(dropout)
    model.load_state_dict(_pretrained().state_dict())
    model[-1] = nn.Linear(32, 10)
    return model


fine_tuning = Recipe(
    name="fine_tuning",
    published="PyTorch tutorials, Transfer learning: SGD 0.001, momentum 0.9, a tenth after each "
    "7 of 25 epochs, batch 4",
    data=partial(fashion, 14, (5, 6, 7, 8, 9)),
    network=_fine_tuned,
    loss=losses.classes,
    optimizer="sgd",
    rate=1e-3,
    momentum=0.9,
    schedule=drops(0.1, 7 / 25, 14 / 25, 21 / 25),
    updates=2_500,
    batch=4,
)

RECIPES = (
    resnet_steps,
    resnet_one_cycle,
    vit,
    mnist_adadelta,
    tutorial_cnn,
    quickstart,
    keras_basic,
    label_smoothing,
    all_convolutions,
    mixer,
    siamese,
    fine_tuning,
)
