"""What the ledger says, in one place: every kind of entry that the aggregator's machine writes, with its facts."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Final

from mhfl_mq.protocol.records import (
    DeviceSaved,
    Entry,
    Fact,
    RoundClosed,
    RoundOpened,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.protocol.rules import Rules, Upload
from mhfl_mq.protocol.words import plain

__all__ = [
    "COMPACTING",
    "aggregator_started",
    "device_assigned",
    "device_refused",
    "finite",
    "peer_fault",
    "policy_applied",
    "policy_refused",
    "round_aborted",
    "round_committed",
    "round_missed",
    "round_opened",
    "rounds_skipped",
    "update_counted",
    "update_declined",
    "update_late",
    "update_refused",
    "version_added",
    "version_rolled_back",
]


COMPACTING: Final = ("change", "error", "saved_bytes")
"""What a device says of a compacted update: its size over its model's, what was lost of it (norms), bytes saved."""


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers: neither the database nor the ledger keeps another."""
    return {name: value for name, value in metrics.items() if isfinite(value)}


def aggregator_started(epoch: int, rules: Rules, head: int, open_round: int | None) -> Entry:
    """`aggregator.start`: a process began, under this policy, with this head and, maybe, an open round."""
    return Entry(
        "aggregator.start",
        {
            "epoch": epoch,
            "agent": rules.agent,
            "task": rules.task,
            "layout": rules.layout,
            "policy": rules.policy,
            "algorithm": rules.algorithm,
            **({"why": rules.algorithm_why} if rules.algorithm_why else {}),
            "head": head,
            "open_round": open_round,
        },
    )


# ---- devices --------------------------------------------------------------------------------------------------


def device_assigned(saved: DeviceSaved, before: DeviceSaved | None, tiers: Sequence[str]) -> Entry:
    """`device.assign`: a device carries this tier from now on, why, and what it says that is new since the last one."""
    assert saved.tier is not None
    facts: dict[str, Fact] = {"device": saved.device, "tier": tiers[saved.tier], "reason": saved.reason}
    if before is not None and before.tier is not None and before.tier < len(tiers):
        facts |= {"was": tiers[before.tier], "news": list(_news(before, saved))}
    return Entry("device.assign", facts)


def _news(before: DeviceSaved, now: DeviceSaved) -> Iterator[str]:
    """What a device says otherwise than before: its steps and memory by tier, its link."""
    old = {probe.tier: probe for probe in before.probes}
    for probe in now.probes:
        was = old.get(probe.tier)
        if was is not None and was.step_s != probe.step_s:
            yield f"{probe.tier}: a step takes {probe.step_s:.3g} s, it was {was.step_s:.3g} s"
        if was is not None and was.peak_bytes != probe.peak_bytes:
            yield f"{probe.tier}: a step needs {probe.peak_bytes} bytes, it was {was.peak_bytes}"
    if before.link_bytes_s != now.link_bytes_s:
        yield f"the link carries {now.link_bytes_s:.3g} bytes/s, it was {before.link_bytes_s:.3g}"


def device_refused(device: str, code: str, reason: str) -> Entry:
    """`device.refuse`: a device cannot take part, and why."""
    return Entry("device.refuse", {"device": device, "code": code, "reason": reason})


def peer_fault(device: str, what: str) -> Entry:
    """`peer.fault`: a device sent something that the wire does not allow (the first of this round)."""
    return Entry("peer.fault", {"device": device, "what": what})


# ---- rounds ---------------------------------------------------------------------------------------------------


def round_opened(
    opened: RoundOpened, rules: Rules, uploads: Mapping[str, Upload], out: Mapping[str, int] = MappingProxyType({})
) -> Entry:
    """`round.open`: the number is used up; whom the round invites, under which rules, how each is to send, and how many
    devices each of the policy's rules keeps out.
    """
    cohort: list[Fact] = [[device, rules.tiers[tier].name] for device, tier in opened.cohort]
    reasons: dict[str, Fact] = {device: plain(upload.why) for device, upload in uploads.items() if upload.why}
    return Entry(
        "round.open",
        {
            "round": opened.round,
            "base": opened.base,
            "policy": opened.policy,
            "needed": opened.needed,
            "cohort": cohort,
            "algorithm": rules.algorithm,
            "stages": list(rules.stages),
            **({"uploads": reasons} if reasons else {}),
            **_out(out),
        },
    )


def round_missed(present: int, needed: int, why: str, out: Mapping[str, int]) -> Entry:
    """`round.miss`: the schedule allowed a round, and too few devices were there until it did no longer; `out` has how
    many of those present were kept out, by rule."""
    return Entry("round.miss", {"present": present, "needed": needed, "why": why, **_out(out)})


def _out(out: Mapping[str, int]) -> dict[str, Fact]:
    return {"out": dict(out)} if out else {}


def rounds_skipped(device: str, known: int, heard: int) -> Entry:
    """`round.skip`: a device was in a round that this aggregator knows nothing of; its numbers go on after that one."""
    return Entry("round.skip", {"device": device, "known": known, "heard": heard})


def update_counted(counted: UpdateCounted) -> Entry:
    """`update.count`: an update is durable, valid, and will be in the sum; what compacting it saved and lost."""
    return Entry(
        "update.count",
        {
            "round": counted.round,
            "device": counted.device,
            "tier": counted.tier,
            "blob": counted.blob_id,
            "size": counted.size,
            "weight": counted.weight,
            **{name: counted.metrics[name] for name in COMPACTING if name in counted.metrics},
        },
    )


def update_refused(number: int, device: str, reason: str) -> Entry:
    """`update.refuse`: an update will not be in the sum, and why (the first of this device in this round)."""
    return Entry("update.refuse", {"round": number, "device": device, "reason": reason})


def update_late(number: int, device: str) -> Entry:
    """`update.late`: an update came after its round (the first of this device since the last round opened)."""
    return Entry("update.late", {"round": number, "device": device})


def update_declined(number: int, device: str, code: str, reason: str) -> Entry:
    """`update.decline`: a device will not, or cannot, send an update, and why."""
    return Entry("update.decline", {"round": number, "device": device, "code": code, "reason": reason})


def round_committed(closed: RoundClosed, counted: Sequence[UpdateCounted], reason: str) -> Entry:
    """`round.commit`: the round made a version; what it was made of."""
    devices: list[Fact] = [one.device for one in counted]
    return Entry(
        "round.commit",
        {"round": closed.round, "version": closed.version, "devices": devices, "gate": reason},
    )


def round_aborted(closed: RoundClosed, counted: int, needed: int) -> Entry:
    """`round.abort`: the round made no version, and why."""
    return Entry(
        "round.abort",
        {"round": closed.round, "reason": closed.reason, "counted": counted, "needed": needed},
    )


def policy_applied(facts: Mapping[str, Fact], from_round: int) -> Entry:
    """`policy.apply`: a policy takes the place of the running one from this round on; by whom, why, and who signed."""
    return Entry("policy.apply", {**facts, "from_round": from_round})


def policy_refused(file: str, reason: str, who: str) -> Entry:
    """`policy.refuse`: a policy did not take the place of the running one, and why not."""
    return Entry("policy.refuse", {"file": plain(file), "reason": plain(reason), "who": plain(who)})


# ---- versions -------------------------------------------------------------------------------------------------


def version_added(added: VersionAdded) -> Entry:
    """`model.add`: a new version is the head."""
    metrics: dict[str, Fact] = dict(added.metrics)
    return Entry(
        "model.add",
        {
            "version": added.version,
            "parent": added.parent,
            "model": added.model,
            "round": added.round,
            "metrics": metrics,
        },
    )


def version_rolled_back(added: VersionAdded, target: int, who: str) -> Entry:
    """`model.rollback`: the head points at older weights again, why, and by whom."""
    return Entry(
        "model.rollback",
        {
            "version": added.version,
            "to": target,
            "from": added.parent,
            "model": added.model,
            "reason": added.reason,
            "who": who,
        },
    )
