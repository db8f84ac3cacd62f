"""Random layouts and random updates for the laws of the segment core."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from mhfl_mq.segments import Axis, Layout, Parameter, Tier, Vector


@st.composite
def _layouts(draw: st.DrawFn) -> Layout:
    """Any nested layout of up to four tiers, of width, depth or both, small enough to enumerate."""
    tiers = draw(st.integers(1, 4))
    groups: dict[str, tuple[int, ...]] = {}
    for g in range(draw(st.integers(1, 3))):
        steps = draw(st.lists(st.integers(0, 2), min_size=tiers, max_size=tiers))
        groups[f"g{g}"] = tuple(int(w) for w in 1 + np.cumsum(steps))
    parameters = [
        # One axis whose width grows with every tier, so that no tier is empty.
        Parameter("base", (Axis(tiers, group="base"),))
    ]
    groups["base"] = tuple(range(1, tiers + 1))
    for i in range(draw(st.integers(1, 4))):
        axes = []
        for _ in range(draw(st.integers(0, 3))):
            group = draw(st.sampled_from([None, *sorted(groups)]))
            channels = draw(st.integers(1, 3)) if group is None else groups[group][-1]
            axes.append(Axis(channels, draw(st.integers(1, 3)), draw(st.integers(1, 2)), group))
        parameters.append(Parameter(f"p{i}", tuple(axes), since=draw(st.integers(0, tiers - 1))))
    used = {a.group for p in parameters for a in p.axes}
    names = draw(st.permutations(parameters))
    return Layout(
        tuple(Tier(f"t{k}", (k + 1) / tiers) for k in range(tiers)),
        {name: widths for name, widths in groups.items() if name in used},
        tuple(names),
    )


@st.composite
def _any_layouts(draw: st.DrawFn) -> Layout:
    """Any layout: nested, nested with arrays that belong to one tier alone, those alone, or the same for every tier."""
    nested = draw(_layouts())
    kind = draw(st.sampled_from(["nested", "mixed", "apart", "whole"]))
    if kind == "nested":
        return nested
    if kind == "whole":
        groups = {name: (widths[-1],) * len(widths) for name, widths in nested.groups.items()}
        return Layout(nested.tiers, groups, tuple(Parameter(p.name, p.axes) for p in nested.parameters), whole=True)
    last = len(nested.tiers) - 1
    sizes = st.lists(st.integers(1, 3).map(Axis), max_size=2).map(tuple)
    owners = list(range(last + 1)) if kind == "apart" else draw(st.lists(st.integers(0, last), min_size=1, max_size=4))
    own = [
        Parameter(f"{nested.tiers[k].name}:own{i}", draw(sizes), only=k)
        for i, k in enumerate(draw(st.permutations(owners)))
    ]
    if kind == "mixed":
        return Layout(nested.tiers, nested.groups, tuple(draw(st.permutations([*nested.parameters, *own]))))
    shared = [Parameter("shared", draw(sizes))] if draw(st.booleans()) else []
    return Layout(nested.tiers, {}, tuple(draw(st.permutations([*shared, *own]))))


def members(layout: Layout, parameter: Parameter, tier: int) -> npt.NDArray[np.bool_]:
    """Slow and independent: which coordinates of the full array the model of a tier has, one index at a time."""
    shape = tuple(axis.size for axis in parameter.axes)
    held = np.zeros(shape, np.bool_)
    for where in np.ndindex(*shape):
        held[where] = (tier == parameter.only if parameter.only >= 0 else tier >= parameter.since) and all(
            axis.group is None or (i // axis.inner) % axis.channels < layout.groups[axis.group][tier]
            for i, axis in zip(where, parameter.axes, strict=True)
        )
    return held


@dataclass(frozen=True, slots=True)
class Oracle:
    """The definitions that the fast code is compared with."""

    layout: Layout

    def flat_of(self, full: dict[str, Vector]) -> Vector:
        """The full model's vector, by one tier per parameter array scattered through the product."""
        from mhfl_mq.segments import Packer

        return Packer(self.layout, len(self.layout.tiers) - 1).gather(full)

    def cut(self, full: dict[str, Vector], tier: int) -> dict[str, Vector]:
        """The arrays of a tier's model, cut out of the full model index by index."""
        return {
            p.name: full[p.name][members(self.layout, p, tier)].reshape(shape)
            for p in self.layout.parameters
            if (shape := self.layout.shape(p, tier)) is not None
        }

    def average(
        self, head: dict[str, Vector], updates: list[tuple[int, dict[str, Vector], float]]
    ) -> dict[str, Vector]:
        """Per-coordinate masked averaging of deltas, in exact rational numbers (HeteroFL's rule)."""
        new = {}
        for p in self.layout.parameters:
            out = np.array(head[p.name])
            placed = []
            for tier, arrays, weight in updates:
                held = members(self.layout, p, tier)
                delta = np.zeros(out.shape, np.float32)
                if held.any():
                    delta[held] = arrays[p.name].ravel()
                placed.append((held, delta, Fraction(weight)))
            for where in np.ndindex(*out.shape):
                mine = [(d, w) for held, d, w in placed if held[where]]
                if mine:
                    total = sum((Fraction(float(d[where])) * w for d, w in mine), Fraction(0))
                    out[where] = np.float32(float(out[where]) + float(total / sum(w for _, w in mine)))
            new[p.name] = out
        return new


@pytest.fixture(scope="session")
def layouts() -> st.SearchStrategy[Layout]:
    """A strategy of nested layouts."""
    return _layouts()


@pytest.fixture(scope="session")
def any_layouts() -> st.SearchStrategy[Layout]:
    """A strategy of all layouts: not every tier is a prefix."""
    return _any_layouts()


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    """The slow definitions."""
    return Oracle
