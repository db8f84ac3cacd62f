"""What a broker's answer means to us: which error, and what to do about it."""

import ssl

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from mhfl_mq.errors import BrokerRefused, BrokerUnreachable, TransportError
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.dial import tls_refusal

__all__ = ["OtherProtocol", "closed_early", "connect_refusal", "publish_problem", "unusable"]

_TOO_NEW = "Unsupported protocol version"
_PASSING = frozenset(
    {"Server unavailable", "Server busy", "Quota exceeded", "Connection rate exceeded", "Use another server"}
)
_FAILURE = 0x80  # reason codes from here on say that something was not done
_NOT_AUTHORISED = 0x87


class OtherProtocol(Exception):
    """The broker does not speak this version of MQTT; holds what to raise when there is no other to try."""

    def __init__(self, error: TransportError) -> None:
        super().__init__(str(error))
        self.error = error


def unusable(address: BrokerAddress, what: str) -> BrokerUnreachable:
    """Somebody answers, but not as a broker that can be used now."""
    return BrokerUnreachable(
        f"the broker cannot be used: {what}",
        where=str(address),
        remedy="check that host and port are an MQTT broker's, or start one with `mhfl broker`",
    )


def connect_refusal(address: BrokerAddress, reason: str) -> TransportError | OtherProtocol:
    """What a CONNACK with this reason (MQTT 5's name for it) means."""
    if reason == _TOO_NEW:
        return OtherProtocol(
            BrokerRefused(
                "the broker does not speak this version of MQTT",
                where=str(address),
                remedy="leave ?protocol= out of its URL, or use a broker with MQTT 3.1.1 or 5",
            )
        )
    if reason in _PASSING:
        return unusable(address, f"it answered: {reason}")
    who = f"user {address.username!r}" if address.username else "a client without a user name"
    return BrokerRefused(
        f"the broker does not let {who} in: {reason}",
        where=str(address),
        remedy="check user name, password, certificate and client id",
    )


def closed_early(
    address: BrokerAddress, fault: OSError | None, *, maybe_too_new: bool
) -> TransportError | OtherProtocol:
    """The connection ended before CONNACK. Some old brokers close instead of saying that they know no MQTT 5."""
    if isinstance(fault, ssl.SSLError):
        return tls_refusal(address, fault)
    hint = "it closed the connection before it answered"
    if address.tls and not address.cert_file:
        hint += " (does it want a client certificate? ?cert=FILE&key=FILE)"
    error = unusable(address, hint)
    return OtherProtocol(error) if maybe_too_new else error


def publish_problem(address: BrokerAddress, reason: int) -> TransportError | None:
    """What a PUBACK's reason code (MQTT 5) means; None: the broker has the message."""
    if reason < _FAILURE:
        return None
    name = ReasonCode(PacketTypes.PUBACK, identifier=reason).getName()
    kind = BrokerRefused if reason == _NOT_AUTHORISED else TransportError
    return kind(
        f"the broker did not take a message: {name}",
        where=str(address),
        remedy="see the broker's access list and limits",
    )
