"""The zoo: a factory and a sample for every kind of layer and of wiring that a layout is derived from.

A test that asks for `kind` runs once for each; `zoo` gives all of them.
"""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mhfl_mq.train.derive import TierShape

Build = Callable[[TierShape], nn.Module]
Zoo = dict[str, tuple[Build, Tensor]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


# ---- the zoo: each a factory and a sample ---------------------------------------------------------------------


def mlp(s: TierShape) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, up(8, s)), nn.ReLU(), nn.Linear(up(8, s), up(12, s)), nn.GELU(), nn.Linear(up(12, s), 3)
    )


def convnet(s: TierShape) -> nn.Module:
    a, b = up(8, s), up(16, s)
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1), nn.GroupNorm(a // 2, a), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(b // 4, b), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(b * 4, up(12, s)), nn.ReLU(), nn.Linear(up(12, s), 5),
    )  # fmt: skip


def conv1d(s: TierShape) -> nn.Module:
    a = up(8, s)
    return nn.Sequential(
        nn.Conv1d(2, a, 3), nn.PReLU(a), nn.Conv1d(a, a, 3), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * a, 3)
    )


def depthwise(s: TierShape) -> nn.Module:
    a = up(8, s)
    return nn.Sequential(
        nn.Conv2d(3, a, 1), nn.Conv2d(a, a, 3, groups=a), nn.Hardswish(), nn.Conv2d(a, 2 * a, 3, groups=a),
        nn.InstanceNorm2d(2 * a, affine=True), nn.Conv2d(2 * a, up(12, s), 1),
        nn.BatchNorm2d(up(12, s), track_running_stats=False), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(up(12, s), 4),
    )  # fmt: skip


class Grouped(nn.Module):
    """Two fixed groups, each narrower in smaller tiers: the input is two streams side by side."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        a, b = up(8, s), up(4, s)
        self.left, self.right = nn.Conv1d(2, a, 1), nn.Conv1d(2, a, 1)
        self.both = nn.Conv1d(2 * a, 2 * b, 3, groups=2)
        self.out = nn.Linear(2 * b * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(torch.cat([self.left(x), self.right(x)], 1))
        return self.out(y.flatten(1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A residual stream with a depth: small tiers have fewer blocks."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, up(8, s), 3, padding=1)
        self.blocks = nn.ModuleList(Block(up(8, s), up(16, s)) for _ in range(s.depth or 2))
        self.head = nn.Linear(up(8, s), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(width // 2, width)
        self.up, self.down = nn.Conv2d(width, inside, 3, padding=1), nn.Conv2d(inside, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Text(nn.Module):
    """Embedding, recurrent layers, last step."""

    def __init__(self, s: TierShape, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(20, up(8, s))
        self.rnn = kind(up(8, s), up(8, s), batch_first=True, **options)
        shown = options.get("proj_size") or up(8, s)
        self.head = nn.Linear(shown * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(x))[0][:, -1])  # type: ignore[no-any-return]


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, up(8, s)), nn.GRU(up(8, s), up(8, s), batch_first=True)
        self.head = nn.Linear(up(8, s), 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x), 0, -1)
        packed = nn.utils.rnn.pack_padded_sequence(self.words(x), lengths, batch_first=True)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(padded.sum(1))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Upsampling, attention between two streams of different width, a multi-axis norm, keyword calls."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        a, b = up(8, s), up(16, s)
        self.one, self.two = nn.Conv1d(2, a, 1), nn.Conv1d(2, b, 1)
        self.grow = nn.ConvTranspose1d(b, b, 2, stride=2)
        self.norm = nn.LayerNorm((b, 16))
        self.cross = nn.MultiheadAttention(b, 2, kdim=a, vdim=a, batch_first=True, add_bias_kv=True)
        self.out = nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.one(x).transpose(1, 2)
        query = self.norm(self.grow(self.two(x))).transpose(1, 2)
        mixed, _ = self.cross(query=query, key=memory, value=memory)
        return self.out(query + mixed)  # type: ignore[no-any-return]


class Cells(nn.Module):
    def __init__(self, s: TierShape, kind: type[nn.LSTMCell | nn.GRUCell]) -> None:
        super().__init__()
        self.cell, self.head = kind(4, up(8, s)), nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Embedding and position, encoder layers with a depth, flatten over the sequence, tied or own head."""

    def __init__(self, s: TierShape, *, fewer_heads: bool = False) -> None:
        super().__init__()
        width = up(16, s)
        heads = width // 4 if fewer_heads else 2
        self.words, self.place = nn.Embedding(20, width), nn.Parameter(torch.randn(1, 5, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, up(24, s), dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(s.depth or 2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(5 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).flatten(1))  # type: ignore[no-any-return]


class FixedEmbedding(nn.Module):
    """Attention whose embedding stays, between layers that vary."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.into, self.attention = nn.Linear(up(8, s), 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.out = nn.Linear(3, up(8, s)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(torch.relu(self.first(x)))
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.words, self.middle = nn.Embedding(11, up(8, s)), nn.Linear(up(8, s), up(8, s))
        self.head = nn.Linear(up(8, s), 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.words(x))))  # type: ignore[no-any-return]


class Counting(nn.Module):
    """A model with an integer buffer, a float constant that is saved, and one that is not."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, up(8, s)), nn.Linear(up(8, s), 2)
        self.scale: Tensor
        self.table: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("table", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x * self.scale * self.table)))  # type: ignore[no-any-return]


class Seq2Seq(nn.Module):
    """The encoder's state is handed to the decoder; the encoder's output may be read too."""

    def __init__(self, s: TierShape, kind: Callable[..., nn.Module], *, both: bool = False, **options: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = (kind(3, up(8, s), batch_first=True, **options) for _ in range(2))
        shown = options.get("proj_size") or up(8, s)
        self.out, self.other = nn.Linear(shown, 2), nn.Linear(shown, 2) if both else None

    def forward(self, x: Tensor) -> Tensor:
        seen, state = self.encoder(x)
        y = self.out(self.decoder(x.flip(1), state)[0][:, -1])
        return y if self.other is None else y + self.other(seen[:, -1])  # type: ignore[no-any-return]


class SeqOfCells(nn.Module):
    """The same with cells, in which the state is a keyword."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.encoder, self.decoder, self.out = (
            nn.LSTMCell(3, up(8, s)),
            nn.LSTMCell(3, up(8, s)),
            nn.Linear(up(8, s), 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(x[:, 1], self.encoder(x[:, 0]))
        return self.out(self.decoder(x[:, 3], hx=self.decoder(x[:, 2], hx=state))[0])  # type: ignore[no-any-return]


class LearnedState(nn.Module):
    """A recurrent layer whose first state is a parameter."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.rnn, self.first = nn.GRU(3, up(8, s), batch_first=True), nn.Parameter(torch.randn(1, 1, up(8, s)))
        self.out = nn.Linear(up(8, s), 2)

    def forward(self, x: Tensor) -> Tensor:
        state = self.first.expand(1, len(x), -1).contiguous()
        return self.out(self.rnn(x, state)[0][:, -1])  # type: ignore[no-any-return]


class Vision(nn.Module):
    """A vision transformer in small: a class token, places that no tier has fewer of, read at the token."""

    def __init__(self, s: TierShape) -> None:
        super().__init__()
        width = up(16, s)
        self.patches, self.norm = nn.Linear(3, width), nn.LayerNorm(width)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 6, width))
        self.mix, self.head = nn.MultiheadAttention(width, 2, batch_first=True), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x)], 1) + self.place
        y = self.norm(x)
        return self.head((x + self.mix(y, y, y)[0])[:, 0])  # type: ignore[no-any-return]


class NormAndFlatten(nn.Module):
    """A norm over units and over a length that stays, in either order, then flattened."""

    def __init__(self, s: TierShape, *, last: bool) -> None:
        super().__init__()
        self.conv, self.last, a = nn.Conv1d(2, up(8, s), 3, padding=1), last, up(8, s)
        self.norm, self.out = nn.LayerNorm((8, a) if last else (a, 8)), nn.Linear(8 * a, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(self.norm(y.transpose(1, 2) if self.last else y).flatten(1))  # type: ignore[no-any-return]


class Transposed(nn.Module):
    """A transposed convolution with groups: two streams that become narrower, or one stream of ever fewer groups."""

    def __init__(self, s: TierShape, streams: int) -> None:
        super().__init__()
        each = up(4, s)
        self.streams = nn.ModuleList(nn.Conv1d(2, each, 1) for _ in range(streams))
        wide, groups = streams * each, streams if streams > 1 else each
        self.grow, self.out = nn.ConvTranspose1d(wide, 2 * wide, 2, groups=groups), nn.Conv1d(2 * wide, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.grow(torch.cat([part(x) for part in self.streams], 1)))  # type: ignore[no-any-return]


def weight_normed(s: TierShape) -> nn.Module:
    first, last = nn.Linear(6, up(8, s)), nn.Linear(up(8, s), 2)
    return nn.Sequential(parametrizations.weight_norm(first), nn.ReLU(), parametrizations.weight_norm(last))


def words(n: int = 5) -> Tensor:
    return torch.arange(2 * n).view(2, n) % 11


IMAGES, SERIES = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8)
ZOO: Zoo = {
    "mlp": (mlp, torch.rand(2, 6)),
    "conv2d, group norm, flatten": (convnet, IMAGES),
    "conv1d, prelu": (conv1d, torch.rand(2, 2, 9)),
    "depthwise with multiplier": (depthwise, IMAGES),
    "grouped": (Grouped, SERIES),
    "residual with depth": (Residual, torch.rand(2, 1, 6, 6)),
    "lstm": (lambda s: Text(s, nn.LSTM), words()),
    "gru": (lambda s: Text(s, nn.GRU, num_layers=2), words()),
    "rnn": (lambda s: Text(s, nn.RNN), words()),
    "lstm both ways": (lambda s: Text(s, nn.LSTM, num_layers=2, bidirectional=True), words()),
    "lstm with projection": (lambda s: Text(s, nn.LSTM, proj_size=up(4, s)), words()),
    "packed gru": (Packed, words()),
    "decoder": (Decoder, SERIES),
    "lstm cell": (lambda s: Cells(s, nn.LSTMCell), torch.rand(2, 3, 4)),
    "gru cell": (lambda s: Cells(s, nn.GRUCell), torch.rand(2, 3, 4)),
    "encoder and decoder": (lambda s: Seq2Seq(s, nn.GRU), torch.rand(2, 5, 3)),
    "encoder and decoder, lstm": (lambda s: Seq2Seq(s, nn.LSTM), torch.rand(2, 5, 3)),
    "encoder and decoder, lstm with projection": (
        lambda s: Seq2Seq(s, nn.LSTM, proj_size=up(4, s)), torch.rand(2, 5, 3),
    ),
    "encoder and decoder, encoder read too": (lambda s: Seq2Seq(s, nn.GRU, both=True), torch.rand(2, 5, 3)),
    "encoder and decoder, cells": (SeqOfCells, torch.rand(2, 4, 3)),
    "learned first state": (LearnedState, torch.rand(2, 5, 3)),
    "vision transformer": (Vision, torch.rand(2, 5, 3)),
    "norm over channels and length": (lambda s: NormAndFlatten(s, last=False), SERIES),
    "norm over length and channels": (lambda s: NormAndFlatten(s, last=True), SERIES),
    "grouped transposed": (lambda s: Transposed(s, 2), SERIES),
    "depthwise transposed": (lambda s: Transposed(s, 1), SERIES),
    "weight norm": (weight_normed, torch.rand(2, 6)),
    "attention": (Transformer, words()),
    "attention with fewer heads": (lambda s: Transformer(s, fewer_heads=True), words()),
    "attention of fixed embedding": (FixedEmbedding, torch.rand(2, 4, 3)),
    "tied weights": (Tied, words()),
    "buffers": (Counting, torch.rand(2, 4)),
}  # fmt: skip


@pytest.fixture(params=ZOO)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return ZOO
