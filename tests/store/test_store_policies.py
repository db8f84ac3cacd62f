"""The applied policy in a state folder, and kills while it is being replaced."""

from pathlib import Path

import pytest

from mhfl_mq.store.files import Files, RealFiles, atomic_write
from mhfl_mq.store.policies import applied_policy, keep_policy


class Killed(Exception):
    """The process ended."""


def test_an_applied_policy_is_kept_with_its_signatures(tmp_path: Path) -> None:
    assert applied_policy(tmp_path) is None
    keep_policy(tmp_path, "first", "signed 1")
    keep_policy(tmp_path, "second", "signed 2")
    kept = applied_policy(tmp_path)
    assert kept is not None
    assert kept.read_text() == "second"
    assert kept.with_name("policy.yaml.sig").read_text() == "signed 2"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_at_any_write_leaves_a_policy_with_signatures_that_fit_it(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_policy(tmp_path, "first", "signed 1")
    done: list[Path] = []

    def write(files: Files, path: Path, data: bytes) -> None:
        if len(done) == writes:
            raise Killed
        done.append(path)
        atomic_write(files, path, data)

    monkeypatch.setattr("mhfl_mq.store.policies.atomic_write", write)
    with pytest.raises(Killed):
        keep_policy(tmp_path, "second", "signed 2", RealFiles())
    kept = applied_policy(tmp_path)
    assert kept is not None
    number = {"first": "1", "second": "2"}[kept.read_text()]
    assert f"signed {number}" in kept.with_name("policy.yaml.sig").read_text()
