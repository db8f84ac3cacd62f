"""The schema for editors says what `mhfl policy check` says, as far as a schema can."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from mhfl_mq.cli.policies import installed
from mhfl_mq.policy.documents import FederationPolicy
from mhfl_mq.policy.load import Known, check_text
from mhfl_mq.policy.quantities import parse_bytes, parse_duration
from mhfl_mq.policy.schema import json_schema
from mhfl_mq.policy.tree import plain, read_tree


def faults(text: str, known: Known | None = None) -> list[str]:
    """The paths at which the schema says that something is wrong."""
    root = read_tree(text, lambda *_: None)
    assert root is not None
    found = Draft7Validator(json_schema(known)).iter_errors(plain(root))
    return sorted(".".join(map(str, one.absolute_path)) for one in found)


def test_it_is_a_schema_by_the_rules_of_its_dialect() -> None:
    for known in (None, installed()):
        Draft7Validator.check_schema(json_schema(known))


def test_every_shipped_policy_is_valid_by_it(shipped_policies: list[Path]) -> None:
    for file in shipped_policies:
        assert faults(file.read_text("utf-8"), installed()) == []


def test_a_policy_that_uses_every_key_is_valid_by_it(whole: str, planned: str, known: Known) -> None:
    assert faults(whole, known) == faults(planned, known) == []
    assert faults(planned.replace("cron: 0 2 * * 1-5", "cron: 0 2 * *"), known) == ["spec.schedule.cron"]
    assert faults(whole.replace("epsilon: 6.0", "epsilon: [6.0]"), known) == ["spec.stages.0.options.epsilon"]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("deadline: 15m", "deadline: 15", "spec.participation.deadline"),
        ("deadline: 15m", "deadline: 0", "spec.participation.deadline"),
        ("deadline: 15m", "deadline: 15 m", "spec.participation.deadline"),
        ("interval: 1h30m", "interval: 1", "spec.schedule.interval"),
        ("update_bytes: 2MB", "update_bytes: 2XB", "spec.limits.update_bytes"),
        ("update_bytes: 2MB", "update_bytes: 0", "spec.limits.update_bytes"),
        ("chunk_bytes: 64KiB", "chunk_bytes: sockets", "spec.limits.chunk_bytes"),
        ("cohort: 10", "cohort: many", "spec.participation.cohort"),
        ("width: 0.25", "width: 1.25", "spec.tiers.0.width"),
        ("name: heterofl", "name: heterofll", "spec.algorithm.name"),
        ("name: dp", "name: dpp", "spec.stages.0.name"),
        ("steps: 5", "stepps: 5", "spec.algorithm.options"),
        ("max_drop: 0.02", "max_dropp: 0.02", "spec.gate"),
    ],
)
def test_what_check_refuses_in_a_field_the_schema_refuses_there(
    whole: str, known: Known, old: str, new: str, path: str
) -> None:
    text = whole.replace(old, new, 1)
    assert text != whole
    assert faults(text, known) == [path]
    assert check_text(text, "p.yaml", known).policy is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("interval: 1h30m", "interval: 0"),
        ("update_bytes: 2MB", "update_bytes: 2 MB"),
        ("update_bytes: 2MB", "update_bytes: 2000000"),
        ("chunk_bytes: 64KiB", "chunk_bytes: small-packets"),
        ("cohort: 10", "cohort: all"),
    ],
)
def test_what_check_takes_in_a_field_the_schema_takes(whole: str, known: Known, old: str, new: str) -> None:
    text = whole.replace(old, new, 1)
    assert text != whole
    assert faults(text, known) == []
    assert check_text(text, "p.yaml", known).findings == ()


@given(st.text("0123456789.smhdBkKMGi ", max_size=12))
def test_a_quantity_that_can_be_read_fits_the_pattern(text: str) -> None:
    schema = json_schema()["$defs"]
    for parse, pattern in (
        (parse_duration, schema["Participation"]["properties"]["deadline"]),
        (parse_bytes, schema["Limits"]["properties"]["update_bytes"]),
    ):
        try:
            parse(text)
        except ValueError:
            continue
        assert Draft7Validator(pattern).is_valid(text)


def test_every_key_says_what_it_means_unless_its_mapping_does() -> None:
    schema = json_schema(installed())
    silent = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, field in part["properties"].items()
        if "description" not in field and "$ref" not in field and "items" not in field
    ]
    assert silent == []


def test_defaults_are_written_as_people_write_them_and_are_valid() -> None:
    schema = json_schema()
    seen = 0
    for part in schema["$defs"].values():
        for field in part["properties"].values():
            if "default" in field and "$ref" not in field:
                seen += 1
                assert Draft7Validator(field).is_valid(field["default"]), field
    assert seen > 20
    assert schema["$defs"]["Participation"]["properties"]["deadline"]["default"] == "5m"
    assert schema["$defs"]["Limits"]["properties"]["chunk_bytes"]["default"] == "256KiB"


def test_a_file_has_the_keys_of_the_model_and_no_others() -> None:
    assert json_schema()["properties"].keys() == FederationPolicy.model_fields.keys()
    assert json_schema()["additionalProperties"] is False
