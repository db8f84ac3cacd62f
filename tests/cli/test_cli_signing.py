"""`mhfl policy sign` and `verify`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mhfl_mq.shipped import shipped


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder with a policy, the keys of two people, and the list of who may sign."""
    shutil.copy(str(shipped("policies") / "default.yaml"), tmp_path / "press.yaml")
    lines = []
    for name in ("ana", "ben"):
        key = Ed25519PrivateKey.generate()
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        lines.append(f'{name}@plant namespaces="FederationPolicy@mhfl-mq" {public}\n')
    (tmp_path / "signers").write_text("".join(lines))
    return tmp_path


def test_two_people_sign_and_both_are_named(mhfl: Any, plant: Path) -> None:
    policy, signers = plant / "press.yaml", plant / "signers"
    assert mhfl("policy", "sign", policy, "-k", plant / "ana").code == 0
    done = mhfl("policy", "verify", policy, "-s", signers, "-n", "2")
    assert done.code == 4
    assert "signed by 1 of the 2 people required" in done.out
    assert mhfl("policy", "sign", policy, "-k", plant / "ana").code == 0  # once more: still one person
    assert mhfl("policy", "sign", policy, "-k", plant / "ben").code == 0
    done = mhfl("policy", "verify", policy, "-s", signers, "-n", "2")
    assert done.code == 0
    assert done.out.count("  ok  ") == 2
    found = json.loads(mhfl("policy", "verify", policy, "-s", signers, "--json").out)
    assert found["enough"] is True
    assert found["signed_by"] == ["ana@plant", "ben@plant"]
    assert [one["fault"] for one in found["signatures"]] == ["", ""]


def test_a_changed_policy_is_not_signed_any_more_and_says_why(mhfl: Any, plant: Path) -> None:
    policy = plant / "press.yaml"
    mhfl("policy", "sign", policy, "-k", plant / "ana")
    policy.write_text(policy.read_text("utf-8").replace("deadline: 2m", "deadline: 3m"), "utf-8")
    done = mhfl("policy", "verify", policy, "-s", plant / "signers")
    assert done.code == 4
    assert "NO  unknown" in done.out
    assert "changed after it was signed" in done.out


def test_a_policy_that_is_wrong_is_not_signed(mhfl: Any, plant: Path) -> None:
    policy = plant / "press.yaml"
    policy.write_text("kind: FederationPolicy\n")
    done = mhfl("policy", "sign", policy, "-k", plant / "ana")
    assert done.code == 4
    assert not (plant / "press.yaml.sig").exists()


def test_what_is_missing_is_named_with_what_to_do(mhfl: Any, plant: Path) -> None:
    policy, signers = plant / "press.yaml", plant / "signers"
    done = mhfl("policy", "verify", policy, "-s", signers)
    assert done.code == 3
    assert "press.yaml.sig" in done.err
    (plant / "press.yaml.sig").write_text("nothing")
    done = mhfl("policy", "verify", policy, "-s", signers)
    assert done.code == 3
    assert "no SSH signature" in done.err
    assert "mhfl policy sign" in done.err
    assert mhfl("policy", "sign", policy, "-k", plant / "signers").code == 3
    assert mhfl("policy", "sign", policy, "-k", plant / "nobody").code == 3
    assert mhfl("policy", "verify", policy, "-s", plant / "nobody").code == 3
    (plant / "signers").write_bytes(b"x" * 300_000)
    done = mhfl("policy", "verify", policy, "-s", signers)
    assert "larger than 256 KiB" in done.err
