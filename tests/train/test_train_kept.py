"""What a device keeps between rounds: found again, of the right round, of use to its maker only."""

from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.train.kept import read_kept, write_kept

MAKER = "fedper 1dc5 tier 0"
ARRAYS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "rounds": np.array(3)}


def numbers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    write_kept(tmp_path / "kept", 4, MAKER, ARRAYS)
    found = read_kept(tmp_path / "kept", 5, MAKER)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_round_that_is_trained_again_begins_as_it_did(tmp_path: Path) -> None:
    write_kept(tmp_path, 4, MAKER, {"a": np.array([4.0])})
    write_kept(tmp_path, 5, MAKER, {"a": np.array([5.0])})
    assert read_kept(tmp_path, 5, MAKER)["a"].tolist() == [4.0]
    write_kept(tmp_path, 5, MAKER, {"a": np.array([5.5])})
    assert read_kept(tmp_path, 6, MAKER)["a"].tolist() == [5.5]


def test_two_files_stay_and_those_of_a_lost_federation_go(tmp_path: Path) -> None:
    for number in (3, 4, 9):
        write_kept(tmp_path, number, MAKER, ARRAYS)
    assert numbers(tmp_path) == {"kept-4.npz", "kept-9.npz"}
    assert read_kept(tmp_path, 1, MAKER) == {}
    write_kept(tmp_path, 1, MAKER, ARRAYS)
    assert numbers(tmp_path) == {"kept-1.npz"}


def test_what_another_algorithm_layout_or_tier_kept_is_of_no_use(tmp_path: Path) -> None:
    write_kept(tmp_path, 4, MAKER, ARRAYS)
    assert read_kept(tmp_path, 5, "fedper 1dc5 tier 1") == {}


def test_nothing_to_keep_leaves_no_file_and_no_folder_is_nothing_kept(tmp_path: Path) -> None:
    write_kept(tmp_path / "none", 4, MAKER, {})
    assert not (tmp_path / "none").exists()
    assert read_kept(tmp_path / "none", 5, MAKER) == {}
    assert read_kept(None, 5, MAKER) == {}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x80\x04\x95pickle"])
def test_a_damaged_file_is_named_and_nothing_is_begun_anew_unasked(tmp_path: Path, damage: bytes) -> None:
    write_kept(tmp_path, 4, MAKER, ARRAYS)
    (tmp_path / "kept-4.npz").write_bytes(damage)
    with pytest.raises(TrainingFailed, match=r"kept-4\.npz: .*round 4 cannot be read: it is no file.*delete it"):
        read_kept(tmp_path, 5, MAKER)


def test_an_array_of_objects_is_refused_for_it_would_be_a_pickle(tmp_path: Path) -> None:
    with (tmp_path / "kept-4.npz").open("wb") as file:
        np.savez(file, **{"@for": np.array(MAKER), "a": np.array([{}], dtype=object)})  # type: ignore[arg-type]
    with pytest.raises(TrainingFailed, match="cannot be read"):
        read_kept(tmp_path, 5, MAKER)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file in the way")
    with pytest.raises(TrainingFailed, match="cannot be written"):
        write_kept(tmp_path / "kept", 4, MAKER, ARRAYS)
