"""Recipes that make pictures: codes, noise, size, places."""

from recipes import losses, networks
from recipes.data import fashion, photographs, pixels
from recipes.recipe import Recipe

vae = Recipe(
    name="vae",
    published="PyTorch examples, vae: Adam 0.001, batch 128",
    data=fashion,
    network=networks.Vae,
    loss=losses.evidence,
    optimizer="adam",
    rate=1e-3,
    updates=2_500,
    batch=128,
    floor=56.55,  # the entropy of the held-out pixels
)

autoencoder = Recipe(
    name="autoencoder",
    published="PyTorch-tutorial of L1aoXingyu, autoencoder: Adam 0.001, weight decay 1e-5, "
    "batch 128",
    data=fashion,
    network=networks.autoencoder,
    loss=losses.rebuilt,
    optimizer="adam",
    rate=1e-3,
    weight_decay=1e-5,
    updates=2_000,
    batch=128,
)

diffusion = Recipe(
    name="diffusion",
    published="Hugging Face, The Annotated Diffusion Model: U-Net, Adam 0.001, batch 128, "
    "Huber's loss",
    data=fashion,
    network=networks.Unet,
    loss=losses.noise_found,
    optimizer="adam",
    rate=1e-3,
    updates=1_000,
    batch=16,
)

super_resolution = Recipe(
    name="super_resolution",
    published="PyTorch examples, super_resolution: Adam 0.01, batch 64",
    data=photographs,
    network=networks.espcn,
    loss=losses.pictures,
    optimizer="adam",
    rate=0.01,
    updates=1_000,
    batch=64,
)

places = Recipe(
    name="places",
    published="Tancik et al. (2020), Fourier features: Adam 0.001, a constant rate",
    data=pixels,
    network=networks.Places,
    loss=losses.pictures,
    optimizer="adam",
    rate=1e-3,
    updates=2_000,
    batch=256,
)

RECIPES = (vae, autoencoder, diffusion, super_resolution, places)
