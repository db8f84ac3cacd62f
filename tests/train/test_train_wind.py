"""The demo's task on its real data."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mhfl_mq.errors import TaskError
from mhfl_mq.families import make_algorithm
from mhfl_mq.segments import Tier
from mhfl_mq.train import wind
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.task import load_task

TIERS = (Tier("small", 1 / 16), Tier("middle", 1 / 4), Tier("large", 1.0))
SHIPPED = Path(wind.__file__).parent / "data" / wind.FILE


def test_the_shipped_file_is_the_one_that_its_attribution_names() -> None:
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest == wind.SHA256
    attribution = SHIPPED.with_name("ATTRIBUTION.txt").read_text()
    assert digest in attribution
    assert "ENGIE, La Haute Borne wind farm, Open Licence 2.0" in attribution


def test_tiers_are_nested_widths_of_one_network() -> None:
    models = TaskModels(load_task("wind"), TIERS)
    assert models.layout.lengths == (217, 2293, 32197)
    assert {name for name, _ in models.build(0).module.named_parameters()} == set(models.layout.shapes(2))


def test_a_width_between_groups_is_rounded_and_never_zero() -> None:
    assert wind.model(TierShape(0.11)).conv1.out_channels == 4
    assert wind.model(TierShape(1e-6)).conv1.out_channels == 2
    with pytest.raises(TaskError, match="a depth of 2"):
        wind.model(TierShape(1.0, 2))


def test_eight_natural_shards_and_a_test_part() -> None:
    shards = [wind.device_data(str(k), None) for k in range(wind.SHARDS)]
    assert [len(one) for one in shards] == [600] * 8
    assert len(wind.device_data("", None)) == 4800
    by_name = wind.device_data("R80711-summer", None)
    assert torch.equal(by_name.inputs, shards[1].inputs)
    assert wind.TASK.test_data is not None
    assert len(wind.TASK.test_data(None)) == 2000
    assert shards[0].inputs.shape[1:] == (5, 12)
    assert float(shards[0].inputs.abs().max()) <= wind.FARTHEST


@pytest.mark.parametrize("devices", [1, 3, 6, 8, 20])
def test_any_number_of_devices_shares_the_training_windows_without_overlap(devices: int) -> None:
    data = wind._load(None)
    parts = [wind._training_index(data, f"{k}/{devices}") for k in range(devices)]
    together = np.concatenate(parts)
    assert min(len(part) for part in parts) > 0
    assert sorted(together.tolist()) == np.flatnonzero(~data.test).tolist()


def test_the_part_held_out_for_settings_is_a_sixth_of_the_training_windows_and_no_test_window() -> None:
    data = wind._load(None)
    kept, held = (wind.training_part("2", None, held_out=flag) for flag in (False, True))
    assert (len(kept), len(held)) == (500, 100)
    rows = {row.numpy().tobytes() for row in data.inputs[torch.from_numpy(data.test)]}
    assert not any(row.numpy().tobytes() in rows for row in held.inputs)


def test_three_unlike_architectures_have_one_feature_size() -> None:
    tiers = tuple(Tier(name, architecture=name) for name in wind.TASK.architectures)
    models = TaskModels(wind.TASK, tiers, make_algorithm("fedproto").plan)
    assert [tier.name for tier in tiers] == ["mlp", "cnn", "lstm"]
    assert models.sizes.features == 32
    assert models.layout.lengths == (5 * 33,) * 3
    inputs = wind.device_data("0", None).inputs[:7]
    assert all(models.build(k).module(inputs).shape == (7, 5) for k in range(3))


def test_the_public_set_is_a_tenth_of_the_training_windows_without_their_bands(tmp_path: Path) -> None:
    public = wind.public_data(None)
    assert len(public) == 480
    assert not public.targets.any()
    rows = {row.numpy().tobytes() for row in wind.device_data("", None).inputs}
    assert all(row.numpy().tobytes() in rows for row in public.inputs)
    assert torch.equal(public.inputs, wind.public_data(tmp_path).inputs)  # all sides have the same, whatever their data


@pytest.mark.parametrize("shard", ["8", "R80711", "6/6", "1/0", "-1", "a/b"])
def test_a_shard_that_is_not_there_is_refused_with_those_that_are(shard: str) -> None:
    with pytest.raises(TaskError, match=r"there is no shard .*R80711-winter"):
        wind.device_data(shard, None)


def test_more_devices_than_windows_is_refused() -> None:
    with pytest.raises(TaskError, match="no window is left for device 4800 of 4801"):
        wind.device_data("4800/4801", None)


def test_a_folder_with_the_same_file_is_as_good_and_one_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"wind_demo\.npz cannot be read: No such file"):
        wind.device_data("0", tmp_path)
    (tmp_path / wind.FILE).write_bytes(SHIPPED.read_bytes())
    assert torch.equal(wind.device_data("0", tmp_path).inputs, wind.device_data("0", None).inputs)


def arrays() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    with np.load(SHIPPED) as opened:
        return {name: opened[name] for name in opened.files}


@pytest.mark.parametrize("missing", ["X", "scale", "y", "client", "test", "client_names"])
def test_a_file_that_lacks_an_array_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    kept = {name: value for name, value in arrays().items() if name != missing}
    np.savez(tmp_path / wind.FILE, allow_pickle=False, **kept)
    with pytest.raises(
        TaskError, match=rf"the array '{missing}' of wind_demo\.npz is missing; scripts/build_wind_demo.py"
    ):
        wind.device_data("0", tmp_path)


def test_a_file_of_other_shapes_or_no_npz_at_all_is_refused(tmp_path: Path) -> None:
    held = arrays()
    broken = [
        ({**held, "y": held["y"][:-1]}, "do not fit together"),
        ({**held, "y": np.full(len(held["y"]), 9, np.uint8)}, "do not fit together"),
        ({**held, "X": np.asarray(held["X"], np.float64)}, "the array 'X' of wind_demo.npz is float64"),
    ]
    for number, (content, said) in enumerate(broken):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / wind.FILE, allow_pickle=False, **content)
        with pytest.raises(TaskError, match=said):
            wind.device_data("0", folder)
    (tmp_path / wind.FILE).write_bytes(b"not a zip")
    with pytest.raises(TaskError, match="is no npz file"):
        wind.device_data("0", tmp_path)


def test_a_pickle_inside_the_file_is_refused_unread(tmp_path: Path) -> None:
    content = {**arrays(), "client_names": np.array([{"a": 1}] * 8, dtype=object)}
    np.savez(tmp_path / wind.FILE, allow_pickle=True, **content)
    with pytest.raises(TaskError, match="is no npz file"):
        wind.device_data("0", tmp_path)


def test_a_damaged_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wind, "SHA256", "0" * 64)
    wind._load.cache_clear()
    try:
        with pytest.raises(TaskError, match="the file was changed"):
            wind.device_data("0", None)
    finally:
        wind._load.cache_clear()


def test_natural_shards_differ_in_their_mix_of_bands() -> None:
    strong = [float((wind.device_data(str(k), None).targets == 4).float().mean()) for k in range(8)]
    assert all(winter > summer for winter, summer in zip(strong[::2], strong[1::2], strict=True))
