"""Shipped files are found in a checkout and in an installed wheel."""

from pathlib import Path

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.shipped import shipped


def test_a_checkout_has_its_folders_beside_the_package() -> None:
    assert shipped("broker_config").joinpath("mosquitto", "plain.conf").is_file()


def test_a_wheel_has_them_inside_the_package(tmp_path: Path) -> None:
    inside = tmp_path / "site" / "mhfl_mq" / "_shipped" / "policies"
    inside.mkdir(parents=True)
    (tmp_path / "site" / "policies").mkdir()
    assert shipped("policies", package=tmp_path / "site" / "mhfl_mq") == inside


def test_a_missing_folder_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"not part of this installation.*install mhfl-mq again"):
        shipped("no_such_folder")
