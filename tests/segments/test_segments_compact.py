"""Compacted updates: how much they lose, how small they are, and that no bytes of a peer do harm."""

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from mhfl_mq.errors import LocalMisuse, PeerFault, StoreFull
from mhfl_mq.segments import Accumulator, Bounds, Compacted, Feedback, Form, Vector, check_update, stored_update
from mhfl_mq.segments.blocks import BLOCK, read_blocks, source_length
from mhfl_mq.segments.compact import SCALED, norm, pack
from mhfl_mq.segments.compacted import HEADER, Index, header

FORMS = st.builds(
    Form, st.sampled_from((32, 16, 8)), st.one_of(st.just(1.0), st.floats(0.001, 1.0), st.sampled_from((0.5, 0.1)))
)
VECTORS = st.one_of(
    hn.arrays(np.float32, st.integers(1, 400), elements=st.floats(-1e3, 1e3, width=32)),
    hn.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for an update."""
    return tmp_path_factory.mktemp("compact") / "update"


def read(path: Path, length: int) -> Vector:
    """The update in a file, whole."""
    found = [block.copy() for _, block in read_blocks(stored_update(path), length)]
    return np.concatenate(found)


def normal(length: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(length, np.float32)


def allowed(vector: Vector, precision: int) -> npt.NDArray[np.float64]:
    """The error that each value may have when all are kept, in float64."""
    size = np.abs(vector).astype(np.float64)
    if precision == 32:
        return np.zeros(vector.size)
    peaks = np.repeat(np.maximum.reduceat(size, np.arange(0, vector.size, SCALED)), SCALED)[: vector.size]
    return size / 2040 + peaks * 2.0**-24 + 1e-42 if precision == 16 else peaks / 250 + 1e-42


# ---- the laws -------------------------------------------------------------------------------------------------


@given(vector=VECTORS, precision=st.sampled_from((32, 16, 8)))
def test_every_value_is_within_the_bound_of_its_precision(vector: Vector, precision: int, out: Path) -> None:
    pack(vector, Form(precision), out)
    lost = np.abs(vector.astype(np.float64) - read(out, vector.size))
    assert (lost <= allowed(vector, precision)).all()


@given(vector=VECTORS)
def test_float32_is_exact_and_has_no_header(vector: Vector, out: Path) -> None:
    packed = pack(vector, Form(), out)
    assert out.read_bytes() == vector.tobytes()
    assert (packed.size, packed.error, packed.residual) == (4 * vector.size, 0.0, None)


@given(vector=VECTORS, form=FORMS)
def test_what_is_kept_are_the_largest_and_all_else_is_zero(vector: Vector, form: Form, out: Path) -> None:
    packed = pack(vector, form, out)
    if packed.size == 4 * vector.size:  # raw was no larger
        assert out.read_bytes() == vector.tobytes()
        return
    got = read(out, vector.size)
    count = math.ceil(round(form.top_k * vector.size, 9))
    assert np.count_nonzero(got) <= count
    size = np.abs(vector)
    least = np.sort(size)[-count]
    far = size < least  # certainly not among the largest
    assert not got[far].any()
    near = size > least
    kept = vector[size >= least]
    peak = float(np.abs(kept).max(initial=0.0))
    assert (np.abs(vector[near].astype(np.float64) - got[near]) <= size[near] / 2040 + peak / 250 + 1e-42).all()


@given(vector=VECTORS, form=FORMS)
def test_the_file_is_never_larger_than_the_raw_update_and_says_its_length(
    vector: Vector, form: Form, out: Path
) -> None:
    packed = pack(vector, form, out)
    assert packed.size == out.stat().st_size <= 4 * vector.size
    assert source_length(stored_update(out)) == vector.size


@given(vector=VECTORS, form=FORMS)
def test_no_value_becomes_larger_than_the_largest_one(vector: Vector, form: Form, out: Path) -> None:
    bound = max(float(np.abs(vector).max()), 1e-30)
    pack(vector, form, out)
    assert check_update(stored_update(out), vector.size, bound).ok


@given(length=st.integers(1, 3000), form=FORMS)
def test_a_zero_update_stays_one(length: int, form: Form, out: Path) -> None:
    packed = pack(np.zeros(length, np.float32), form, out)
    assert not read(out, length).any()
    assert (packed.error, packed.residual) == (0.0, None)


@given(vector=VECTORS, form=FORMS)
def test_the_same_vector_gives_the_same_bytes(vector: Vector, form: Form, out: Path) -> None:
    pack(vector, form, out)
    first = out.read_bytes()
    pack(vector.copy(), form, out)
    assert out.read_bytes() == first


@given(
    vectors=st.lists(hn.arrays(np.float32, 60, elements=st.floats(-8, 8, width=32)), min_size=1, max_size=8),
    form=FORMS,
)
def test_what_was_sent_and_what_is_still_owed_are_all_that_there_was(
    vectors: list[Vector], form: Form, out: Path
) -> None:
    feedback, sent = Feedback(), np.zeros(60)
    for vector in vectors:
        packed = pack(feedback.corrected(vector), form, out)
        feedback = feedback.after(packed)
        sent += read(out, 60)
    owed = np.zeros(60) if feedback.residual is None else feedback.residual.astype(np.float64)
    assert np.allclose(sent + owed, np.sum(vectors, axis=0, dtype=np.float64), atol=1e-3)


# ---- sizes, blocks, faults of ours ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "most"),
    [(Form(16), 0.502), (Form(8), 0.252), (Form(8, 0.5), 0.16), (Form(8, 0.1), 0.052), (Form(32, 0.01), 0.013)],
)
def test_a_large_update_is_read_in_blocks_and_is_as_small_as_it_should_be(out: Path, form: Form, most: float) -> None:
    vector = normal(2 * BLOCK + 12345)
    packed = pack(vector, form, out)
    assert packed.size <= most * 4 * vector.size
    got = read(out, vector.size)
    assert packed.residual is not None
    assert np.array_equal(vector - got, packed.residual)
    assert packed.error == norm(packed.residual, vector.size) / norm(vector, vector.size)
    first = next(iter(read_blocks(stored_update(out), BLOCK)))[1]
    assert np.array_equal(first, got[:BLOCK])


def test_far_between_coordinates_are_found_again(out: Path) -> None:
    vector = np.zeros(3 * BLOCK, np.float32)
    where = np.array([0, 254, 255, 510, 1021, BLOCK - 1, BLOCK, 2 * BLOCK + 7, 3 * BLOCK - 1])
    vector[where] = np.arange(1, where.size + 1)
    pack(vector, Form(32, 0.5), out)
    assert np.array_equal(read(out, vector.size), vector)


def test_the_fold_takes_it_as_it_is(out: Path) -> None:
    vector = normal(BLOCK + 77)
    pack(vector, Form(8, 0.25), out)
    unpacked = read(out, vector.size)
    sums = []
    for source in (stored_update(out), unpacked):
        total = Accumulator((100, vector.size), Bounds(1, 2.0, 10.0))
        total.fold(source, 1, 2.0)
        new = np.empty(vector.size, np.float32)
        total.finalize(np.zeros(vector.size, np.float32), new)
        sums.append(new)
    assert np.array_equal(sums[0], sums[1])


def test_one_that_turns_out_bad_is_taken_back_out_of_the_sum(out: Path) -> None:
    vector = normal(2 * BLOCK)
    pack(vector, Form(8), out)
    data = bytearray(out.read_bytes())
    at = HEADER + 4 * (BLOCK // SCALED + 3)  # a scale of the second block
    data[at : at + 4] = NAN
    out.write_bytes(data)
    total = Accumulator((vector.size,), Bounds(2, 1.0, 10.0))
    with pytest.raises(PeerFault, match=f"scale {BLOCK // SCALED + 3} is nan"):
        total.fold(stored_update(out), 0, 1.0)
    total.fold(vector, 0, 1.0)
    new = np.empty(vector.size, np.float32)
    total.finalize(np.zeros(vector.size, np.float32), new)
    assert np.array_equal(new, vector)


@pytest.mark.parametrize("form", [Form(), Form(8)])
def test_a_disk_without_room_is_said_to_be_one(form: Form) -> None:
    with pytest.raises(StoreFull, match="no room left while writing an update"):
        pack(normal(100_000), form, "/dev/full")


@pytest.mark.parametrize("form", [Form(), Form(8)])
def test_an_update_that_is_not_finite_is_not_packed(out: Path, form: Form) -> None:
    vector = np.array([0.0, 1.0, np.nan, np.inf], np.float32)
    with pytest.raises(LocalMisuse, match="coordinate 2 of the update is nan"):
        pack(vector, form, out)


@pytest.mark.parametrize(("precision", "top_k"), [(64, 1.0), (8, 0.0), (8, 1.5), (8, float("nan"))])
def test_a_form_that_there_is_not_is_refused(precision: int, top_k: float) -> None:
    with pytest.raises(LocalMisuse):
        Form(precision, top_k)


# ---- what a peer may send -------------------------------------------------------------------------------------


def whole(**changes: int) -> bytes:
    """int8 of 4 coordinates, of which 2 are kept, by gaps: 3 and 127 times 0.5 at coordinates 1 and 3."""
    parts = {"precision": 8, "index": Index.GAPS, "block": 1024, "length": 4, "kept": 2, "names": 2, **changes}
    return header(**parts) + bytes([1, 1]) + struct.pack("<f", 0.5) + bytes([3, 127])  # type: ignore[arg-type]


def fault(path: Path, data: bytes, length: int = 4) -> str:
    """What is said about these bytes as an update of `length` coordinates."""
    path.write_bytes(data)
    try:
        source = stored_update(path)
    except PeerFault as refused:
        return refused.what
    return check_update(source, length, 1e3).reason


def test_the_bytes_are_those_that_the_description_says(out: Path) -> None:
    assert fault(out, whole()) == ""
    assert read(out, 4).tolist() == [0.0, 1.5, 0.0, 63.5]


NAN = struct.pack("<f", math.nan)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (whole()[:20], "its header alone is"),
        (whole()[:-1], "another size"),
        (whole() + b"\0", "another size"),
        (whole()[:4] + b"\2" + whole()[5:], "of form 2, this release reads 1"),
        (whole(length=5), "the update has 5 coordinates, its tier has 4"),
        (whole(length=0, kept=0), "keeps 0 of 0"),
        (whole(length=2**63, kept=2**62), "gaps of 2 bytes"),
        (whole(kept=5), "keeps 5 of 4"),
        (whole(precision=4), "precision 4"),
        (whole(index=7), "index 7"),
        (whole(names=9), "gaps of 9 bytes"),
        (whole(block=0), "0 values share a scale"),
        (whole(block=2**31), "share a scale"),
        (whole(index=Index.MASK), "a mask of 2 bytes for 4 coordinates"),
        (whole().replace(bytes([1, 1]), bytes([1, 200])), "its gaps go beyond|its index names 1"),
        (whole().replace(bytes([1, 1]), bytes([1, 255])), "gaps of 2|in the middle"),
        (whole().replace(struct.pack("<f", 0.5), NAN), "scale 0 is nan"),
        (whole().replace(struct.pack("<f", 0.5), struct.pack("<f", -1.0)), "scale 0 is -1"),
        (whole().replace(struct.pack("<f", 0.5), struct.pack("<f", 3e38)), "coordinate 1 is inf"),
        (whole().replace(struct.pack("<f", 0.5), struct.pack("<f", 500.0)), "beyond the round's bound"),
        (header(16, Index.ALL, 1024, 1, 1, 0) + struct.pack("<f", 1.0) + struct.pack("<e", math.nan), "has 1 coord"),
        (header(32, Index.MASK, 0, 4, 1, 1) + b"\x11" + struct.pack("<f", 1.0), "coordinates that there are not"),
        (header(32, Index.MASK, 0, 4, 1, 1) + b"\x03" + struct.pack("<f", 1.0), "more than the 1 coordinates"),
        (header(32, Index.MASK, 0, 4, 1, 1) + b"\x00" + struct.pack("<f", 1.0), "names 0 coordinates, it keeps 1"),
        (header(32, Index.ALL, 0, 4, 4, 0) + bytes(16), "or is raw float32"),
    ],
)
def test_bytes_that_do_not_fit_together_are_refused_with_the_reason(out: Path, data: bytes, says: str) -> None:
    assert any(one in fault(out, data) for one in says.split("|")), fault(out, data)


@given(
    data=st.data(),
    form=FORMS,
    length=st.integers(1, 700),
    seed=st.integers(0, 9),
)
def test_no_bytes_crash_the_reader(data: st.DataObject, form: Form, length: int, seed: int, out: Path) -> None:
    vector = normal(length, seed)
    pack(vector, form, out)
    raw = bytearray(out.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.sampled_from(("flip", "cut", "grow"))):
            case "flip" if raw:
                at = data.draw(st.integers(0, min(len(raw), 2 * HEADER) - 1))
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[data.draw(st.integers(0, len(raw))) :]
            case _:
                raw += data.draw(st.binary(max_size=9))
    said = fault(out, bytes(raw), length)
    assert said == "" or len(said) < 200


def test_a_header_that_claims_a_huge_update_costs_nothing(out: Path) -> None:
    out.write_bytes(header(8, Index.GAPS, 0, 2**62, 0, 0))
    source = stored_update(out)
    assert isinstance(source, Compacted)
    assert "its tier has 4" in check_update(source, 4, 1.0).reason
