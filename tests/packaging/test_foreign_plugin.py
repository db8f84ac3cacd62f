"""A third party's distribution is built, installed beside the wheel, found by name and used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ACME = Path(__file__).parents[2] / "examples" / "acme_stage"

USE = """
import numpy as np
from mhfl_mq.segments import Contribution, Domain
from mhfl_mq.stages import check_order, find_stages, open_sum, seal
(stage,) = find_stages(["acme-clip"])
check_order([stage])
options = {"norm": 5.0}
long = Contribution("parameters", Domain.REAL, {"prefix": np.array([6.0, 8.0])}, np.array([1.0]))
short = Contribution("parameters", Domain.REAL, {"prefix": np.array([0.3, 0.4])}, np.array([1.0]))
sealed = [seal([stage.sealer(name, options, None)], one) for name, one in (("a", long), ("b", short))]
total = open_sum([stage.opener(options, None)], sealed[0] + sealed[1])
print(total.sums["prefix"].tolist(), total.weights.tolist())
"""


def run(code: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=cwd
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the foreign distribution installed."""
    folder = tmp_path_factory.mktemp("acme")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(folder), str(ACME)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_a_foreign_stage_is_found_by_its_entry_point_and_used(site: Path, tmp_path: Path) -> None:
    done = run(USE, site, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[3.3, 4.4] [2.0]"


def test_a_foreign_stage_that_is_not_installed_is_refused_by_name(tmp_path: Path) -> None:
    done = run("from mhfl_mq.stages import find_stages; find_stages(['acme-clip'])", tmp_path, tmp_path)
    assert done.returncode != 0
    assert "there is no stage 'acme-clip'" in done.stderr


def test_a_policy_that_names_a_stage_is_not_run_without_it(site: Path, tmp_path: Path) -> None:
    code = (
        "from mhfl_mq.shipped import shipped; import pathlib;"
        "text = (shipped('policies') / 'default.yaml').read_text();"
        "text = text.replace('stages: []', 'stages: [{name: acme-clip}]');"
        "pathlib.Path('p.yaml').write_text(text);"
        "from mhfl_mq.cli.policies import read_installed_policy; from mhfl_mq.run.rules import algorithm_of;"
        "algorithm_of(read_installed_policy(pathlib.Path('p.yaml')))"
    )
    done = run(code, site, tmp_path)
    assert done.returncode != 0
    assert "runs no privacy stages yet" in done.stderr, done.stderr[-2000:]
