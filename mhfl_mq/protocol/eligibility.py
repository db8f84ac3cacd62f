"""Which of the candidates may be invited now, by the policy's rules about single devices, and what keeps others out."""

from collections import Counter

from mhfl_mq.protocol.members import Members
from mhfl_mq.protocol.rules import Asked, Candidate, Decider, May
from mhfl_mq.protocol.uploads import Uploads

__all__ = ["Eligibility"]


class Eligibility:
    """Asks the decider about each candidate, and keeps its word until something may have changed it.

    By itself time only lets devices in, when the decider said that it would: a word is kept until then, until the
    device is heard again, or until a round has ended. `out` has the rule that keeps a device out; `again_at` is when
    the first of them may come in by waiting alone.
    """

    def __init__(self, decider: Decider, members: Members, uploads: Uploads) -> None:
        self.out: dict[str, str] = {}
        self.again_at: float | None = None
        self._decider = decider
        self._members = members
        self._uploads = uploads
        self._words: dict[str, May] = {}

    def under(self, decider: Decider) -> None:
        """Another policy decides from now on."""
        self._decider = decider
        self.forget()

    def forget(self, device: str | None = None) -> None:
        """What is known of this device has changed, or (None) of everybody: a round has ended, say."""
        if device is None:
            self._words.clear()
        else:
            self._words.pop(device, None)

    def of(self, candidates: tuple[Candidate, ...], rounds: int, now: float) -> tuple[Candidate, ...]:
        """Those who may be invited; `rounds` have ended so far."""
        self.out, self.again_at = {}, None
        if not self._decider.selective:
            return candidates
        allowed = []
        for one in candidates:
            word = self._word(one, rounds, now)
            if word.yes:
                allowed.append(one)
                continue
            self.out[one[0]] = word.rule
            if word.again_at is not None:
                self.again_at = min(word.again_at, self.again_at or word.again_at)
        return tuple(allowed)

    def _word(self, candidate: Candidate, rounds: int, now: float) -> May:
        word = self._words.get(candidate[0])
        if word is None or (word.again_at is not None and now >= word.again_at):
            word = self._words[candidate[0]] = self._decider.may(self.asked(candidate), rounds, now)
        return word

    @property
    def counts(self) -> dict[str, int]:
        """How many devices each rule keeps out."""
        return dict(sorted(Counter(self.out.values()).items()))

    def asked(self, candidate: Candidate) -> Asked:
        """What the decider is told of a candidate."""
        device, tier, turns = candidate
        member = self._members.get(device)
        assert member is not None
        return Asked(
            device=device,
            tier=tier,
            turns=turns,
            past=self._members.past(device),
            examples=member.saved.examples,
            link_bytes_s=member.saved.link_bytes_s,
            said=self._members.said(device),
            next_bytes=self._uploads.most_bytes(device, tier),
        )
