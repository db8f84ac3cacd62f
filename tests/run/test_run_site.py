"""A device's own file: what it forbids is not done, whatever the aggregator asks; and a wrong file is told."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import PerDevice, Schedule, Window
from mhfl_mq.protocol.site import Spent
from mhfl_mq.protocol.work import StageRules
from mhfl_mq.run.site import SiteFile, SiteRules, read_site
from mhfl_mq.wire.messages import Offer

WHOLE = """\
paused = false
timezone = "Asia/Tokyo"
windows = [{name = "night", cron = "0 22 * * *", duration = "8h"}]
blackouts = [{cron = "0 0 L * *", duration = "1d"}]
min_interval = "1h"
upload_per_day = "20MB"
training_per_day = "30m"
quiet_on_battery = true
required_stages = ["clip"]
denied_stages = ["mask"]
"""


def at(time: str) -> float:
    return datetime.fromisoformat(time).replace(tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()


def offer(**options: float) -> Offer:
    return Offer(7, 3, 0, "0" * 64, (), "heterofl", options, (), "0" * 64, 60.0)


class Hands:
    """Rules with a clock and a battery in the test's hand."""

    def __init__(self, **limits: object) -> None:
        self.now = at("2026-11-24T12:00")
        self.battery: bool | None = False
        schedule = Schedule(timezone="Asia/Tokyo", per_device=PerDevice(**limits))  # type: ignore[arg-type]
        self.rules = SiteRules(SiteFile(schedule), lambda: self.now, lambda: self.battery)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(WHOLE)
    assert read_site(tmp_path / "device.toml") == SiteFile(
        Schedule(
            timezone="Asia/Tokyo",
            windows=(Window("0 22 * * *", 28_800.0, "night"),),
            blackouts=(Window("0 0 L * *", 86_400.0),),
            per_device=PerDevice(3600.0, 20_000_000, 1800.0, True),
        ),
        StageRules(denied=frozenset({"mask"}), required=frozenset({"clip"})),
    )


def test_an_empty_file_forbids_nothing(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text("")
    assert read_site(tmp_path / "device.toml") == SiteFile()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("min_interval", "min_intervall", "did you mean min_interval?"),
        ('"1h"', "1", "write min_interval = '1h'"),
        ('"1h"', '"1 hour"', "write a number with a unit"),
        ('"20MB"', '"20 megs"', "write a number with a unit, such as 256KiB"),
        ("paused = false", 'paused = "no"', "write paused = true"),
        ("Asia/Tokyo", "Asia/Tokio", "write e.g. Asia/Tokyo"),
        ("0 22 * * *", "0 25 * * *", "the hour of the cron line"),
        ('cron = "0 22 * * *", ', "", "windows[0] has no cron line"),
        (', duration = "8h"', "", "windows[0].duration is wrong: must be a text with a unit"),
        (', duration = "8h"', ', lasts = "8h"', "windows[0] has no key lasts"),
        ('["clip"]', '"clip"', "required_stages must be a list of names"),
        ("quiet_on_battery = true", "quiet_on_battery = ", "not TOML"),
        ('name = "night"', 'name = "night shift"', "1 to 64 of A-Z"),
    ],
)
def test_a_wrong_file_is_told_with_its_name_the_key_and_what_to_write(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in WHOLE
    file = tmp_path / "device.toml"
    file.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_site(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)


def test_a_file_that_is_nested_too_deeply_is_told(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text("windows = " + "[" * 20_000)
    with pytest.raises(ConfigError, match="not TOML"):
        read_site(tmp_path / "device.toml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_site(tmp_path / "nowhere.toml")


def test_a_device_that_is_paused_takes_nothing() -> None:
    rules = SiteRules(SiteFile(paused=True), lambda: 0.0, lambda: None)
    assert rules.objection(offer(), 10, Spent()) == "this device is paused by its own file"


def test_outside_its_windows_a_device_takes_no_offer_and_says_when_it_would() -> None:
    site = SiteFile(Schedule(timezone="Asia/Tokyo", windows=(Window("0 22 * * *", 3600.0),)))
    now = [at("2026-11-24T12:00")]
    rules = SiteRules(site, lambda: now[0], lambda: None)
    said = rules.objection(offer(), 10, Spent())
    assert said.startswith("this device's own file forbids it: schedule.windows")
    assert "the next round may begin 2026-11-24 22:00 JST" in said
    now[0] = at("2026-11-24T22:30")
    assert rules.objection(offer(), 10, Spent()) == ""
    now[0] = at("2026-11-24T22:59:30")  # the round could last past the window
    assert rules.objection(offer(), 10, Spent()) != ""


def test_a_least_interval_counts_from_the_last_offer_that_was_taken() -> None:
    hands = Hands(min_interval_s=3600.0)
    assert hands.rules.objection(offer(), 10, Spent()) == ""
    spent = hands.rules.taken(Spent())
    hands.now += 3599.0
    assert "schedule.per_device.min_interval" in hands.rules.objection(offer(), 10, spent)
    hands.now += 1.0
    assert hands.rules.objection(offer(), 10, spent) == ""


def test_a_budget_of_bytes_is_of_one_day_and_knows_how_the_next_update_travels() -> None:
    hands = Hands(upload_bytes=10_000)
    spent = hands.rules.sent(hands.rules.sent(Spent(), 4000, 1.0), 2000, 1.0)
    assert hands.rules.objection(offer(), 1000, spent) == ""  # 4,000 bytes more
    assert "6 kB today, the next update is 4 kB" in hands.rules.objection(offer(), 1001, spent)
    assert hands.rules.objection(offer(precision=16.0, top_k=1.0), 1001, spent) == ""
    hands.now = at("2026-11-25T00:00")
    assert hands.rules.objection(offer(), 1001, spent) == ""


def test_a_budget_of_training_counts_the_last_training_as_the_next_one() -> None:
    hands = Hands(training_s=100.0)
    spent = hands.rules.sent(hands.rules.sent(Spent(), 1, 30.0), 1, 35.0)
    assert hands.rules.objection(offer(), 1, spent) == ""  # 65 and 35
    more = hands.rules.sent(spent, 1, 1.0)
    assert hands.rules.objection(offer(), 1, more) == ""  # 66 and 1
    assert "schedule.per_device.training_per_day" in hands.rules.objection(offer(), 1, hands.rules.sent(more, 1, 34.5))
    hands.now = at("2026-11-25T08:00")
    assert hands.rules.objection(offer(), 1, hands.rules.sent(more, 1, 34.5)) == ""


@pytest.mark.parametrize(("battery", "taken"), [(True, False), (False, True), (None, False)])
def test_a_device_that_is_to_be_quiet_on_its_battery_is_so_where_it_cannot_tell_as_well(
    battery: bool | None, taken: bool
) -> None:
    hands = Hands(quiet_on_battery=True)
    hands.battery = battery
    assert (hands.rules.objection(offer(), 1, Spent()) == "") is taken
