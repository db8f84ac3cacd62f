"""Labs for the transport kit, and for any test that needs a broker: those found on this machine, and one in memory."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.broker_programs import found_programs
from mhfl_mq.transport.embedded import EmbeddedBroker
from mhfl_mq.transport.memory import MemoryBroker, MemoryTransport
from mhfl_mq.transport.mqtt import MqttTransport

__all__ = ["BrokerKind", "MemoryLab", "RealLab", "found_brokers", "started"]


@dataclass(frozen=True, slots=True)
class BrokerKind:
    """A broker program that is installed here, spoken to in one version of MQTT."""

    program: Literal["mosquitto", "nats"]
    protocol: int

    def __str__(self) -> str:
        return f"{self.program}-{'5' if self.protocol == 5 else '3.1.1'}"


def found_brokers() -> tuple[BrokerKind, ...]:
    """What a test can be parametrised over: nats-server speaks 3.1.1 only, mosquitto both."""
    kinds: list[BrokerKind] = []
    for program in found_programs():
        if program.name == "mosquitto":
            kinds += [BrokerKind("mosquitto", 5), BrokerKind("mosquitto", 4)]
        else:
            kinds.append(BrokerKind("nats", 4))
    return tuple(kinds)


class RealLab:
    """A broker process with its state in a folder."""

    def __init__(self, broker: EmbeddedBroker, protocol: int, *, stock: bool = False) -> None:
        self.broker = broker
        self.protocol = protocol
        self._stock = stock

    def transport(self) -> MqttTransport:
        """A new transport with the aggregator's credentials, quick to reconnect."""
        address = replace(self.broker.address("aggregator"), protocol=self.protocol)
        return MqttTransport(address, backoff=_quick(), stock=self._stock)

    async def restart(self, *, forget: bool) -> None:
        """`kill -9`, and up again in the same place."""
        await asyncio.to_thread(self._restart, forget)

    def _restart(self, forget: bool) -> None:
        self.broker.kill()
        if forget:
            shutil.rmtree(self.broker.folder / "store")
        self.broker.restart()


class MemoryLab:
    """The broker in this process."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker

    def transport(self) -> MemoryTransport:
        return MemoryTransport(self.broker, backoff=_quick())

    async def restart(self, *, forget: bool) -> None:
        self.broker.stop()
        self.broker.start(keep_retained=not forget, keep_sessions=not forget)


@contextmanager
def started(kind: BrokerKind, folder: Path, *, stock: bool = False) -> Iterator[RealLab]:
    """A running broker of a kind, stopped at the end."""
    with EmbeddedBroker.start(folder, prefer=kind.program) as broker:
        yield RealLab(broker, kind.protocol, stock=stock)


def _quick() -> Backoff:
    return Backoff(lambda: 0.5, first_s=0.05, cap_s=0.4)
