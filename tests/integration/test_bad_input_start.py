"""What a person sees when a command cannot begin: what was wrong, where, what to do, and the exit code."""

import socket
from pathlib import Path

import pytest

from mhfl_mq.testing.plant import Plant
from mhfl_mq.testing.processes import Ended, Processes
from mhfl_mq.transport.broker_programs import found_programs

pytestmark = [pytest.mark.broker]

MHFL = ["-m", "mhfl_mq"]
NOWHERE = "mqtt://user:secret@127.0.0.1:1"
LIGHT = Path(__file__).with_name("light.yaml")
BOTH = [["device", "d1"], ["aggregator", "--policy", str(LIGHT)]]


def told(done: Ended, code: int) -> str:
    """Its message to a person; a command that fails prints nothing for scripts and no traceback."""
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "secret" not in done.err
    return done.err


# ---- policies -------------------------------------------------------------------------------------------------


def test_a_policy_with_errors_is_refused_with_all_of_them(plant: Plant) -> None:
    bad = plant.folder / "bad.yaml"
    bad.write_text(
        "apiVersion: mhfl-mq/v1\n"
        "kind: FederationPolicy\n"
        "metadata: {name: bad}\n"
        "spec:\n"
        "  tiers:\n"
        "    - {name: one, width: 2.0}\n"
        "  algorithm: {name: heterofll}\n"
        "  participation: {deadline: soon}\n"
    )
    text = told(plant.mhfl("aggregator", "--policy", bad, "--state", plant.state), 4)
    assert text.startswith("error: the policy is not valid: 3 findings\n")
    for place in ("bad.yaml:6:", "bad.yaml:7:", "bad.yaml:8:"):
        assert place in text
    assert "heterofl" in text.partition("hint")[2]
    assert not plant.state.exists()


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml"])
def test_a_policy_that_is_not_there_is_refused_with_how_to_get_one(plant: Plant, name: str) -> None:
    text = told(plant.mhfl("aggregator", "--policy", name, "--state", plant.state), 4)
    assert f"{name}: POL001: cannot be read: No such file or directory" in text
    assert "`mhfl init` writes one" in text


def test_a_shipped_policy_is_taken_by_its_name(plant: Plant) -> None:
    lengths = {"MHFL_LIGHT_LENGTHS": "100,400,800"}
    plant.start("aggregator", "aggregator", "--policy", "default", "--state", plant.state, env=lengths)
    start = plant.await_entry("aggregator.start")
    plant.processes.stop("aggregator")
    shown = plant.mhfl("policy", "show", "--json", Path(__file__).parents[2] / "policies" / "default.yaml")
    assert start["policy"] in shown.out


# ---- brokers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", BOTH, ids=["device", "aggregator"])
def test_a_broker_that_is_not_there_ends_a_command_with_its_address(plant: Plant, command: list[str]) -> None:
    text = told(plant.mhfl(*command, "--broker", NOWHERE), 7)
    assert "error: cannot connect: " in text
    assert "  where: mqtt://127.0.0.1:1\n" in text
    assert "  what to do: check host and port, or start a broker with `mhfl broker`\n" in text


@pytest.mark.parametrize("command", BOTH, ids=["device", "aggregator"])
def test_a_broker_that_refuses_the_password_ends_a_command(plant: Plant, command: list[str]) -> None:
    url = f"mqtt://device:secret@127.0.0.1:{plant.broker.port}"
    text = told(plant.mhfl(*command, "--broker", url), 7)
    assert "the broker does not let user 'device' in" in text
    assert "  what to do: check user name, password, certificate and client id\n" in text


@pytest.mark.slow  # as long as we wait for a broker's answer
def test_what_listens_but_is_no_broker_is_not_waited_for_for_ever(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        text = told(processes.run([*MHFL, "device", "d1", "--broker", url], patience_s=40), 7)
    assert "  where: mqtt://127.0.0.1:" in text
    assert "  what to do: " in text


@pytest.mark.parametrize("program", sorted({one.name.removesuffix("-server") for one in found_programs()}))
def test_a_port_in_use_is_told_before_a_broker_starts(processes: Processes, program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = processes.run([*MHFL, "broker", "--prefer", program, "--port", str(port), "--folder", "b"])
    text = told(done, 3)
    assert f"error: port {port} of 127.0.0.1 is in use\n" in text
    assert "choose another port" in text


# ---- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", BOTH, ids=["device", "aggregator"])
def test_a_task_that_is_not_installed_is_told_at_once_with_the_nearest(
    processes: Processes, command: list[str]
) -> None:
    """Before a broker is asked: the name is wrong wherever the broker is."""
    text = told(processes.run([*MHFL, *command, "--broker", NOWHERE, "--task", "wnid"]), 6)
    assert "error: there is no task 'wnid'\n" in text
    assert "did you mean 'wind'?" in text
    text = told(processes.run([*MHFL, *command, "--broker", NOWHERE, "--task", "nope.mod:X"]), 6)
    assert "error: no module 'nope'\n  where: task 'nope.mod:X'\n" in text


def test_a_module_that_is_no_task_is_told_also_where_no_aggregator_asks_for_it(plant: Plant) -> None:
    words = ["-m", "mhfl_mq", "device", "d1", "--broker", plant.broker.url_for("device"), "--task", "os:path"]
    text = told(plant.processes.run(words), 6)
    assert "error: a module is no task: it lacks " in text
    assert "task 'os:path'" in text


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["device", "d.1"], "'d.1' is not an id"),
        (["device", "d1", "--federation", "a b"], "'a b' is not an id"),
        (["device", "d1", "--root", "a/b/c"], "root 'a/b/c' has 3 levels"),
        (["aggregator", "--federation", "a+b"], "'a+b' is not an id"),
        (["device", "_aggregator_1"], "a device may not be called '_aggregator_1'"),
    ],
)
def test_a_name_that_cannot_be_a_topic_is_the_persons_error(
    processes: Processes, options: list[str], what: str
) -> None:
    text = told(processes.run([*MHFL, *options, "--broker", NOWHERE]), 3)
    assert f"error: {what}\n" in text
    assert "  what to do: " in text
    assert not (processes.folder / "mhfl-state").exists()


# ---- state folders --------------------------------------------------------------------------------------------


def test_a_second_aggregator_on_a_folder_is_refused_and_the_first_goes_on(plant: Plant) -> None:
    plant.aggregator()
    plant.await_entry("aggregator.start")
    text = told(plant.mhfl("aggregator", "--state", plant.state, "--policy", LIGHT), 8)
    pid = plant.processes.process("aggregator").pid
    assert f"error: process {pid} is using this folder\n" in text
    assert f"  where: {plant.state}\n" in text
    assert f"stop process {pid}, or give this one a state folder of its own" in text
    plant.device("d1", 0)
    plant.await_rounds(2)
    plant.processes.stop()
    plant.verify()


def test_another_policys_tiers_on_an_old_folder_are_refused(plant: Plant) -> None:
    plant.aggregator()
    plant.await_entry("aggregator.start")
    plant.processes.stop("aggregator")
    lengths = {"MHFL_LIGHT_LENGTHS": "100,400,800"}
    text = told(plant.mhfl("aggregator", "--state", plant.state, "--policy", "default", env=lengths), 3)
    assert "error: the policy's tiers" in text
    assert "small 0.0625" in text
    assert "tier0 0.015" in text
    assert "  what to do: use the policy that this folder was started with, or a new state folder\n" in text
    plant.aggregator()
    plant.device("d1", 0)
    plant.await_rounds(1)
    plant.processes.stop()
    plant.verify()


def test_a_second_agent_on_a_devices_folder_is_refused(plant: Plant) -> None:
    plant.aggregator()
    plant.device("d1", 0)
    plant.await_counted("d1")
    text = told(plant.mhfl("device", "d1", "--state", plant.folder / "d1"), 8)
    assert f"error: process {plant.processes.process('d1').pid} is using this folder\n" in text
    plant.await_rounds(1)
    plant.processes.stop()
