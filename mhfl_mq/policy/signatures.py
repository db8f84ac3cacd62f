"""Signatures of policy files by SSH keys, as `ssh-keygen -Y sign` makes them and `ssh-keygen -Y verify` takes them.

Security teams have such keys already, on disks, in agents and on hardware. The format is OpenSSH's PROTOCOL.sshsig. A
signature file holds one armoured signature after the other. The namespace is of the policy's kind, so that who may sign
roll-outs signs no privacy by it; who may sign what is in `mhfl_mq.policy.signers`.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy.signers import Signer

__all__ = ["MAX_SIGNATURES", "Key", "Signature", "load_key", "namespace_of", "renew", "sign", "signed_by", "verify"]

MAX_SIGNATURES: Final = 32
"""In one file: more people than ever sign a policy."""
BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
END: Final = "-----END SSH SIGNATURE-----"
_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_COLUMNS: Final = 70  # of the armour, as ssh-keygen breaks it
_HASHES: Final = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_CURVES: Final = {
    "ecdsa-sha2-nistp256": hashes.SHA256(),
    "ecdsa-sha2-nistp384": hashes.SHA384(),
    "ecdsa-sha2-nistp521": hashes.SHA512(),
}
_RSA: Final = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}  # ssh-rsa is SHA-1: refused
_SMALLEST_RSA: Final = 2048  # bits

Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Signature:
    """What became of one signature: whose key it is, by its fingerprint, and who that is or why it does not count."""

    fingerprint: str
    principal: str = ""
    fault: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is good, and of somebody who may sign this."""
        return not self.fault


def namespace_of(kind: str) -> str:
    """What a signature of a document of this kind is for, e.g. `FederationPolicy@mhfl-mq`."""
    return f"{kind}@mhfl-mq"


# ---- signing --------------------------------------------------------------------------------------------------


def load_key(data: bytes, where: str) -> Key:
    """A private key in OpenSSH's format. Raises `ConfigError` for those that cannot be read here."""
    remedy = (
        "sign with `ssh-keygen -Y sign -f KEY -n FederationPolicy@mhfl-mq FILE`: "
        "it asks for passphrases, and knows agents and hardware keys"
    )
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        locked = isinstance(error, TypeError) or "encrypted" in str(error).lower() or "password" in str(error).lower()
        what = "the key has a passphrase" if locked else "no private key in OpenSSH's format"
        raise ConfigError(what, where=where, remedy=remedy) from None
    if isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise ConfigError("a kind of key that does not sign policies", where=where, remedy="use an ed25519 key")


def sign(data: bytes, key: Key, namespace: str) -> str:
    """An armoured signature of `data`."""
    hashed = "sha512"
    signed = _signed(data, namespace, hashed)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        form, made = "ssh-ed25519", key.sign(signed)
    elif isinstance(key, rsa.RSAPrivateKey):
        form, made = "rsa-sha2-512", key.sign(signed, padding.PKCS1v15(), hashes.SHA512())
    else:
        form = f"ecdsa-sha2-nistp{key.curve.key_size}"
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(_CURVES[form])))
        made = _number(r) + _number(s)
    public = _blob_of(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    inner = _text(form.encode()) + _text(made)
    parts = (public, namespace.encode(), b"", hashed.encode(), inner)
    blob = _MAGIC + _VERSION.to_bytes(4, "big") + b"".join(map(_text, parts))
    lines = base64.b64encode(blob).decode()
    broken = "\n".join(lines[start : start + _COLUMNS] for start in range(0, len(lines), _COLUMNS))
    return f"{BEGIN}\n{broken}\n{END}\n"


def renew(data: bytes, signatures: str, key: Key, namespace: str) -> str:
    """A signature file with this key's signature: what no longer fits `data`, or is of the same key, is left out."""
    own = _blob_of(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    kept = []
    for block in _blocks(signatures):
        try:
            public, space, hashed, form, made = _parsed(block)
        except ValueError:
            continue
        if public != own and space == namespace and _holds(public, form, made, _signed(data, namespace, hashed)):
            kept.append(f"{BEGIN}\n{block.strip()}\n{END}\n")
    return "".join(kept) + sign(data, key, namespace)


def _signed(data: bytes, namespace: str, hashed: str) -> bytes:
    """What the key signs."""
    parts = (namespace.encode(), b"", hashed.encode(), _HASHES[hashed](data).digest())
    return _MAGIC + b"".join(map(_text, parts))


def _text(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def _number(value: int) -> bytes:
    return _text(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _blob_of(line: bytes) -> bytes:
    return base64.b64decode(line.split()[1])


# ---- verifying ------------------------------------------------------------------------------------------------


def verify(
    data: bytes, signatures: str, namespace: str, signers: Sequence[Signer], now: datetime
) -> tuple[Signature, ...]:
    """What each signature of a file is worth at this moment. Raises `ValueError` for a text that holds none.

    A person who signs twice, or with two keys, is one principal: count those, not signatures.
    """
    blocks = _blocks(signatures)
    if not blocks or len(blocks) > MAX_SIGNATURES:
        raise ValueError("no SSH signature" if not blocks else f"more than {MAX_SIGNATURES} signatures")
    return tuple(_verified(data, block, namespace, signers, now) for block in blocks)


def signed_by(
    data: bytes, signatures: str, namespace: str, signers: Sequence[Signer], now: datetime
) -> tuple[str, ...]:
    """Who signed a file, by name, each once; nobody for a text that holds no signature."""
    try:
        found = verify(data, signatures, namespace, signers, now)
    except ValueError:
        return ()
    return tuple(sorted({one.principal for one in found if one.counts}))


def _verified(data: bytes, block: str, namespace: str, signers: Sequence[Signer], now: datetime) -> Signature:
    try:
        public, space, hashed, form, made = _parsed(block)
    except ValueError:
        return Signature("?", fault="not a signature that can be read")
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
    if space != namespace:
        return Signature(fingerprint, fault=f"it is for {space!r}, not for {namespace!r}")
    if not _holds(public, form, made, _signed(data, namespace, hashed)):
        return Signature(fingerprint, fault="the file was changed after it was signed, or this is another file")
    known = [one for one in signers if one.key == public]
    if not known:
        return Signature(fingerprint, fault="nobody who may sign has this key")
    faults = [one.against(namespace, now) for one in known]
    for one, fault in zip(known, faults, strict=True):
        if not fault:
            return Signature(fingerprint, one.principal)
    return Signature(fingerprint, known[0].principal, faults[0])


def _blocks(text: str) -> list[str]:
    """What stands between the lines that begin and end a signature."""
    return re.findall(rf"{BEGIN}\s+([A-Za-z0-9+/=\s]+?){END}", text)


def _parsed(block: str) -> tuple[bytes, str, str, str, bytes]:
    """Public key, namespace, hash, form and content of a signature; raises `ValueError`."""
    blob = base64.b64decode("".join(block.split()), validate=True)
    if blob[:10] != _MAGIC + _VERSION.to_bytes(4, "big"):
        raise ValueError("magic")
    (public, space, _, hashed, inner), rest = _texts(blob[10:], 5)
    (form, made), more = _texts(inner, 2)
    name = hashed.decode("ascii")
    if rest or more or name not in _HASHES:
        raise ValueError("form")
    return public, space.decode("utf-8"), name, form.decode("ascii"), made


def _texts(content: bytes, count: int) -> tuple[list[bytes], bytes]:
    found = []
    for _ in range(count):
        size = int.from_bytes(content[:4], "big")
        if len(content) < 4 + size:
            raise ValueError("short")
        found.append(content[4 : 4 + size])
        content = content[4 + size :]
    return found, content


def _holds(public: bytes, form: str, made: bytes, signed: bytes) -> bool:
    """Whether the signature is of this key over these bytes."""
    try:
        (name,), _ = _texts(public, 1)
        key = load_ssh_public_key(name + b" " + base64.b64encode(public))
        if isinstance(key, ed25519.Ed25519PublicKey) and form == "ssh-ed25519":
            key.verify(made, signed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and form == name.decode("ascii"):
            (r, s), rest = _texts(made, 2)
            if rest:
                return False
            pair = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            key.verify(pair, signed, ec.ECDSA(_CURVES[form]))
        elif isinstance(key, rsa.RSAPublicKey) and form in _RSA and key.key_size >= _SMALLEST_RSA:
            key.verify(made, signed, padding.PKCS1v15(), _RSA[form])
        else:
            return False
    except (InvalidSignature, ValueError, KeyError, UnsupportedAlgorithm):
        return False
    return True
