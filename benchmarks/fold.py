"""Speed of the segment core against plain numpy on the same arrays, side by side in one run on one thread.

`measure()` gives one row per figure: our speed in coordinates per second beside the reference's, and its bound.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.table import Row
from mhfl_mq.segments import Accumulator, Arrays, Axis, Bounds, Layout, Packer, Parameter, Tier

REPEATS = 15
SAMPLE_S = 0.02  # seconds of one sample: far above the resolution of the clock
FOLD_BOUND = 0.9  # of numpy's in-place add of float32 into float64
COPY_BOUND = 0.5  # of a plain copy of as many bytes


def measure() -> list[Row]:
    """Folds, then gathers and scatters."""
    rows = [
        _fold(weight, f"fold, {weights}{judging}", checked=not judging)
        for judging in ("", ", judging as it folds")  # the aggregator judges updates as they come
        for weight, weights in ((1.0, "equal weights"), (3.7, "weighted by samples"))
    ]
    for name, layout in (("CNN", cnn_layout()), ("MLP", mlp_layout())):
        for tier in range(len(layout.tiers)):
            rows += _pack(name, layout, tier, tier)
        rows += _pack(name, layout, 1, len(layout.tiers) - 1)
    return rows


def cnn_layout() -> Layout:
    """A VGG-like network of 25 M parameters: 3x3 convolutions, a flatten of 4x4, two linear layers."""
    channels = [64, 128, 256, 512, 512, 512]
    groups = {f"c{i}": _thirds(c) for i, c in enumerate(channels)} | {"fc": _thirds(1792)}
    parameters, before = [], Axis(3)
    for i, c in enumerate(channels):
        out = Axis(c, group=f"c{i}")
        parameters += [Parameter(f"{i}.weight", (out, before, Axis(3), Axis(3))), Parameter(f"{i}.bias", (out,))]
        before = out
    flat, hidden = Axis(512, inner=16, group="c5"), Axis(1792, group="fc")
    parameters += [Parameter("fc.weight", (hidden, flat)), Parameter("fc.bias", (hidden,))]
    parameters += [Parameter("head.weight", (Axis(10), hidden)), Parameter("head.bias", (Axis(10),))]
    return Layout(TIERS, groups, tuple(parameters))


def mlp_layout() -> Layout:
    """Four hidden layers of 2752 units, 25 M parameters."""
    groups = {f"h{i}": _thirds(2752) for i in range(4)}
    parameters, before = [], Axis(784)
    for i in range(4):
        out = Axis(2752, group=f"h{i}")
        parameters += [Parameter(f"{i}.weight", (out, before)), Parameter(f"{i}.bias", (out,))]
        before = out
    parameters.append(Parameter("head.weight", (Axis(10), before)))
    return Layout(TIERS, groups, tuple(parameters))


TIERS = (Tier("small", 0.25), Tier("middle", 0.5), Tier("large", 1.0))


def _thirds(channels: int) -> tuple[int, ...]:
    return tuple(int(channels * tier.width) for tier in TIERS)


def _fold(weight: float, name: str, *, checked: bool) -> Row:
    n = 25_000_000
    value = np.random.default_rng(1).normal(size=n).astype(np.float32)
    plain = np.zeros(n)
    ours = Accumulator((n,), Bounds(100_000, 10.0, 10.0))

    def reference() -> None:
        np.add(plain, value, out=plain)

    return _row(name, n, lambda: ours.fold(value, 0, weight, checked=checked), reference, FOLD_BOUND)


def _pack(name: str, layout: Layout, tier: int, model: int) -> list[Row]:
    packer = Packer(layout, tier, model=model)
    rng = np.random.default_rng(2)
    arrays: Arrays = {n: rng.normal(size=shape).astype(np.float32) for n, shape in layout.shapes(model).items()}
    flat = np.zeros(packer.length, np.float32)
    source, target = rng.normal(size=packer.length).astype(np.float32), np.zeros(packer.length, np.float32)
    what = f"{name} {packer.length / 1e6:.1f} M" + (" out of the full model" if model > tier else "")

    def reference() -> None:
        np.copyto(target, source)

    return [
        _row(f"gather {what}", packer.length, lambda: packer.gather(arrays, flat), reference, COPY_BOUND),
        _row(f"scatter {what}", packer.length, lambda: packer.scatter(flat, arrays), reference, COPY_BOUND),
    ]


def _row(name: str, count: int, ours: Callable[[], object], reference: Callable[[], object], bound: float) -> Row:
    """Medians of both over `count` coordinates, and of their ratio turn by turn: neighbours see the same machine.

    Both run on this one thread, so its processor time is taken: other processes do not count."""
    ours()
    reference()  # both are warm now
    start = time.thread_time()
    reference()
    times = max(1, round(SAMPLE_S / max(time.thread_time() - start, 1e-9)))
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(REPEATS):
        for function, found in ((ours, mine), (reference, theirs)):
            start = time.thread_time()
            for _ in range(times):
                function()
            found.append((time.thread_time() - start) / times)
    ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
    return Row(
        name=f"{name} (coordinates/s)",
        ours=count / statistics.median(mine),
        reference=count / statistics.median(theirs),
        ratio=ratio,
        bound=f">= {bound:g}",
        ok=ratio >= bound,
    )
