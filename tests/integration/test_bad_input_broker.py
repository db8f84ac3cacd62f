"""Brokers that cap packets, forget, or let two clients fight over one name, while a federation runs on them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from mhfl_mq.store.models import Models
from mhfl_mq.store.view import open_view
from mhfl_mq.testing.brokers import found_brokers
from mhfl_mq.testing.plant import Plant
from mhfl_mq.testing.processes import Processes
from mhfl_mq.transport.embedded import EmbeddedBroker

pytestmark = [pytest.mark.broker]

Program = Literal["mosquitto", "nats"]

PROGRAMS = sorted({kind.program for kind in found_brokers()})
ONE = [pytest.param(one, marks=[pytest.mark.slow] if index else []) for index, one in enumerate(PROGRAMS)]
HERE = Path(__file__).parent
LARGE = {"MHFL_LIGHT_LENGTHS": "750,50000"}  # 200 kB


@contextmanager
def plant_on(processes: Processes, program: Program) -> Iterator[Plant]:
    with EmbeddedBroker.start(processes.folder / "broker", prefer=program) as broker:
        yield Plant(processes, broker, HERE / "light_mhfl.py", HERE / "light.yaml")


@pytest.fixture
def cap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The largest packet of the brokers that this test starts."""
    most = int(request.param)
    monkeypatch.setattr("mhfl_mq.transport.broker_programs.MAX_PACKET", most)
    return most


def said(url: str, program: str, cap: int) -> dict[str, str]:
    """The broker's address: mosquitto says its limit itself, for the others a person says it."""
    bare = url.partition("?")[0]
    return {"MHFL_BROKER": bare if program == "mosquitto" else f"{bare}?max_packet={cap}"}


@pytest.mark.parametrize("program", ONE)
@pytest.mark.parametrize("cap", [64 * 1024, pytest.param(16 * 1024, marks=pytest.mark.slow)], indirect=True)
def test_rounds_of_a_model_larger_than_a_packet_are_committed(processes: Processes, program: Program, cap: int) -> None:
    with plant_on(processes, program) as plant:
        devices = said(plant.broker.url_for("device"), program, cap)
        plant.aggregator(env={**LARGE, **said(plant.broker.url, program, cap)})
        plant.device("small", 0, env=devices)
        plant.device("large", 1, env=devices)
        plant.await_counted("small", "large")
        plant.await_rounds(1)
        plant.processes.stop()
        plant.verify()
        with open_view(plant.state) as view:
            head = view.versions()[-1].added.model
        assert Models(plant.state / "models").open(head).read(0, 50_000)[-1] > 0
        assert "larger than the broker takes" not in plant.processes.logs()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("cap", [1000], indirect=True)
def test_a_broker_whose_packets_hold_nothing_is_refused_with_what_to_do(
    processes: Processes, program: Program, cap: int
) -> None:
    with plant_on(processes, program) as plant:
        env = said(plant.broker.url, program, cap)
        done = plant.mhfl("aggregator", "--state", plant.state, "--policy", HERE / "light.yaml", env=env)
    if program == "mosquitto":
        assert done.code == 7
        assert "error: packets of at most 1000 bytes have no room for a chunk\n" in done.err
        assert "  what to do: raise the broker's largest packet to 263168 bytes or more\n" in done.err
    else:
        assert done.code == 3
        assert "error: max_packet '1000' is not a number of bytes from 4096" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("program", ONE)
def test_a_broker_that_forgets_everything_stops_training_for_a_moment_only(
    processes: Processes, program: Program
) -> None:
    """Sessions, subscriptions, retained messages and all that was under way are gone."""
    with plant_on(processes, program) as plant:
        plant.aggregator()
        plant.device("small", 0)
        plant.device("large", 1)
        plant.await_counted("small", "large")
        plant.broker.kill()
        shutil.rmtree(plant.broker.folder / "store")
        plant.broker.restart()
        plant.await_counted("small", "large")
        plant.await_rounds(1)
        plant.processes.stop()
        plant.verify()
        opened = [one["round"] for one in plant.entries("round.open")]
        assert opened == sorted(set(opened))


def test_the_broker_command_tells_when_its_broker_has_ended(processes: Processes) -> None:
    processes.start("broker", ["-m", "mhfl_mq", "broker", "--folder", "b", "--json"])
    processes.until(lambda: '"pid"' in processes.log("broker"), "broker")
    (pid,) = [one for one, line in processes.descendants().items() if "mhfl_mq" not in line]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    assert processes.ended("broker") == 7
    assert "has ended" in processes.log("broker")
    assert "what to do: see that log" in processes.log("broker")


def test_the_broker_command_tells_when_its_broker_cannot_start(processes: Processes) -> None:
    (processes.folder / "b").mkdir()
    (processes.folder / "b" / "credentials.json").write_text("{}")
    done = processes.run(["-m", "mhfl_mq", "broker", "--folder", "b"])
    assert done.code == 3
    assert "error: this is not a credentials file of mhfl-mq\n" in done.err
    assert "  what to do: delete it: new passwords are made at the next start\n" in done.err


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("who", ["device", "aggregator"])
def test_two_that_fight_over_one_name_say_so_and_one_alone_goes_on(
    processes: Processes, program: Program, who: str
) -> None:
    """Neither mosquitto 2.0.11 nor NATS tells a client that another took its place, so each says what it suspects."""
    with plant_on(processes, program) as plant:
        plant.aggregator()
        plant.device("twin")
        plant.await_counted("twin")
        first = "twin" if who == "device" else "aggregator"
        if who == "device":
            plant.device("twin", state=plant.folder / "other", log="second")
        else:
            plant.aggregator(name="second", state=plant.folder / "other")
        words = "in a row broke within 10 s: does another client use this id?"
        both = (first, "second")
        plant.processes.until(lambda: any(words in plant.processes.log(one) for one in both), words, 200)
        plant.processes.stop("second")
        plant.await_counted("twin")
        plant.processes.stop()
        plant.verify()
