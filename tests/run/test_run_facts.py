"""What a device says of its machine, read from a system that a test made up, and from this one."""

import os
import sys
from pathlib import Path

import pytest

from mhfl_mq.policy.facts import FACTS, Kind, Source
from mhfl_mq.run.facts import FactReader


class Machine:
    """A made-up /sys, /dev and /proc."""

    def __init__(self, folder: Path) -> None:
        self.system, self.devices, self.processes = folder / "sys", folder / "dev", folder / "proc"
        for one in (self.system, self.devices, self.processes):
            one.mkdir()
        (self.system / "class").mkdir()
        (self.devices / "null").touch()

    def reader(self, *labels: str) -> FactReader:
        return FactReader(labels, system=self.system, devices=self.devices, processes=self.processes)

    def supply(self, name: str, **files: str) -> None:
        folder = self.system / "class" / "power_supply" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text + "\n")

    def ticks(self, busy: int, resting: int, ours: int) -> None:
        """Of all processors since the start."""
        (self.processes / "stat").write_text(f"cpu  {busy} 0 0 {resting} 0 0 0 0 0 0\ncpu0 1 2 3\n")
        for number, group, used in ((1, 1, busy - ours), (77, os.getpgid(0), ours)):
            (self.processes / str(number)).mkdir(exist_ok=True)
            head = f"{number} (a (b) c) S 1 {group} 1 0 -1 0 0 0 0 0"
            (self.processes / str(number) / "stat").write_text(f"{head} {used} 0 0 0 20 0 1 0\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_labels_and_the_kind_of_machine_are_texts(machine: Machine) -> None:
    texts = machine.reader("press", "line-3").read().texts
    assert texts["labels"] == ("press", "line-3")
    assert len(texts["os"]) == len(texts["arch"]) == 1


def test_a_machine_without_a_battery_stands_on_mains(machine: Machine) -> None:
    machine.supply("AC", type="Mains", online="1")
    numbers = machine.reader().read().numbers
    assert numbers["on_battery"] == 0.0
    assert "battery" not in numbers


def test_a_battery_that_discharges_is_said_in_steps_of_five_percent(machine: Machine) -> None:
    machine.supply("BAT0", type="Battery", status="Discharging", capacity="63")
    machine.supply("mouse", type="Battery", scope="Device", status="Discharging", capacity="3")
    numbers = machine.reader().read().numbers
    assert (numbers["on_battery"], numbers["battery"]) == (1.0, 65.0)
    machine.supply("BAT0", status="Charging", capacity="?")
    numbers = machine.reader().read().numbers
    assert numbers["on_battery"] == 0.0
    assert "battery" not in numbers


def test_a_gpu_is_seen_by_its_device_file(machine: Machine) -> None:
    assert machine.reader().read().numbers["gpu"] == 0.0
    (machine.devices / "nvidia0").touch()
    assert machine.reader().read().numbers["gpu"] == 1.0


def test_a_machine_is_idle_while_others_leave_its_processors_free_whatever_we_use(machine: Machine) -> None:
    reader = machine.reader()
    machine.ticks(busy=1000, resting=1000, ours=500)
    assert "idle" not in reader.read().numbers  # nothing to compare with yet
    machine.ticks(busy=1900, resting=1100, ours=1390)  # 89 % are ours, 1 % others'
    assert reader.read().numbers["idle"] == 1.0
    machine.ticks(busy=2150, resting=1850, ours=1390)  # others use 25 %: neither idle nor busy, so as before
    assert reader.read().numbers["idle"] == 1.0
    machine.ticks(busy=2550, resting=2450, ours=1390)  # 40 %
    assert reader.read().numbers["idle"] == 0.0
    machine.ticks(busy=2800, resting=3200, ours=1390)
    assert reader.read().numbers["idle"] == 0.0
    assert reader.read().numbers["idle"] == 0.0  # no tick has passed


def test_what_a_system_does_not_show_is_left_out(machine: Machine) -> None:
    (machine.processes / "stat").write_text("who knows\n")
    reader = machine.reader()
    reader.read()
    assert "idle" not in reader.read().numbers


def test_a_system_that_shows_neither_supplies_nor_devices_says_nothing_of_them(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    numbers = FactReader(system=nowhere, devices=nowhere, processes=nowhere).read().numbers
    assert not numbers.keys() & {"on_battery", "battery", "gpu", "idle"}


def test_all_that_is_said_is_in_the_catalogue_of_facts_as_the_devices_own_word(tmp_path: Path) -> None:
    reader = FactReader(("a",))
    reader.read()
    read = reader.read()
    for name in read.numbers:
        assert FACTS[name].kind in (Kind.NUMBER, Kind.FLAG)
    for name in read.texts:
        assert FACTS[name].kind in (Kind.TEXT, Kind.TAGS)
    assert {FACTS[name].source for name in (*read.numbers, *read.texts)} == {Source.REPORTED}
    if sys.platform == "linux":
        assert read.numbers["ram_gb"] > 0
        assert read.numbers["cpus"] >= 1
