"""Who may sign policies: an `allowed_signers` file as ssh-keygen(1) has it.

name@plant namespaces="FederationPolicy@mhfl-mq",valid-before="20280101Z" ssh-ed25519 AAAA...
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from mhfl_mq.errors import ConfigError

__all__ = ["Signer", "read_signers"]

_OPTION: Final = re.compile(r'(?:[a-z-]+="[^"]*"|[a-z-]+)(?:,(?:[a-z-]+="[^"]*"|[a-z-]+))*')
_TIME: Final = re.compile(r"([0-9]{8})([0-9]{4}(?:[0-9]{2})?)?(Z?)")


@dataclass(frozen=True, slots=True)
class Signer:
    """One line of an `allowed_signers` file. `key` is the public key's blob; no `namespaces`: all."""

    principal: str
    key: bytes
    namespaces: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None

    def against(self, namespace: str, now: datetime) -> str:
        """What is against this person's signing for this namespace at this moment; empty: nothing."""
        if self.namespaces and not any(fnmatchcase(namespace, one) for one in self.namespaces):
            return f"may sign only {', '.join(self.namespaces)}"
        if self.after is not None and now < self.after:
            return f"the key is not valid before {self.after:%Y-%m-%d %H:%M %Z}"
        if self.before is not None and now >= self.before:
            return f"the key was valid until {self.before:%Y-%m-%d %H:%M %Z}"
        return ""


def read_signers(text: str, file: str) -> tuple[Signer, ...]:
    """The lines of an `allowed_signers` file; raises `ConfigError` that names the line."""
    signers = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            where = f"{file}:{number}"
            try:
                signers.append(_signer(line.strip()))
            except ValueError as error:
                remedy = 'write: name@plant namespaces="*@mhfl-mq" ssh-ed25519 AAAA...'
                raise ConfigError(f"not a line of allowed signers: {error}", where=where, remedy=remedy) from None
    if not signers:
        raise ConfigError("nobody may sign", where=file, remedy="add a line: name@plant ssh-ed25519 AAAA...")
    return tuple(signers)


def _signer(line: str) -> Signer:
    principal, _, rest = line.partition(" ")
    rest = rest.strip()
    options: dict[str, str] = {}
    head = _OPTION.match(rest)
    if head is not None and not rest.startswith(("ssh-", "ecdsa-", "sk-", "rsa-")):
        for word in re.findall(r'[a-z-]+="[^"]*"|[a-z-]+', head[0]):
            name, _, value = word.partition("=")
            options[name] = value.strip('"')
        rest = rest[head.end() :].strip()
    unknown = sorted(options.keys() - {"namespaces", "valid-after", "valid-before"})
    if unknown:
        raise ValueError(f"the option {unknown[0]} is not known here")
    words = rest.split()
    if len(words) < 2:
        raise ValueError("a principal, a kind of key and the key must stand in it")
    try:
        load_ssh_public_key(f"{words[0]} {words[1]}".encode())
        key = base64.b64decode(words[1], validate=True)
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise ValueError(f"{words[0][:40]} with what follows is no public key that is known here") from None
    spaces = tuple(filter(None, options.get("namespaces", "").split(",")))
    after, before = (_time(options[name]) if name in options else None for name in ("valid-after", "valid-before"))
    return Signer(principal, key, spaces, after, before)


def _time(text: str) -> datetime:
    """`YYYYMMDD[HHMM[SS]][Z]`: local time, or UTC with the Z."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:20]!r} is no time: write YYYYMMDD or YYYYMMDDHHMM, with a Z for UTC")
    digits = match[1] + (match[2] or "0000").ljust(6, "0")
    year, *rest = int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))
    month, day, hour, minute, second = rest
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return moment if match[3] else moment.replace(tzinfo=None).astimezone()
