"""`mhfl ledger` and `mhfl model` over a state folder, with and without a running aggregator."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from mhfl_mq.cli import model as model_command
from mhfl_mq.protocol.records import Entry, VersionAdded
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.layout import Layout, Parameter, Tier
from mhfl_mq.store.models import Models
from mhfl_mq.store.requests import RollbackRequest, drop_request, pending_requests
from mhfl_mq.store.state import Store
from mhfl_mq.store.versions import plan_rollback

LAYOUT = Layout(
    (Tier("small", 0.5), Tier("large", 1.0)),
    {"hidden": (2, 4)},
    (Parameter("in.weight", (Axis(4, group="hidden"), Axis(3))), Parameter("out.bias", (Axis(2),))),
)
SIZE = LAYOUT.lengths[-1]


def now() -> datetime.datetime:
    """A clock that stands still."""
    return datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)


def evaluated(accuracies: Iterator[float]) -> dict[str, float]:
    """The metrics of a version, under the names that an evaluation really gives them; only its numbers are ours."""
    from torch import nn, zeros  # late: most tests here need none of it

    from mhfl_mq.train.evaluate import evaluate_tiers
    from mhfl_mq.train.steps.plain import Plain
    from mhfl_mq.train.task import Examples, Task

    class Models:
        task = Task("t", nn.Identity, lambda _shard, _folder: nothing, metric=lambda _out, _targets: next(accuracies))
        tiers, layout = LAYOUT.tiers, LAYOUT

        def build(self, _tier: int) -> Any:
            return SimpleNamespace(put=lambda _prefix: None, module=nn.Identity())

    nothing = Examples(zeros(1, 1), zeros(1))
    models: Any = Models()
    return evaluate_tiers(Plain(), models, np.zeros(SIZE, np.float32), nothing)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with versions 0 and 1."""
    folder = tmp_path / "state"
    with Store(folder, now) as store:
        for number, origin in enumerate(("initial", "round")):
            model = Models(store.models).put(np.arange(SIZE, dtype=np.float32) + number, LAYOUT.document())
            metrics = evaluated(iter([0.5 + number / 10, 0.6 + number / 10]))
            parent, of_round = (None, None) if number == 0 else (0, None)
            added = VersionAdded(number, parent, model, LAYOUT.digest, origin, of_round, metrics, "")
            store.apply([added], [Entry("model.version", {"version": number, "round": number + 1})])
    return folder


@pytest.fixture
def running(state: Path) -> Iterator[Store]:
    """An aggregator that holds the folder."""
    with Store(state, now) as store:
        yield store


# ---- ledger ---------------------------------------------------------------------------------------------------


def test_a_whole_ledger_verifies_also_while_an_aggregator_runs(mhfl: Any, running: Store, state: Path) -> None:
    done = mhfl("ledger", "verify", "--state", state)
    assert (done.code, done.out) == (0, f"ok: 2 lines, head 2:{running.head.hash}\n")
    shown = json.loads(mhfl("ledger", "verify", "--state", state, "--json").out)
    assert shown == {"ok": True, "lines": 2, "hash": running.head.hash}


def test_a_changed_line_is_found_with_its_number_and_code_9(mhfl: Any, state: Path) -> None:
    path = state / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":7'))
    for words in (("verify",), ("show",)):
        done = mhfl("ledger", *words, "--state", state)
        assert done.code == 9
        assert f"where: {path}:2" in done.err
    done = mhfl("ledger", "verify", "--state", state, "--json")
    assert done.code == 9
    what = "this line does not have the hash of its content: it was changed"
    assert json.loads(done.out) == {"ok": False, "line": 2, "what": what}


def test_a_ledger_that_was_deleted_is_told_with_code_9(mhfl: Any, state: Path) -> None:
    (state / "ledger.jsonl").unlink()
    for word in ("verify", "show"):
        done = mhfl("ledger", word, "--state", state)
        assert done.code == 9
        assert done.err.startswith("error: the ledger is gone\n")
    done = mhfl("ledger", "verify", "--state", state, "--json")
    assert json.loads(done.out) == {"ok": False, "line": None, "what": "the ledger is gone"}
    assert mhfl("model", "rollback", 0, "--reason", "drill", "--state", state).code == 0
    assert "ledger.rebuilt     lines=2\n" in mhfl("ledger", "show", "--state", state).out


@pytest.mark.parametrize("since", ["yesterday", "2026-13", "23.11.2026", "2026-11-23 02:00", "2026-11-23T25:00"])
def test_a_since_that_is_no_time_is_wrong_usage(mhfl: Any, state: Path, since: str) -> None:
    done = mhfl("ledger", "show", "--state", state, "--since", since)
    assert done.code == 2
    assert "is no UTC time; write 2026, 2026-11-23, or 2026-11-23T02:00" in done.err


@pytest.mark.parametrize(
    ("since", "count"),
    [("2026", 2), ("2026-11-23T12:00Z", 2), ("2026-11-23T12:00:00.000Z", 2), ("2026-11-23T12:01", 0)],
)
def test_entries_since_a_time_are_shown(mhfl: Any, state: Path, since: str, count: int) -> None:
    assert len(mhfl("ledger", "show", "--state", state, "--since", since).out.splitlines()) == count


def test_a_copy_with_a_cut_end_is_found_by_the_head_that_a_witness_kept(mhfl: Any, state: Path) -> None:
    head = mhfl("ledger", "verify", "--state", state).out.split()[-1]
    copy = state.parent / "copy.jsonl"
    copy.write_bytes((state / "ledger.jsonl").read_bytes().splitlines(keepends=True)[0])
    assert mhfl("ledger", "verify", "--file", copy).code == 0
    done = mhfl("ledger", "verify", "--file", copy, "--head", head)
    assert done.code == 9
    assert "its tail was cut off" in done.err


@pytest.mark.parametrize("head", ["7", "x:" + "0" * 64, "1:00"])
def test_a_head_that_is_none_is_wrong_usage(mhfl: Any, state: Path, head: str) -> None:
    assert mhfl("ledger", "verify", "--file", state / "ledger.jsonl", "--head", head).code == 2
    assert mhfl("ledger", "verify", "--state", state, "--head", "1:" + "0" * 64).code == 2


def test_entries_are_shown_filtered_and_the_newest_only(mhfl: Any, state: Path) -> None:
    assert len(mhfl("ledger", "show", "--state", state).out.splitlines()) == 2
    (line,) = mhfl("ledger", "show", "--state", state, "--last", 1).out.splitlines()
    assert line == "     2  2026-11-23T12:00:00.000Z  model.version      round=2 version=1"
    (line,) = mhfl("ledger", "show", "--state", state, "--round", 1, "--json").out.splitlines()
    assert json.loads(line)["facts"] == {"version": 0, "round": 1}
    nothing = mhfl("ledger", "show", "--file", state / "ledger.jsonl", "--kind", "round.*", "--since", "2027")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no such entry\n")


def test_facts_of_a_ledger_cannot_move_the_terminals_cursor(mhfl: Any, state: Path) -> None:
    with Store(state, now) as store:
        store.apply([], [Entry("note", {"text": "\x1b[2J" + "x" * 100})])
    out = mhfl("ledger", "show", "--state", state, "--kind", "note").out
    assert "\x1b" not in out
    assert out.endswith("x…\n")


def test_a_folder_without_state_is_code_8(mhfl: Any, tmp_path: Path) -> None:
    for words in (["ledger", "verify"], ["model", "list"], ["model", "rollback", "1", "--reason", "x"]):
        done = mhfl(*words, "--state", tmp_path)
        assert done.code == 8
        assert "what to do: name the aggregator's state folder" in done.err
    assert list(tmp_path.iterdir()) == []


# ---- model: list, show, export --------------------------------------------------------------------------------


def test_versions_are_listed_with_the_accuracy_of_each_tier(mhfl: Any, state: Path) -> None:
    lines = mhfl("model", "list", "--state", state).out.splitlines()
    heads = ["version", "from", "origin", "round", "model", "added", "(UTC)", "small", "large", "reason"]
    assert lines[0].split() == heads
    assert lines[2].split()[:4] == ["0", "-", "initial", "-"]
    assert lines[3].split()[-3:] == ["0.6", "0.7", "-"]


def test_versions_are_listed_also_when_the_heads_file_is_gone(mhfl: Any, state: Path) -> None:
    for file in (state / "models").iterdir():
        file.unlink()
    lines = mhfl("model", "list", "--state", state).out.splitlines()
    assert lines[0].split()[-3:] == ["large", "small", "reason"]
    assert mhfl("model", "show", 1, "--state", state).code == 8


def test_versions_as_json_have_the_documented_keys(mhfl: Any, state: Path) -> None:
    first, second = json.loads(mhfl("model", "list", "--state", state, "--json").out)
    assert set(first) == {"version", "parent", "origin", "round", "model", "layout", "at", "metrics", "reason"}
    assert (second["version"], second["parent"], second["metrics"]["accuracy/large"]) == (1, 0, 0.7)


def test_one_version_is_shown_with_its_tiers(mhfl: Any, state: Path) -> None:
    out = mhfl("model", "show", 1, "--state", state).out
    assert "origin   round" in out
    assert out.splitlines()[-1].split() == ["large", "1", "all", str(SIZE), "0.7"]
    shown = json.loads(mhfl("model", "show", 1, "--state", state, "--json").out)
    assert [tier["parameters"] for tier in shown["tiers"]] == list(LAYOUT.lengths)


def test_a_version_that_is_not_there_names_those_that_are(mhfl: Any, state: Path) -> None:
    done = mhfl("model", "show", 9, "--state", state)
    assert done.code == 3
    assert "there are versions 0 to 1" in done.err


def test_a_tier_is_exported_as_named_tensors(mhfl: Any, state: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    words = ["model", "export", 1, file, "--tier", "small", "--state", state]
    done = mhfl(*words)
    assert done.code == 0
    assert str(file) in done.out
    tensors = safetensors.numpy.load_file(file)
    assert {name: array.shape for name, array in tensors.items()} == {"in.weight": (2, 3), "out.bias": (2,)}
    again = mhfl(*words)
    assert again.code == 2
    assert "--force" in again.err
    forced = json.loads(mhfl(*words, "--force", "--json").out)
    assert (forced["tier"], forced["version"], len(forced["sha256"])) == ("small", 1, 64)


def test_exporting_a_tier_that_is_not_there_names_those_that_are(mhfl: Any, state: Path, tmp_path: Path) -> None:
    done = mhfl("model", "export", 1, tmp_path / "x", "--tier", "huge", "--state", state)
    assert done.code == 3
    assert "the tiers are small, large" in done.err


# ---- model rollback -------------------------------------------------------------------------------------------


def test_a_rollback_without_an_aggregator_is_done_at_once_and_stands_in_the_ledger(mhfl: Any, state: Path) -> None:
    done = mhfl("model", "rollback", 0, "--reason", "scrap rate rose", "--state", state)
    assert (done.code, done.out) == (0, "version 2 has the weights of version 0; devices follow it\n")
    first, _, third = json.loads(mhfl("model", "list", "--state", state, "--json").out)
    assert (third["origin"], third["model"], third["reason"]) == ("rollback", first["model"], "scrap rate rose")
    assert "model.rollback" in mhfl("ledger", "show", "--state", state, "--last", 1).out
    assert mhfl("ledger", "verify", "--state", state).code == 0


def test_a_running_aggregator_is_asked_and_its_answer_is_shown(
    mhfl: Any, running: Store, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aggregator_works(_seconds: float) -> None:
        (request,) = pending_requests(state)
        assert isinstance(request, RollbackRequest)
        added, entry = plan_rollback(running.view, request.version, request.reason, request.who)
        running.apply([added], [entry])
        drop_request(request)

    monkeypatch.setattr(model_command, "pause", aggregator_works)
    done = mhfl("model", "rollback", 0, "--reason", "drill", "--state", state, "--json")
    assert done.code == 0
    assert json.loads(done.out)["version"] == 2
    assert "asked the aggregator" in done.err


def test_an_aggregator_that_does_not_come_to_it_keeps_the_request(mhfl: Any, running: Store, state: Path) -> None:
    done = mhfl("model", "rollback", 0, "--reason", "drill", "--state", state, "--wait", 0)
    assert done.code == 8
    assert "has not taken up the rollback" in done.err
    (request,) = pending_requests(state)
    assert isinstance(request, RollbackRequest)
    assert (request.version, request.reason) == (0, "drill")
    assert running.view.versions()[-1].added.version == 1


def test_an_aggregator_that_drops_the_request_is_reported(
    mhfl: Any, running: Store, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_command, "pause", lambda _seconds: drop_request(pending_requests(state)[0]))
    done = mhfl("model", "rollback", 0, "--reason", "drill", "--state", state)
    assert done.code == 8
    assert "did not roll back" in done.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([7, "--reason", "x"], 3, "no version 7"),
        ([1, "--reason", "x"], 3, "has the weights of version 1 already"),
        ([0, "--reason", " "], 3, "needs a reason"),
        ([0], 2, "--reason"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused_before_anything_is_done(
    mhfl: Any, state: Path, words: list[object], code: int, says: str
) -> None:
    before = (state / "ledger.jsonl").read_bytes()
    done = mhfl("model", "rollback", *words, "--state", state)
    assert done.code == code
    assert says in done.err
    assert (state / "ledger.jsonl").read_bytes() == before
    assert pending_requests(state) == []
