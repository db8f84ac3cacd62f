"""A policy is put in the place of the running one: real commands, a real broker, real keys, no restart."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mhfl_mq.testing.plant import Plant

pytestmark = [pytest.mark.broker]

LIGHT = Path(__file__).with_name("light.yaml").read_text()


@pytest.fixture
def write(plant: Plant) -> Callable[..., Path]:
    """Writes the light policy with changes; the same file each time."""

    def policy(*changes: tuple[str, str]) -> Path:
        text = LIGHT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = plant.folder / "line.yaml"
        file.write_text(text)
        return file

    return policy


def key(plant: Plant, name: str) -> tuple[Path, str]:
    """A private key's file, and its line for `allowed_signers`."""
    private = Ed25519PrivateKey.generate()
    file = plant.folder / f"{name}.key"
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return file, f"{name}@plant {public}\n"


def apply(plant: Plant, file: Path) -> tuple[int, str]:
    done = plant.mhfl("policy", "apply", file, "--reason", "a drill", "--state", plant.state)
    return done.code, done.err


RULE = ("deadline: 20s}", "deadline: 20s, forbid: [{name: not-d1, device: d1}]}")


def test_an_applied_policy_counts_from_the_next_round_and_over_a_restart(
    plant: Plant, write: Callable[..., Path]
) -> None:
    numbered = ("{name: light}", "{name: light, revision: 1}")
    first = write(numbered)
    plant.aggregator(policy=first)
    plant.device("d1", 0)
    plant.device("d2", 0)
    plant.await_counted("d1", "d2")
    older = plant.folder / "older.yaml"
    older.write_text(first.read_text())
    code, err = apply(plant, write(RULE, ("{name: light}", "{name: light, revision: 2}")))
    assert (code, "applied light" in err) == (0, True), err
    entry = plant.await_entry("policy.apply", reason="a drill")
    assert entry["who"]
    plant.await_rounds(3)
    after = [one for one in plant.entries("round.open") if one["round"] >= entry["from_round"]]
    assert {device for one in after for device, _ in one["cohort"]} == {"d2"}
    assert {one["policy"] for one in after} == {entry["policy"]}
    plant.processes.stop("aggregator")
    last = plant.last_round()
    refused = plant.mhfl("aggregator", "--state", plant.state, "--policy", older)
    assert refused.code == 3
    assert "revision 1 is older than revision 2, which was applied last" in refused.err
    words = ["aggregator", "--state", plant.state]  # no --policy: the applied one
    plant.start("again", *words)
    plant.await_rounds(2)
    later = [one for one in plant.entries("round.open") if one["round"] > last]
    assert {device for one in later for device, _ in one["cohort"]} == {"d2"}
    plant.processes.stop()
    plant.verify()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([("step_ms: 1}", "stepms: 1}")], "did you mean 'step_ms'?"),
        ([("width: 0.015", "width: 0.03")], "only a restart can change tiers"),
        (
            [("metadata: {name: light}", "metadata: {name: light, revision: 3}")],
            "revision 3 does not follow revision 4",
        ),
        ([("interval: 20ms", "interval: 20ms")], "this policy runs already"),
    ],
)
def test_a_policy_that_may_not_be_applied_leaves_the_running_one_and_an_entry(
    plant: Plant, write: Callable[..., Path], changes: list[tuple[str, str]], says: str
) -> None:
    running = ("metadata: {name: light}", "metadata: {name: light, revision: 4}")
    plant.aggregator(policy=write(running))
    plant.device("d1", 0)
    plant.await_rounds(1)
    first = plant.entries("aggregator.start")[0]["policy"]
    more = [] if "revision" in changes[0][1] else [running]
    newer = ("revision: 4", "revision: 5")
    code, err = apply(plant, write(*more, *changes, *([newer] if "restart" in says else [])))
    assert code == 4
    assert says in err
    if "did you mean" not in says:  # what check refuses is not even asked for
        plant.await_entry("policy.refuse")
        assert "is not applied" in plant.processes.log("aggregator")
    plant.await_rounds(2)
    assert {one["policy"] for one in plant.entries("round.open")} == {first}
    plant.processes.stop()
    plant.verify()


def test_so_many_people_must_sign_as_the_running_policy_says(plant: Plant, write: Callable[..., Path]) -> None:
    (ana, ana_line), (ben, ben_line) = key(plant, "ana"), key(plant, "ben")
    signers = plant.folder / "allowed_signers"
    signers.write_text(ana_line + ben_line)
    two = ("schedule:", "require_signatures: 2\n  schedule:")
    both = (RULE, two)
    first = write(two)
    started = plant.mhfl("aggregator", "--state", plant.state, "--policy", first, "--signers", signers)
    assert started.code == 3
    assert "signed by 0 of the 2 people required" in started.err
    for one in (ana, ben):
        assert plant.mhfl("policy", "sign", first, "-k", one).code == 0
    plant.aggregator("--signers", signers, policy=first)
    plant.device("d1", 0)
    plant.await_rounds(1)
    second = write(*both)
    code, err = apply(plant, second)
    assert (code, "signed by 0 of the 2 people required" in err) == (4, True), err
    assert plant.mhfl("policy", "sign", second, "-k", ana).code == 0
    code, err = apply(plant, second)
    assert (code, "signed by 1 (ana@plant) of the 2 people required" in err) == (4, True), err
    assert plant.mhfl("policy", "sign", second, "-k", ben).code == 0
    assert apply(plant, second)[0] == 0
    assert plant.await_entry("policy.apply")["signed_by"] == ["ana@plant", "ben@plant"]
    windows = second.read_bytes().replace(b"\n", b"\r\n").replace(b"20s", b"25s")
    second.write_bytes(windows)  # edited on Windows: the bytes are what was signed
    for one in (ana, ben):
        assert plant.mhfl("policy", "sign", second, "-k", one).code == 0
    assert apply(plant, second)[0] == 0
    plant.processes.stop()
    third = plant.folder / "mine.yaml"
    third.write_text(LIGHT)
    refused = plant.mhfl("aggregator", "--state", plant.state, "--policy", third, "--signers", signers)
    assert refused.code == 3
    assert "signed by 0 of the 2 people required" in refused.err
    plant.verify()


def test_where_no_aggregator_runs_that_is_said(plant: Plant, write: Callable[..., Path]) -> None:
    plant.aggregator("--rounds", 1, policy=write())
    plant.device("d1", 0)
    assert plant.processes.ended("aggregator") == 0
    code, err = apply(plant, write(RULE))
    assert code == 3
    assert "no aggregator is running here" in err
    plant.processes.stop()
