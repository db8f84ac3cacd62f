"""paho's client as it is, by its public interface alone, with the face of `FastClient`: slower, always fits."""

import socket
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.dial import DIAL_S
from mhfl_mq.transport.mqtt.fast import Puback, Publish

__all__ = ["StockClient"]


class StockClient(paho.Client):
    """What it cannot do: mark a PUBLISH as sent before, excuse a silence, see bytes that wait behind a ping."""

    fault: OSError | None = None

    def __init__(self, client_id: str, protocol: MQTTProtocolVersion, clean: bool, address: BrokerAddress) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else clean,
            protocol=protocol,
            transport="websockets" if address.websocket else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._packet_ids: dict[int, int] = {}  # paho's message id -> ours
        self.max_inflight_messages = 0  # the window is ours, not paho's
        self.connect_timeout = DIAL_S
        if address.websocket:
            self.ws_set_options(path=address.path)
        context = address.tls_context()
        if context is not None:
            self.tls_set_context(context)
        self.on_message = self._heard
        self.on_publish = self._answered
        self.on_fast_publish: Publish = lambda *_: None
        self.on_fast_puback: Puback = lambda *_: None

    def dial(self) -> MQTTErrorCode:
        """Connect; blocks, so not on the event loop."""
        code = self.reconnect()
        sock = self.socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return code

    @property
    def has_room(self) -> bool:
        """Whether everything is written."""
        return not self.want_write()

    @property
    def more(self) -> bool:
        """Whether TLS holds bytes that the socket will not announce."""
        pending: Any = getattr(self.socket(), "pending", None)
        return pending is not None and pending() > 0

    def send_publish(
        self,
        packet_id: int,
        topic: str,
        payload: bytes | memoryview,
        qos: int,
        retain: bool,
        again: bool,
        expiry_s: int | None,
    ) -> None:
        """Queue a PUBLISH."""
        properties = None
        if expiry_s is not None and self.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        info = self.publish(topic, bytes(payload), qos, retain, properties)
        if qos:
            self._packet_ids[info.mid] = packet_id

    def say_goodbye(self) -> None:
        """Queue a DISCONNECT; paho closes when it is written."""
        self.disconnect()

    def excuse_silence(self) -> None:
        """paho cannot be told."""

    def _heard(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self.on_fast_publish(message.topic, bytes(message.payload), message.qos, message.retain, message.mid)

    def _answered(self, client: paho.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        packet_id = self._packet_ids.pop(mid, None)
        if packet_id is not None:
            self.on_fast_puback(packet_id, reason.value)
