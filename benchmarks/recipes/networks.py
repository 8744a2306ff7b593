"""The networks of the recipes, in the shape in which they were published, with fewer channels."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.data import alphas, digit_graph, positions

# ---- convolutions


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution, a batch norm and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """The basic block of a ResNet (He et al., 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = block(inputs, outputs, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.across = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """The features after the block."""
        return functional.relu(self.second(self.first(x)) + self.across(x))


def resnet(dropout: float) -> nn.Module:
    """ResNet-8: three blocks of 8, 16 and 32 channels."""
    return nn.Sequential(
        block(1, 8),
        Residual(8, 8, 1),
        Residual(8, 16, 2),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, 10),
    )


def resnet_nine(dropout: float) -> nn.Module:
    """ResNet-9 of DAWNBench: pooled convolutions with one residual block."""
    return nn.Sequential(
        block(1, 8),
        block(8, 16),
        nn.MaxPool2d(2),
        Residual(16, 16, 1),
        block(16, 32),
        nn.MaxPool2d(2),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, 10),
    )


class Lenet(nn.Module):
    """The network of PyTorch's tutorial "Training a classifier", for one colour."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.dropout = nn.Dropout(dropout)
        self.hidden, self.more = nn.Linear(16 * 4 * 4, 120), nn.Linear(120, 84)
        self.head = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2).flatten(1)
        x = functional.relu(self.more(functional.relu(self.hidden(x))))
        return self.head(self.dropout(x))


class MnistExample(nn.Module):
    """The network of PyTorch's MNIST example, with a quarter of its channels."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.early, self.late = nn.Dropout(dropout / 2), nn.Dropout(dropout)
        self.hidden, self.head = nn.Linear(16 * 25, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = functional.relu(self.second(functional.relu(self.first(x))))
        x = self.early(functional.max_pool2d(x, 2)).flatten(1)
        return self.head(self.late(functional.relu(self.hidden(x))))


def all_convolutions(dropout: float) -> nn.Module:
    """All-CNN (Springenberg et al., 2015): strides in place of pooling, no batch norm."""
    return nn.Sequential(
        nn.Dropout(dropout / 2.5),
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, 2, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, 2, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(24, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def plain_convolutions(dropout: float) -> nn.Module:
    """Three convolutions with batch norm."""
    body = [block(1, 12), nn.MaxPool2d(2), block(12, 24), nn.MaxPool2d(2), block(24, 32)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, 10)]
    return nn.Sequential(*body, *head)


# ---- pieces of pictures


class Patches(nn.Module):
    """Square patches of a picture, each as a vector."""

    def __init__(self, size: int, side: int, width: int) -> None:
        super().__init__()
        self.count = (size // side) ** 2
        self.cut = nn.Conv2d(1, width, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """The patches, one vector each."""
        return self.cut(x).flatten(2).transpose(1, 2)


def attention(width: int, dropout: float) -> nn.Module:
    """A block of a transformer that normalises before."""
    return nn.TransformerEncoderLayer(
        width, 4, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
    )


class Vit(nn.Module):
    """A vision transformer of two blocks on 16 patches of 7 × 7 pixels."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.patches = Patches(28, 7, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, self.patches.count + 1, width))
        self.blocks = nn.Sequential(*(attention(width, dropout) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = self.patches(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.head(self.norm(self.blocks(x)[:, 0]))


class Mixing(nn.Module):
    """A block of an MLP-Mixer."""

    def __init__(self, count: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_patches = nn.Sequential(nn.Linear(count, 32), nn.GELU(), nn.Linear(32, count))
        self.over_channels = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The patches after the block."""
        mixed = self.over_patches(self.first(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.over_channels(self.second(x)))


class Mixer(nn.Module):
    """An MLP-Mixer (Tolstikhin et al., 2021) of two blocks."""

    def __init__(self, dropout: float, width: int = 64) -> None:
        super().__init__()
        self.patches = Patches(28, 7, width)
        self.blocks = nn.Sequential(*(Mixing(self.patches.count, width, dropout) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        return self.head(self.norm(self.blocks(self.patches(x))).mean(1))


# ---- layers in a row


def perceptron(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLUs, dropout after each."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Siamese(nn.Module):
    """The distance of two pictures, each through the same layers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = perceptron(196, 128, 128, 32, dropout=dropout)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances of pairs."""
        return functional.pairwise_distance(self.body(first), self.body(second))


class Value(nn.Module):
    """The values of both actions in a state: the network of PyTorch's tutorial on DQN."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = perceptron(4, 128, 128, 2, dropout=dropout)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """The value of the action of each row."""
        return self.body(states).gather(1, actions.unsqueeze(1)).squeeze(1)


class Places(nn.Module):
    """A picture as a function of the place, by Fourier features (Tancik et al., 2020)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", 5 * torch.randn(2, 32, generator=generator))
        self.body = perceptron(64, 96, 96, 3, dropout=dropout)

    def forward(self, places: Tensor) -> Tensor:
        """The colours at these places."""
        angle = 2 * torch.pi * places @ self.frequencies
        return torch.sigmoid(self.body(torch.cat([angle.sin(), angle.cos()], dim=1)))


class GraphConvolutions(nn.Module):
    """Two graph convolutions (Kipf & Welling, 2017, equation 9) over all digits."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.x, self.adjacency = digit_graph()
        self.dropout = nn.Dropout(dropout)
        self.first, self.second = nn.Linear(64, 32, bias=False), nn.Linear(32, 10, bias=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """Scores of the classes of these nodes."""
        hidden = functional.relu(self.adjacency @ self.first(self.dropout(self.x)))
        return (self.adjacency @ self.second(self.dropout(hidden)))[nodes]


# ---- pictures from pictures


class Vae(nn.Module):
    """The network of PyTorch's example of a variational autoencoder."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.hidden, self.mean, self.spread = (
            nn.Linear(196, 200),
            nn.Linear(200, 16),
            nn.Linear(200, 16),
        )
        self.decoder = nn.Sequential(nn.Linear(16, 200), nn.ReLU(), nn.Linear(200, 196))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of the pixels, and mean and log variance of the code."""
        hidden = functional.relu(self.hidden(x.flatten(1)))
        mean, log_variance = self.mean(hidden), self.spread(hidden)
        drawn = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(drawn), mean, log_variance


def autoencoder(dropout: float) -> nn.Module:
    """A deep autoencoder with a code of 8 numbers."""
    encoder = perceptron(196, 128, 64, 8)
    return nn.Sequential(encoder, nn.ReLU(), *perceptron(8, 64, 128, 196)[1:], nn.Sigmoid())


class Unet(nn.Module):
    """A U-Net of two levels that finds the noise in a picture, given the time of diffusion."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.register_buffer("alphas", alphas())
        self.register_buffer("times", positions(len(alphas()), 16).float())
        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))
        self.down = nn.Conv2d(8, 16, 3, 2, padding=1)
        self.middle = nn.Sequential(
            nn.SiLU(), nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU()
        )
        self.back = nn.Conv2d(32, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 8, 2, 2)
        self.leave = nn.Sequential(
            nn.SiLU(), nn.Conv2d(16, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The noise that is found."""
        first = self.enter(x)
        small = self.down(first) + self.time(self.times[time])[:, :, None, None]
        inner = self.back(self.middle(small))
        return self.leave(torch.cat([self.up(torch.cat([inner, small], dim=1)), first], dim=1))


def espcn(dropout: float) -> nn.Module:
    """The network of PyTorch's example of super-resolution, for twice the size."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )


# ---- text


class Gpt(nn.Module):
    """nanoGPT: blocks that see what came before, the embedding shared with the head."""

    def __init__(self, dropout: float, width: int = 48, depth: int = 2, masked: bool = True):
        super().__init__()
        self.embedding, self.place = nn.Embedding(65, width), nn.Embedding(32, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(attention(width, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65, bias=False)
        self.head.weight = self.embedding.weight
        for parameter in (self.embedding.weight, self.place.weight):
            nn.init.normal_(parameter, std=0.02)
        self.mask = nn.Transformer.generate_square_subsequent_mask(32) if masked else None

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next token at each place."""
        x = self.dropout(self.embedding(x) + self.place.weight[: x.shape[1]])
        for each in self.blocks:
            x = each(x, src_mask=self.mask)
        return self.head(self.norm(x))


def masked_model(dropout: float) -> nn.Module:
    """The same blocks without the mask of the future, as BERT has them."""
    return Gpt(dropout, masked=False)


class WordLstm(nn.Module):
    """The LSTM of PyTorch's word language model, given its state and returning the next one.

    The state is h and c, one row an example, as batches have them.
    """

    def __init__(self, dropout: float, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.embedding, self.dropout = nn.Embedding(1_000, width), nn.Dropout(dropout)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 1_000)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Scores of the next word at each place, and the state after it."""
        layers_first = tuple(part.transpose(0, 1).contiguous() for part in state)
        hidden, after = self.recurrent(self.dropout(self.embedding(x)), layers_first or None)
        scores = self.head(self.dropout(hidden))
        return scores, tuple(part.detach().transpose(0, 1) for part in after)


class CharacterLstm(nn.Module):
    """Karpathy's char-rnn, one layer."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(64, 32), nn.Dropout(dropout)
        self.recurrent, self.head = nn.LSTM(32, 96, batch_first=True), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next character at each place."""
        return self.head(self.dropout(self.recurrent(self.embedding(x))[0]))


def makemore(dropout: float) -> nn.Module:
    """Bengio's MLP over three letters, as makemore has it."""
    return nn.Sequential(
        nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 200), nn.Tanh(), nn.Linear(200, 27)
    )


class SkipGram(nn.Module):
    """word2vec: the product of a word's vector with those of a neighbour and of other words."""

    def __init__(self, dropout: float, size: int = 1_000, width: int = 64) -> None:
        super().__init__()
        self.inner, self.outer = nn.Embedding(size, width), nn.Embedding(size, width)
        nn.init.uniform_(self.inner.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, centre: Tensor, others: Tensor) -> Tensor:
        """A score for each of the other words."""
        return (self.inner(centre).unsqueeze(1) * self.outer(others)).sum(-1)


class TextConvolutions(nn.Module):
    """Kim's convolutions over 3, 4 and 5 words, with the largest value of each."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2_000, 32)
        self.widths = nn.ModuleList(nn.Conv1d(32, 32, width) for width in (3, 4, 5))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(96, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = self.embedding(x).transpose(1, 2)
        pooled = [functional.relu(each(x)).amax(2) for each in self.widths]
        return self.head(self.dropout(torch.cat(pooled, dim=1)))


class MeanOfWords(nn.Module):
    """The mean of the words' vectors and one layer: PyTorch's tutorial of text classification."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.head = nn.EmbeddingBag(2_000, 64), nn.Linear(64, 8)
        nn.init.uniform_(self.embedding.weight, -0.5, 0.5)
        nn.init.uniform_(self.head.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        return self.head(self.embedding(x))


class Seq2seq(nn.Module):
    """A GRU that reads a word and one that writes it, looking back by attention."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(29, width), nn.Dropout(dropout)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(2 * width, 28)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores of each letter of the target."""
        read, state = self.encoder(self.dropout(self.embedding(source)))
        # 28 begins a word; each letter is guessed from the true ones before it.
        before = functional.pad(target[:, :-1], (1, 0), value=28)
        written, _ = self.decoder(self.dropout(self.embedding(before)), state)
        seen = functional.scaled_dot_product_attention(written, read, read)
        return self.head(torch.cat([written, seen], dim=2))
