"""Signatures of policies are OpenSSH's: what ssh-keygen signs is verified here, and the other way round."""

import base64
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.policy.signatures import BEGIN, END, Key, load_key, namespace_of, renew, sign, verify
from mhfl_mq.policy.signers import Signer, read_signers

SPACE = namespace_of("FederationPolicy")
NOW = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
POLICY = "kind: FederationPolicy  # プレスライン\n".encode()
KEYS: dict[str, Key] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp384": ec.generate_private_key(ec.SECP384R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
}
ANA = KEYS["ed25519"]
BEN = KEYS["nistp256"]

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen here")


def public(key: Key) -> str:
    """A public key as it stands in a file of SSH."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def private(key: Key) -> bytes:
    """A private key as ssh-keygen writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def signers(*lines: str) -> tuple[Signer, ...]:
    """The signers of a file with these lines."""
    return read_signers("\n".join(lines), "allowed_signers")


BOTH = signers(f"ana@plant {public(ANA)}", f"ben@plant {public(BEN)} his laptop")


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_signature_made_here_is_verified_here(key: Key) -> None:
    (one,) = verify(POLICY, sign(POLICY, key, SPACE), SPACE, signers(f"ana@plant {public(key)}"), NOW)
    assert (one.principal, one.fault, one.counts) == ("ana@plant", "", True)


@needs_ssh
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_ssh_keygen_verifies_what_is_signed_here(tmp_path: Path, key: Key) -> None:
    (tmp_path / "p.sig").write_text(sign(POLICY, key, SPACE))
    (tmp_path / "allowed").write_text(f'ana@plant namespaces="{SPACE}" {public(key)}\n')
    words = ["-Y", "verify", "-f", "allowed", "-I", "ana@plant", "-n", SPACE, "-s", "p.sig"]
    done = subprocess.run(["ssh-keygen", *words], input=POLICY, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_ssh
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("hashed", ["sha256", "sha512"])
def test_what_ssh_keygen_signs_is_verified_here(tmp_path: Path, key: Key, hashed: str) -> None:
    (tmp_path / "key").write_bytes(private(key))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "p").write_bytes(POLICY)
    words = ["-Y", "sign", "-f", "key", "-n", SPACE, "-O", f"hashalg={hashed}", "p"]
    subprocess.run(["ssh-keygen", *words], cwd=tmp_path, capture_output=True, check=True)
    text = (tmp_path / "p.sig").read_text()
    (one,) = verify(POLICY, text, SPACE, signers(f"ana@plant {public(key)}"), NOW)
    assert one.counts
    (one,) = verify(POLICY + b" ", text, SPACE, signers(f"ana@plant {public(key)}"), NOW)
    assert not one.counts


def test_the_private_key_is_read_as_ssh_writes_it() -> None:
    for key in KEYS.values():
        assert public(load_key(private(key), "key")) == public(key)


def test_a_changed_file_another_namespace_and_an_unknown_key_do_not_count() -> None:
    text = sign(POLICY, ANA, SPACE)
    (one,) = verify(POLICY.replace(b"F", b"f"), text, SPACE, BOTH, NOW)
    assert "changed after it was signed" in one.fault
    (one,) = verify(POLICY, text, namespace_of("PrivacyPolicy"), BOTH, NOW)
    assert one.fault == "it is for 'FederationPolicy@mhfl-mq', not for 'PrivacyPolicy@mhfl-mq'"
    (one,) = verify(POLICY, text, SPACE, BOTH[1:], NOW)
    assert one.fault == "nobody who may sign has this key"
    assert one.fingerprint.startswith("SHA256:")


def test_each_signature_of_a_file_is_told_apart() -> None:
    text = renew(POLICY, sign(POLICY, ANA, SPACE), BEN, SPACE)
    assert [one.principal for one in verify(POLICY, text, SPACE, BOTH, NOW)] == ["ana@plant", "ben@plant"]


def test_signing_again_replaces_the_own_signature_and_those_of_an_older_file() -> None:
    text = renew(POLICY, renew(POLICY, "", ANA, SPACE), BEN, SPACE)
    assert renew(POLICY, text, BEN, SPACE).count(BEGIN) == 2
    edited = POLICY + b"spec: {}\n"
    after = renew(edited, text, BEN, SPACE)
    assert [one.principal for one in verify(edited, after, SPACE, BOTH, NOW)] == ["ben@plant"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (f'namespaces="{SPACE}"', ""),
        ('namespaces="git,*@mhfl-mq"', ""),
        ('namespaces="PrivacyPolicy@mhfl-mq"', "may sign only PrivacyPolicy@mhfl-mq"),
        ('valid-after="20270301Z"', ""),
        ('valid-after="202703011201Z"', "the key is not valid before 2027-03-01 12:01 UTC"),
        ('valid-before="20270301120001Z"', ""),
        ('valid-before="202703011200Z",namespaces="*"', "the key was valid until 2027-03-01 12:00 UTC"),
    ],
)
def test_what_a_line_allows_is_kept_to(options: str, fault: str) -> None:
    allowed = signers(f"ana@plant {options} {public(ANA)}")
    (one,) = verify(POLICY, sign(POLICY, ANA, SPACE), SPACE, allowed, NOW)
    assert (one.principal, one.fault) == ("ana@plant", fault)


def test_a_second_line_may_allow_what_the_first_does_not() -> None:
    allowed = signers(f'ana@plant valid-before="20260101Z" {public(ANA)}', f"ana@plant {public(ANA)}")
    (one,) = verify(POLICY, sign(POLICY, ANA, SPACE), SPACE, allowed, NOW)
    assert one.counts


def test_a_time_without_a_z_is_local() -> None:
    (one,) = signers(f'ana@plant valid-after="20270301" {public(ANA)}')
    assert one.after == datetime(2027, 3, 1).astimezone()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ana@plant", "must stand in it"),
        ("ana@plant ssh-ed25519", "must stand in it"),
        ("ana@plant ssh-ed25519 AAAA", "no public key"),
        ("ana@plant ssh-ed25519 ????", "no public key"),
        (f"ana@plant cert-authority {public(ANA)}", "option cert-authority"),
        (f'ana@plant valid-after="tomorrow" {public(ANA)}', "no time"),
        (f'ana@plant valid-after="20271301Z" {public(ANA)}', "month"),
    ],
)
def test_a_wrong_line_is_named(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_signers(f"# people\n\n{line}\n", "allowed")
    assert caught.value.where == "allowed:3"


def test_a_file_without_lines_allows_nobody_and_says_so() -> None:
    with pytest.raises(ConfigError, match="nobody may sign"):
        read_signers("# none yet\n", "allowed")


@pytest.mark.parametrize("text", ["", "-----BEGIN PGP SIGNATURE-----", f"{BEGIN}\n{END}"])
def test_a_file_without_a_signature_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no SSH signature"):
        verify(POLICY, text, SPACE, BOTH, NOW)


def test_more_signatures_than_anybody_needs_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 32"):
        verify(POLICY, sign(POLICY, ANA, SPACE) * 33, SPACE, BOTH, NOW)


@given(st.data())
def test_a_damaged_signature_never_counts_and_never_raises(data: st.DataObject) -> None:
    body = sign(POLICY, ANA, SPACE).removeprefix(BEGIN).removesuffix(END + "\n").replace("\n", "")
    at = data.draw(st.integers(0, len(body.rstrip("=")) - 2))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
    damaged = body[:at] + letter + body[at + 1 :]
    (one,) = verify(POLICY, f"{BEGIN}\n{damaged}\n{END}\n", SPACE, BOTH, NOW)
    assert one.counts == (damaged == body)


@given(st.binary(max_size=300))
def test_any_content_of_a_signature_is_a_fault_and_never_an_error(content: bytes) -> None:
    body = base64.b64encode(b"SSHSIG\0\0\0\x01" + content).decode()
    (one,) = verify(POLICY, f"{BEGIN}\n{body}\n{END}\n", SPACE, BOTH, NOW)
    assert not one.counts


def test_short_rsa_keys_do_not_count() -> None:
    key = rsa.generate_private_key(65537, 1024)
    (one,) = verify(POLICY, sign(POLICY, key, SPACE), SPACE, signers(f"ana@plant {public(key)}"), NOW)
    assert not one.counts


def test_keys_that_cannot_be_used_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no private key") as caught:
        load_key(b"nonsense", "id")
    assert "ssh-keygen -Y sign" in caught.value.remedy
    pem = ANA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigError, match="OpenSSH's format"):
        load_key(pem, "id")


@needs_ssh
def test_a_key_with_a_passphrase_says_that_ssh_keygen_signs_with_it(tmp_path: Path) -> None:
    words = ["-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "id")]
    subprocess.run(["ssh-keygen", *words], check=True)
    with pytest.raises(ConfigError, match="passphrase") as caught:
        load_key((tmp_path / "id").read_bytes(), "id")
    assert "asks for passphrases" in caught.value.remedy


def test_time_moves_a_signature_out_of_its_validity() -> None:
    allowed = signers(f'ana@plant valid-before="20270302Z" {public(ANA)}')
    text = sign(POLICY, ANA, SPACE)
    counted = [verify(POLICY, text, SPACE, allowed, NOW + timedelta(days=days))[0].counts for days in (0, 1)]
    assert counted == [True, False]
