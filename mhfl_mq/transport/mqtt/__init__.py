"""MQTT over paho: the only package that speaks it."""

from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.link import Link, LinkEvents
from mhfl_mq.transport.mqtt.fast import fast_client_fits
from mhfl_mq.transport.mqtt.link import PahoLink, SpokenProtocol
from mhfl_mq.transport.steady import SteadyTransport

__all__ = ["BrokerAddress", "MqttTransport"]


class MqttTransport(SteadyTransport):
    """`Transport` to a real broker.

    `backoff` is the reconnect's (its luck comes in); `stock` uses paho without our overrides.
    """

    def __init__(self, address: BrokerAddress | str, *, backoff: Backoff | None = None, stock: bool = False) -> None:
        broker = BrokerAddress.parse(address) if isinstance(address, str) else address
        spoken = SpokenProtocol(broker.protocol)
        fast = not stock and fast_client_fits()

        def make_link(events: LinkEvents) -> Link:
            return PahoLink(broker, events, spoken, fast=fast)

        super().__init__(make_link, address=str(broker), backoff=backoff)
