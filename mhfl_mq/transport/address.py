"""Where a broker is and how to be let in, as one URL: `mqtts://device-1:secret@broker.plant:8883?ca=ca.pem`."""

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from mhfl_mq.errors import ConfigError

__all__ = ["BrokerAddress"]

# scheme -> (TLS, websocket, default port)
_SCHEMES = {
    "mqtt": (False, False, 1883),
    "mqtts": (True, False, 8883),
    "ws": (False, True, 80),
    "wss": (True, True, 443),
}
_PROTOCOLS = {"3.1.1": 4, "4": 4, "5": 5}
# A control frame and its topic must fit: no broker that we know takes less than this (AWS: 128 KiB).
_SMALLEST_PACKET = 4096
_LARGEST_PACKET = 268_435_460  # MQTT's own limit: 256 MiB of body and 5 bytes of head

_EXAMPLE = "write it as mqtt://USER:PASSWORD@HOST:PORT (mqtts, ws and wss work too)"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A broker and our credentials for it. Neither `str` nor `repr` shows the password."""

    host: str
    port: int
    tls: bool = False
    websocket: bool = False
    path: str = "/mqtt"  # of the websocket
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""  # empty: the system's authorities
    cert_file: str = ""  # our certificate and key: mutual TLS
    key_file: str = ""
    max_packet: int = 0  # bytes; 0: as the broker says, else the smaller of the two
    protocol: int = 0  # 4: MQTT 3.1.1, 5: MQTT 5, 0: the newest that the broker speaks

    @classmethod
    def parse(cls, url: str) -> "BrokerAddress":
        """Read a URL; query keys: ca, cert, key, password_file, max_packet, protocol (3.1.1 or 5).

        Raises `ConfigError`, which never repeats the credentials.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise ConfigError(
                "the port is not a number from 1 to 65535", where="broker URL", remedy=_EXAMPLE
            ) from error
        if parts.scheme not in _SCHEMES:
            what = f"unknown scheme {parts.scheme!r}" if "://" in url else "no scheme"
            raise ConfigError(what, where="broker URL", remedy=_EXAMPLE)
        tls, websocket, default_port = _SCHEMES[parts.scheme]
        if not parts.hostname:
            raise ConfigError("no host", where="broker URL", remedy=_EXAMPLE)
        if port == 0:
            raise ConfigError("port 0 cannot be connected to", where="broker URL", remedy=_EXAMPLE)
        address = cls(
            host=parts.hostname,
            port=port or default_port,
            tls=tls,
            websocket=websocket,
            path=_path(parts, websocket),
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
        return _with_options(address, parts.query)

    def __str__(self) -> str:
        """The URL without credentials: fit for logs and errors."""
        scheme = {(t, w): name for name, (t, w, _) in _SCHEMES.items()}[self.tls, self.websocket]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.path if self.websocket else ''}"

    def tls_context(self) -> ssl.SSLContext | None:
        """How to check the broker and prove ourselves; None without TLS. Raises `ConfigError` for bad files."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot read the certificate authority {self.ca_file}: {_reason(error)}",
                where="broker URL",
                remedy="give a PEM file with ?ca=FILE",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file or None)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"cannot read the certificate {self.cert_file} and its key: {_reason(error)}",
                    where="broker URL",
                    remedy="give PEM files that belong together with ?cert=FILE&key=FILE",
                ) from error
        return context


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _path(parts: SplitResult, websocket: bool) -> str:
    if websocket:
        return parts.path if parts.path not in ("", "/") else "/mqtt"
    if parts.path not in ("", "/"):
        raise ConfigError(
            f"{parts.scheme}:// takes no path, this has {parts.path!r}", where="broker URL", remedy=_EXAMPLE
        )
    return "/mqtt"


def _with_options(address: BrokerAddress, query: str) -> BrokerAddress:
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in ("ca", "cert", "key"):
            if not address.tls:
                raise ConfigError(f"{key}= needs TLS", where="broker URL", remedy="use mqtts:// or wss://")
            if key == "ca":
                address = replace(address, ca_file=value)
            elif key == "cert":
                address = replace(address, cert_file=value)
            else:
                address = replace(address, key_file=value)
        elif key == "password_file":
            address = replace(address, password=_read_password(value))
        elif key == "max_packet":
            address = replace(address, max_packet=_packet_limit(value))
        elif key == "protocol":
            if value not in _PROTOCOLS:
                raise ConfigError(f"unknown protocol {value!r}", where="broker URL", remedy="use 3.1.1 or 5")
            address = replace(address, protocol=_PROTOCOLS[value])
        else:
            raise ConfigError(
                f"unknown option {key!r}",
                where="broker URL",
                remedy="known are ca, cert, key, password_file, max_packet, protocol",
            )
    return address


def _read_password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the password file {path}",
            where="broker URL",
            remedy="give a readable text file that holds the password alone",
        ) from error


def _packet_limit(value: str) -> int:
    if not (value.isascii() and value.isdigit() and _SMALLEST_PACKET <= int(value) <= _LARGEST_PACKET):
        raise ConfigError(
            f"max_packet {value[:20]!r} is not a number of bytes from {_SMALLEST_PACKET} to {_LARGEST_PACKET}",
            where="broker URL",
            remedy="for a broker with 96 KiB packets write max_packet=98304",
        )
    return int(value)
