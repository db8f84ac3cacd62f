"""Holds arrays that our side ended its rounds with against the reference's, on the golden check's federation.

Each function takes the initial arrays (the full model's, by name) and ours after round 1, 2, ...: as many rounds as
are given are compared. What our side draws by its own luck, the caller hands over.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tests.golden.network import Arrays
from tests.golden.reference import depthfl_round, depthfl_scores, fedrolex_round, fjord_round, heterofl_round
from tests.golden.setting import descent, devices

TOLERANCE = 1e-6  # float32 on both sides, and two ways of rounding a mean


def assert_heterofl(initial: Arrays, ours: Sequence[Mapping[str, npt.NDArray[np.float32]]]) -> None:
    """Ours are HeteroFL's rounds."""
    arrays = initial
    for number, here in enumerate(ours, 1):
        arrays = heterofl_round(arrays, devices(number), descent(number))
        assert_same(here, arrays, number)


def assert_fedrolex(
    initial: Arrays,
    ours: Sequence[Mapping[str, npt.NDArray[np.float32]]],
    offsets: Sequence[tuple[int, int]],
) -> None:
    """Ours are FedRolex's rounds; `offsets` has, for each round, where the windows of streams A and B begin.

    Ours are in the full model's own order of channels, not in a round's rolled one.
    """
    arrays = initial
    for number, here in enumerate(ours, 1):
        a, b = offsets[number - 1]
        arrays = fedrolex_round(arrays, devices(number), descent(number), offset_a=a, offset_b=b)
        assert_same(here, arrays, number)


def assert_fjord(
    initial: Arrays,
    ours: Sequence[Mapping[str, npt.NDArray[np.float32]]],
    drawn: Sequence[Sequence[Sequence[float]]],
    *,
    distil: bool,
) -> None:
    """Ours are FjORD's rounds; `drawn[round][device][minibatch]` are widths, devices as in `setting.PRESENT`."""
    arrays = initial
    for number, here in enumerate(ours, 1):
        arrays = fjord_round(arrays, devices(number, drawn[number - 1]), descent(number), distil=distil)
        assert_same(here, arrays, number)


def assert_depthfl(
    initial: Arrays, ours: Sequence[Mapping[str, npt.NDArray[np.float32]]], mutual: Sequence[float]
) -> None:
    """Ours are DepthFL's rounds; `mutual` is the lambda of each (see `reference.depthfl_ramp`)."""
    arrays = initial
    for number, here in enumerate(ours, 1):
        arrays = depthfl_round(arrays, devices(number), descent(number), mutual=mutual[number - 1])
        assert_same(here, arrays, number)


def assert_ensemble(arrays: Arrays, depth: int, inputs: npt.NDArray[np.float32], ours: npt.NDArray[np.float32]) -> None:
    """Our scores of these images are DepthFL's answer with `depth` blocks."""
    np.testing.assert_allclose(ours, depthfl_scores(arrays, depth, inputs), rtol=0, atol=TOLERANCE)


def assert_same(ours: Mapping[str, npt.NDArray[np.float32]], reference: Arrays, round_number: int) -> None:
    """Every array of the full model, by name, to the tolerance."""
    assert set(ours) == set(reference)
    for name, expected in reference.items():
        told = f"{name} after round {round_number}"
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=TOLERANCE, err_msg=told)
