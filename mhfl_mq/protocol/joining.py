"""How a device joins: hello -> survey -> capability -> tier, or a refusal with its reason."""

from dataclasses import replace

from mhfl_mq.protocol import entries
from mhfl_mq.protocol.effects import AggregatorEffect, Persist, Tell
from mhfl_mq.protocol.members import Members
from mhfl_mq.protocol.pauses import Once
from mhfl_mq.protocol.records import DeviceSaved, Entry
from mhfl_mq.protocol.rules import Decider, Rules
from mhfl_mq.protocol.words import plain
from mhfl_mq.wire.messages import Assign, Capability, Hello, Refuse, Survey

__all__ = ["Joining"]


class Joining:
    """Answers hellos and capabilities; what it decides is durable before it is told."""

    def __init__(self, rules: Rules, decider: Decider, members: Members, once: Once) -> None:
        self._rules = rules
        self._decider = decider
        self._members = members
        self._once = once

    def under(self, rules: Rules, decider: Decider) -> None:
        """Another policy decides from now on."""
        self._rules, self._decider = rules, decider

    def answer(self, device: str, message: Hello | Capability, epoch: int) -> list[AggregatorEffect]:
        """Assign, survey or refuse."""
        if isinstance(message, Hello) and message.task != self._rules.task:
            reason = f"the federation runs the task {self._rules.task}, this device has {message.task}"
            return self._refuse(device, "task", reason)
        if not self._members.has_room(device):
            return self._refuse(device, "full", f"the federation has its {self._rules.max_devices} devices already")
        if isinstance(message, Capability):
            return self._decide(device, message, epoch)
        return self._hello(device, message, epoch)

    def _hello(self, device: str, hello: Hello, epoch: int) -> list[AggregatorEffect]:
        """Who is known, and still has our layout, needs no survey: the policy is asked again all the same."""
        member, rules = self._members.get(device), self._rules
        if member is not None:
            self._members.hello(device, hello)
            if hello.layout == rules.layout == member.saved.layout and member.saved.tier is not None:
                return self._decide(device, replace(member.capability, session=hello.session), epoch)
        survey = Survey(
            epoch=epoch,
            task=rules.task,
            layout=rules.layout,
            tiers=rules.tiers,
            batch=rules.batch,
            algorithm=rules.algorithm,
            options=dict(rules.options),
            public=rules.public,
        )
        return [Tell(device, survey)]

    def _decide(self, device: str, capability: Capability, epoch: int) -> list[AggregatorEffect]:
        """Give the device its tier, or say why there is none."""
        tier, code, reason = self._tier_of(capability)
        member = self._members.get(device)
        before = None if member is None else member.saved
        saved = DeviceSaved(
            device=device,
            session=capability.session,
            tier=tier,
            reason=reason,
            layout=capability.layout,
            examples=capability.examples,
            link_bytes_s=capability.link_bytes_s,
            probes=capability.probes,
        )
        effects: list[AggregatorEffect] = []
        if before != saved:
            was = None if before is None else before.tier
            effects.append(Persist((saved,), self._assigned(saved, before) if tier != was else ()))
        self._members.measured(saved)
        if tier is None:
            return effects + self._refuse(device, code, reason)
        return [*effects, Tell(device, Assign(epoch, tier, reason))]

    def _assigned(self, saved: DeviceSaved, before: DeviceSaved | None) -> tuple[Entry, ...]:
        """What the ledger says about a tier that is new to a device."""
        if saved.tier is None or not self._once.first(saved.device, f"tier {saved.tier}"):
            return ()
        return (entries.device_assigned(saved, before, [tier.name for tier in self._rules.tiers]),)

    def _tier_of(self, capability: Capability) -> tuple[int | None, str, str]:
        """The tier, or None and the code of the refusal; and the reason."""
        if capability.layout != self._rules.layout:
            reason = (
                f"this device derives layout {capability.layout}, the federation has {self._rules.layout}: "
                "install the same version of the task on both"
            )
            return None, "layout", reason
        decision = self._decider.assign(capability)
        return (decision.tier if decision.yes else None), "tier", decision.text

    def _refuse(self, device: str, code: str, reason: str) -> list[AggregatorEffect]:
        reason = plain(reason)
        tell = Tell(device, Refuse(code, reason))
        if not self._once.first(device, code):
            return [tell]
        return [Persist(entries=(entries.device_refused(device, code, reason),)), tell]
