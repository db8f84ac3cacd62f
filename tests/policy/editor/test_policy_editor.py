"""An editor marks errors where `mhfl policy check` finds them, completes keys and says what they mean."""

import json
from pathlib import Path

import pytest

from mhfl_mq.cli.policies import installed
from mhfl_mq.policy.load import check_policy
from mhfl_mq.policy.schema import json_schema
from tests.policy.editor.language_server import LanguageServer

SERVER = Path(__file__).parents[3] / ".venv/node/node_modules/.bin/yaml-language-server"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.exists(), reason="needs npm: `make test-long` installs yaml-language-server with it"),
]

MODELINE = "# yaml-language-server: $schema=./policy.schema.json\n"
WRONG = (
    MODELINE
    + """\
apiVersion: mhfl-mq/v2
kind: FederationPolicy
metadata: {description: プレスライン, descripton: 異常検知}
spec:
  tiers:
    - width: 0.5
    - name: a b
      width: 1.6
      budget: {step_ms: fast}
  algorithm:
    name: heterfl
    options: {steps: 20.5, raet: 0.1}
  participation:
    cohort: many
    over_provision: 0.5
    quorum: {min: 2, fraction: 60%}
    deadline: 120
  schedule: {interval: 12:30, max_rounds: yes}
  limits:
    update_bytes: 12 XB
  communication: {precision: float8, every: 0}
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the schema, as `mhfl policy schema -o` writes it."""
    (tmp_path / "policy.schema.json").write_text(json.dumps(json_schema(installed())), "utf-8")
    return tmp_path


async def test_it_marks_the_places_that_check_finds(folder: Path) -> None:
    file = folder / "wrong.yaml"
    file.write_text(WRONG, "utf-8")
    found = [(one.line, one.column) for one in check_policy(file, installed())]
    async with LanguageServer(SERVER, folder) as server:
        marked = [(line, column) for line, column, _ in await server.open(file)]
    assert len(found) == 19
    assert marked == found


async def test_it_marks_nothing_in_a_shipped_policy(folder: Path, shipped_policies: list[Path]) -> None:
    for policy in shipped_policies:
        file = folder / policy.name
        file.write_text(MODELINE + policy.read_text("utf-8"), "utf-8")
        async with LanguageServer(SERVER, folder) as server:
            assert await server.open(file) == []


async def test_it_completes_keys_and_names_and_says_what_they_mean(folder: Path) -> None:
    file = folder / "begun.yaml"
    file.write_text(MODELINE + "spec:\n  algorithm:\n    name: \n  participation:\n    \n", "utf-8")
    async with LanguageServer(SERVER, folder) as server:
        await server.open(file)
        assert {"heterofl", "fedproto", "auto"} <= await server.complete(4, 11)
        assert {"cohort", "deadline", "quorum"} <= await server.complete(6, 5)
        assert "an algorithm that is installed" in await server.hover(4, 6)
