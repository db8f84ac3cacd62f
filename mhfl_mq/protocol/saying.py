"""What a device says of itself for the policy's rules: told with each hello, and again when it changes."""

from mhfl_mq.protocol.effects import Say
from mhfl_mq.protocol.events import FactsRead
from mhfl_mq.wire.messages import Facts

__all__ = ["Saying"]


class Saying:
    """The facts that were read last. They need not be durable: they are read anew in each life."""

    def __init__(self) -> None:
        self._facts: Facts | None = None

    def read(self, event: FactsRead, *, ready: bool) -> list[Say]:
        """The machine was looked at; what is new is told at once where the aggregator listens (`ready`)."""
        facts = Facts(dict(event.numbers), dict(event.texts))
        news, self._facts = facts != self._facts, facts
        return [Say(facts)] if news and ready else []

    def again(self) -> list[Say]:
        """What goes with a hello; nothing before the machine was looked at."""
        return [] if self._facts is None else [Say(self._facts)]
