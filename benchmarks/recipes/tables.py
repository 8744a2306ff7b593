"""Recipes on tables, a graph, and the values of states."""

from recipes import losses, networks
from recipes.data import balancing, digits, friedman, labelled_nodes
from recipes.recipe import Recipe

tabular = Recipe(
    name="tabular",
    published="Gorishniy et al. (2021), MLP for tables, in their range: AdamW 0.001, weight decay 1e-5, "
    "dropout 0.1, batch 256",
    data=friedman,
    network=lambda dropout: networks.perceptron(10, 128, 128, 128, 1, dropout=dropout),
    loss=losses.values,
    optimizer="adamw",
    rate=1e-3,
    weight_decay=1e-5,
    dropout=0.1,
    updates=2_000,
    batch=256,
)

sklearn_mlp = Recipe(
    name="sklearn_mlp",
    published="scikit-learn, MLPClassifier by default: 100 units, Adam 0.001, batch 200",
    data=digits,
    network=lambda dropout: networks.perceptron(64, 100, 10, dropout=dropout),
    loss=losses.classes,
    optimizer="adam",
    rate=1e-3,
    weight_decay=1e-4,
    updates=1_400,
    batch=200,
)

graph = Recipe(
    name="graph",
    published="Kipf & Welling (2017), GCN: Adam 0.01, weight decay 5e-4, dropout 0.5, whole graph",
    data=labelled_nodes,
    network=networks.GraphConvolutions,
    loss=losses.classes,
    optimizer="adam",
    rate=0.01,
    weight_decay=5e-4,
    dropout=0.5,
    whole=True,
    updates=1_000,
    batch=120,
)

dqn = Recipe(
    name="dqn",
    published="PyTorch tutorials, DQN: AdamW 3e-4, batch 128, Huber's loss; here of returns that are "
    "computed, without a target network",
    data=balancing,
    network=networks.Value,
    loss=losses.returns,
    optimizer="adamw",
    rate=3e-4,
    weight_decay=0.01,
    updates=3_000,
    batch=128,
)

RECIPES = (tabular, sklearn_mlp, graph, dqn)
