"""The wheel is the product: it is built, unpacked alone, and run from there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, installed into a folder of its own (its dependencies come from this interpreter)."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    done = subprocess.run([*command, str(site), str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return site


def run_from(site: Path, cwd: Path, code: str) -> str:
    """What a Python program prints when the package comes from `site`."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_wheel_holds_the_shipped_folders_and_the_demo_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "mhfl_mq/_shipped/policies/default.yaml" in names
    assert "mhfl_mq/_shipped/broker_config/mosquitto/plain.conf" in names
    assert "mhfl_mq/_shipped/broker_config/nats/plain.conf" in names
    assert any(name.endswith("wind_demo.npz") for name in names)
    assert "mhfl_mq/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "scripts/"))]


def test_the_package_runs_from_the_wheel_and_finds_its_policies(installed: Path, tmp_path: Path) -> None:
    code = (
        "import mhfl_mq; from mhfl_mq.shipped import shipped;"
        "print(mhfl_mq.__file__); print(shipped('policies') / 'default.yaml')"
    )
    package, policy = run_from(installed, tmp_path, code).splitlines()
    assert Path(package).is_relative_to(installed)
    assert Path(policy).is_relative_to(installed)
    assert Path(policy).is_file()


def test_the_command_line_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['mhfl', '--help']; from mhfl_mq.cli import main; main()"
    text = run_from(installed, tmp_path, code)
    for command in ("demo", "broker", "aggregator", "device", "simulate", "status", "policy", "model", "ledger"):
        assert command in text


def test_a_shipped_policy_is_checked_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from mhfl_mq.shipped import shipped; from mhfl_mq.cli import main; import sys;"
        "sys.argv = ['mhfl', 'policy', 'check', str(shipped('policies') / 'default.yaml')]; main()"
    )
    assert "default.yaml" in run_from(installed, tmp_path, code)
