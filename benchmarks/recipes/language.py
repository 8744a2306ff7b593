"""Recipes on text."""

from recipes import losses, networks
from recipes.data import (
    licence_text,
    manual_characters,
    neighbours,
    packages,
    pig_latin,
    source_characters,
    spelling,
)
from recipes.recipe import Recipe, cosine, drops, linear, stairs

nanogpt = Recipe(
    name="nanogpt",
    published="nanoGPT, train_shakespeare_char on a CPU: AdamW 0.001, warm-up 100 of 2,000, cosine "
    "to a tenth, weight decay 0.1, clip 1, batch 12",
    data=manual_characters,
    network=networks.Gpt,
    loss=losses.tokens,
    optimizer="adamw",
    rate=1e-3,
    betas=(0.9, 0.99),
    weight_decay=0.1,
    clip=1.0,
    dropout=0.0,
    warm_up=0.05,
    schedule=cosine,
    lowest=0.1,
    updates=1_000,
    batch=12,
)

bert = Recipe(
    name="bert",
    published="Devlin et al. (2019), BERT as it is trained small: AdamW 5e-4, warm-up, linear "
    "decay, weight decay 0.01, clip 1, dropout 0.1",
    data=source_characters,
    network=networks.masked_model,
    loss=losses.masked,
    optimizer="adamw",
    rate=5e-4,
    weight_decay=0.01,
    clip=1.0,
    dropout=0.1,
    warm_up=0.1,
    schedule=linear,
    updates=1_000,
    batch=8,
)

word_lstm = Recipe(
    name="word_lstm",
    published="PyTorch examples, word_language_model: SGD 20, clip 0.25, dropout 0.2, a quarter of "
    "the rate when an evaluation is not better",
    data=licence_text,
    network=networks.WordLstm,
    loss=losses.carried,
    optimizer="sgd",
    rate=20.0,
    clip=0.25,
    dropout=0.2,
    schedule=None,
    carries_state=True,
    updates=1_000,
    batch=20,
)

char_rnn = Recipe(
    name="char_rnn",
    published="Karpathy's char-rnn: RMSprop 0.002, times 0.97 an epoch after 10 of 50, clip 5",
    data=source_characters,
    network=networks.CharacterLstm,
    loss=losses.tokens,
    optimizer="rmsprop",
    rate=2e-3,
    clip=5.0,
    dropout=0.0,
    schedule=drops(0.97, *(epoch / 50 for epoch in range(10, 50))),
    updates=1_500,
    batch=20,
)

makemore = Recipe(
    name="makemore",
    published="makemore, part 2: SGD 0.1, a tenth after half of the run, batch 32",
    data=spelling,
    network=networks.makemore,
    loss=losses.classes,
    optimizer="sgd",
    rate=0.1,
    schedule=drops(0.1, 0.5),
    updates=10_000,
    batch=32,
)

word2vec = Recipe(
    name="word2vec",
    published="Mikolov et al. (2013), word2vec: SGD 0.025 a pair, linear to zero, 5 negatives "
    "(pairs of a batch are summed: 128 times 0.025 for the mean)",
    data=neighbours,
    network=networks.SkipGram,
    loss=losses.skip_gram,
    optimizer="sgd",
    rate=3.2,
    schedule=linear,
    updates=5_000,
    batch=128,
)

text_cnn = Recipe(
    name="text_cnn",
    published="Kim (2014), convolutions for sentences: Adadelta, dropout 0.5, batch 50",
    data=packages,
    network=networks.TextConvolutions,
    loss=losses.classes,
    optimizer="adadelta",
    rate=1.0,
    dropout=0.5,
    updates=2_000,
    batch=50,
)

bag_of_words = Recipe(
    name="bag_of_words",
    published="PyTorch tutorials, text classification: SGD 5, a tenth an epoch "
    "(there, when the accuracy falls), clip 0.1, batch 64",
    data=packages,
    network=networks.MeanOfWords,
    loss=losses.classes,
    optimizer="sgd",
    rate=5.0,
    clip=0.1,
    schedule=stairs(0.1, 3),
    updates=3_000,
    batch=64,
)

seq2seq = Recipe(
    name="seq2seq",
    published="University of Toronto, CSC421, pig latin: Adam 0.005, times 0.99 an epoch of 50, "
    "batch 64",
    data=pig_latin,
    network=networks.Seq2seq,
    loss=losses.spelled,
    optimizer="adam",
    rate=5e-3,
    schedule=stairs(0.99, 50),
    updates=1_000,
    batch=64,
)

RECIPES = (
    nanogpt,
    bert,
    word_lstm,
    char_rnn,
    makemore,
    word2vec,
    text_cnn,
    bag_of_words,
    seq2seq,
)
