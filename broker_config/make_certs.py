"""Certificates for a trial of mutual TLS: an authority, the broker's, and one for each client (its id is the CN).

    python make_certs.py certs --host broker.plant aggregator device-1 device-2

Run it again with new names to add clients: the authority in the folder is kept. For production let your own
authority sign; what matters is the CN of a client and the host name in the broker's subject alternative name.
"""

import argparse
import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 825  # the longest that common TLS stacks accept for a leaf certificate
AUTHORITY_DAYS = 3650


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", action="append", default=[], help="name or address of the broker (repeatable)")
    parser.add_argument("client", nargs="*", help="client id: aggregator, or a device's id")
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, key = load_or_make_authority(options.folder)
    if options.host:
        make_leaf(options.folder, "server", options.host[0], options.host, authority, key)
    for client in options.client:
        make_leaf(options.folder, client, client, [], authority, key)


def load_or_make_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority in `folder`, made at the first call."""
    if (folder / "ca.pem").exists():
        kept = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        assert isinstance(kept, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), kept
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mhfl-mq trial authority")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        start(name, key, AUTHORITY_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(folder / "ca", certificate, key)
    return certificate, key


def make_leaf(
    folder: Path,
    file: str,
    common_name: str,
    hosts: list[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    """A certificate and its key: a server's when there are hosts, else a client's."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        start(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), key, DAYS)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([general(host) for host in hosts]), False)
    write(folder / file, builder.sign(authority_key, hashes.SHA256()), key)


def general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def start(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks in a plant differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    Path(f"{path}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(f"{path}.key", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secret)


if __name__ == "__main__":
    main()
