"""The fleet as a policy's decisions see it: what a device said, what the aggregator saw of it, what the registry says.

A running aggregator writes it beside its board, so that `mhfl policy explain` and its kin decide from the same facts.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy import Policy
from mhfl_mq.policy.eligible import Fleet
from mhfl_mq.policy.facts import FACTS, DeviceFacts, Kind, Past, Source, Upload, Value
from mhfl_mq.policy.registry import tags_of
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.members import Link
from mhfl_mq.protocol.records import PastSaved
from mhfl_mq.protocol.rules import Asked
from mhfl_mq.wire.messages import Facts

__all__ = ["FLEET", "FactsOf", "fleet_document", "read_fleet", "with_policy"]

FLEET: Final = "fleet.json"
"""Its file's name in the aggregator's state folder."""


class FactsOf:
    """Makes `DeviceFacts` of what the aggregator's machine knows, under one policy."""

    def __init__(self, policy: Policy) -> None:
        self._tiers = tuple(tier.name for tier in policy.tiers)
        self._tags = lru_cache(maxsize=None)(partial(tags_of, registered=policy.devices))  # one for each device

    def __call__(self, asked: Asked) -> DeviceFacts:
        facts: dict[str, Value] = {} if asked.said is None else _said(asked.said[0])
        facts["examples"] = float(asked.examples)
        if asked.link_bytes_s:
            facts["link_mbit"] = asked.link_bytes_s * 8 / 1e6
        facts |= {
            "device": asked.device,
            "tags": self._tags(asked.device),
            "tier": self._tiers[asked.tier],
            "rounds": float(asked.turns),
            "missed": float(asked.past.missed),
        }
        said_at = None if asked.said is None else asked.said[1]
        return DeviceFacts(asked.device, facts, _past(asked.past, asked.turns), said_at, asked.next_bytes)


def _said(facts: Facts) -> dict[str, Value]:
    """A device's word on what only it can say; what is no fact, or of another kind, is passed over."""
    found: dict[str, Value] = {}
    for name, number in facts.numbers.items():
        fact = FACTS.get(name)
        if fact is not None and fact.source is Source.REPORTED:
            if fact.kind is Kind.NUMBER:
                found[name] = number
            elif fact.kind is Kind.FLAG and number in (0.0, 1.0):
                found[name] = bool(number)
    for name, texts in facts.texts.items():
        fact = FACTS.get(name)
        if fact is not None and fact.source is Source.REPORTED:
            if fact.kind is Kind.TAGS:
                found[name] = texts
            elif fact.kind is Kind.TEXT and len(texts) == 1:
                found[name] = texts[0]
    return found


def _past(past: PastSaved, turns: int) -> Past:
    uploads = tuple(Upload(one.at, one.size, one.seconds) for one in past.uploads)
    return Past(turns, past.missed, past.turned_at, uploads, past.last_s)


# ---- the file ---------------------------------------------------------------------------------------------------


def fleet_document(
    machine: FederationMachine, facts_of: Callable[[Asked], DeviceFacts], federation: str
) -> dict[str, Any]:
    """The fleet of a running aggregator, for its file."""
    layout = machine.rules.layout
    roll = [one for one in machine.members.roll() if one.saved.tier is not None and one.saved.layout == layout]
    devices = []
    for member in roll:
        device, tier = member.saved.device, member.saved.tier or 0
        asked = machine.eligibility.asked((device, tier, machine.members.turns(device)))
        devices.append(asdict(replace(facts_of(asked), present=member.link is Link.ONLINE)))
    return {
        "federation": federation,
        "lengths": {tier.name: tier.length for tier in machine.rules.tiers},
        "rounds": machine.rounds,
        "committed_at": machine.pace.committed_at,
        "devices": devices,
    }


def read_fleet(path: Path) -> Fleet:
    """A fleet from its file, or from a state folder that has one; raises `ConfigError` for what is none."""
    file = path / FLEET if path.is_dir() else path
    remedy = f"name a state folder of an aggregator that has run, or a {FLEET} that was copied from one"
    try:
        return _fleet(json.loads(file.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"there is no fleet: {error.strerror}", where=str(file), remedy=remedy) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"not a fleet: {error}", where=str(file), remedy=remedy) from None


def _fleet(document: Mapping[str, Any]) -> Fleet:
    devices = tuple(_device(one) for one in document["devices"])
    committed_at = document["committed_at"]
    return Fleet(
        devices,
        int(document["rounds"]),
        None if committed_at is None else float(committed_at),
        str(document["federation"]),
        {str(name): int(length) for name, length in document["lengths"].items()},
    )


def _device(one: Mapping[str, Any]) -> DeviceFacts:
    past = one["past"]
    uploads = tuple(Upload(float(up["at"]), int(up["size"]), float(up["seconds"])) for up in past["uploads"])
    facts = {name: _value(name, value) for name, value in one["facts"].items() if name in FACTS}
    return DeviceFacts(
        device=str(one["device"]),
        facts=facts,
        past=Past(int(past["turns"]), int(past["missed"]), past["turned_at"], uploads, float(past["last_s"])),
        said_at=one["said_at"],
        next_bytes=int(one["next_bytes"]),
        present=bool(one["present"]),
    )


def _value(name: str, value: Any) -> Value:
    wanted: dict[Kind, type[Any] | tuple[type[Any], ...]] = {
        Kind.NUMBER: (int, float),
        Kind.TEXT: str,
        Kind.FLAG: bool,
        Kind.TAGS: list,
    }
    kind = FACTS[name].kind
    if not isinstance(value, wanted[kind]) or (kind is Kind.NUMBER and isinstance(value, bool)):
        raise ValueError(f"the fact {name} is {value!r}, which is no {kind.value}")
    return tuple(map(str, value)) if kind is Kind.TAGS else value


def with_policy(device: DeviceFacts, policy: Policy) -> DeviceFacts:
    """The device as another policy's registry knows it."""
    tags = tags_of(device.device, policy.devices)
    return replace(device, facts={**device.facts, "tags": tags})
