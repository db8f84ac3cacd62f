"""Rolling: the channels of a group moved around in a circle, so that the same prefix holds another window of them.

Channels are numbered by nobody but the layout: when every array that counts a group's channels is permuted alike, the
full model computes what it computed before. So FedRolex (Alam et al., NeurIPS 2022, "FedRolex: Model-Heterogeneous
Federated Learning with Rolling Sub-Model Extraction") is HeteroFL in which every new version is also rolled: all
devices of a round train the same window, and nothing about it is sent.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments.layout import Box, Layout, Parameter
from mhfl_mq.segments.pack import Vector

__all__ = ["next_steps", "rolled"]


def next_steps(layout: Layout, step: int = 1) -> dict[str, int]:
    """How many channels each group is rolled by from one version to the next: `step` times what it may be rolled by.

    The published rule is one channel a round, in all layers alike, around the end: the window of round r starts at
    channel r mod C (FedRolex, Alam et al., NeurIPS 2022). Groups of which the model reads the order stay where they
    are.
    """
    return {group: step * unit % layout.groups[group][-1] for group, unit in layout.rolls.items()}


def rolled(layout: Layout, flat: Vector, steps: Mapping[str, int], out: Vector | None = None) -> Vector:
    """The full model's vector (float32) with the channels of each group in `steps` moved down by so many, in `out`.

    What was channel c of a group becomes channel (c - step) mod C, in every block (head, gate) by itself and with
    all of its inner indices; a parameter counts whatever tier it first appears in. Groups that are not named stay.
    `out` is made when it is not given, and is not `flat`. Beside the two vectors it takes the memory of the largest
    array. For layouts of nested tiers, in which the largest tier's vector is the whole. Whether a roll changes what
    the model computes is not known here: see `Layout.rolls`.
    """
    moves = _moves(layout, steps)
    whole = layout.lengths[-1]
    to = np.empty(whole, np.float32) if out is None else out
    for vector in (flat, to):
        if vector.dtype != np.float32 or vector.shape != (whole,) or not vector.flags.c_contiguous:
            raise LocalMisuse(f"a vector of {vector.dtype} {vector.shape}: the full model's is float32 ({whole},)")
    if np.may_share_memory(flat, to):
        raise LocalMisuse("a vector cannot be rolled onto itself", remedy="give another one as out")
    boxes: dict[int, list[Box]] = {}
    for box in layout.boxes:
        boxes.setdefault(box.parameter, []).append(box)
    for index, parts in boxes.items():
        parameter = layout.parameters[index]
        if any(axis.group in moves for axis in parameter.axes):
            _roll(parameter, parts, moves, flat, to)
        else:
            for box in parts:
                to[box.start : box.stop] = flat[box.start : box.stop]
    return to


def _moves(layout: Layout, steps: Mapping[str, int]) -> dict[str | None, int]:
    """Group -> by how many channels, between 1 and all but one."""
    for group, step in steps.items():
        if group not in layout.groups or type(step) is not int:
            raise LocalMisuse(f"group {group!r} cannot be rolled by {step!r}: it is a group's number of channels")
    moves = {group: step % layout.groups[group][-1] for group, step in steps.items()}
    return {group: step for group, step in moves.items() if step}


def _roll(parameter: Parameter, boxes: list[Box], moves: Mapping[str | None, int], flat: Vector, out: Vector) -> None:
    """One parameter: its rectangles are put together, and cut again out of the array as it looks from the new start."""
    shape = [(a.blocks, a.channels, a.inner) for a in parameter.axes]
    array = np.empty([n for axis in shape for n in axis], np.float32)
    for box in boxes:
        array[_slices(box.spans)] = _view(flat, parameter, box)
    for box in boxes:
        view = _view(out, parameter, box)
        pieces = (
            _pieces(span, moves.get(axis.group, 0), axis.channels)
            for span, axis in zip(box.spans, parameter.axes, strict=True)
        )
        for piece in itertools.product(*pieces):
            view[_slices([into for into, _ in piece])] = array[_slices([taken for _, taken in piece])]


def _view(flat: Vector, parameter: Parameter, box: Box) -> Vector:
    sizes = [
        n for a, (low, high) in zip(parameter.axes, box.spans, strict=True) for n in (a.blocks, high - low, a.inner)
    ]
    return flat[box.start : box.stop].reshape(sizes)


_Span = tuple[int, int]


def _slices(spans: "tuple[_Span, ...] | list[_Span]") -> tuple[slice, ...]:
    """Blocks and inner indices whole, of the channels those of the spans."""
    return tuple(part for low, high in spans for part in (slice(None), slice(low, high), slice(None)))


def _pieces(span: _Span, step: int, channels: int) -> list[tuple[_Span, _Span]]:
    """New channels of a span (counted from its start) and the old ones that they were: one run, or two at the end."""
    low, high = span
    start, length = (low + step) % channels, high - low
    first = min(length, channels - start)
    pieces = [((0, first), (start, start + first))]
    if first < length:
        pieces.append(((first, length), (0, length - first)))
    return pieces
