"""`mhfl policy sign` and `verify`: SSH signatures of policy files."""

from datetime import UTC, datetime
from pathlib import Path

import click

from mhfl_mq.cli.options import json_option
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.cli.policies import read_installed_policy
from mhfl_mq.errors import ConfigError, PolicyError
from mhfl_mq.policy.load import MAX_BYTES
from mhfl_mq.policy.signatures import Signature, load_key, namespace_of, renew, verify
from mhfl_mq.policy.signers import read_signers
from mhfl_mq.run.applying import KIND
from mhfl_mq.store.files import RealFiles, atomic_write

__all__ = ["SUFFIX", "read_bytes", "sign_command", "verify_command"]

SUFFIX = ".sig"  # where ssh-keygen puts it as well


@click.command("sign")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-k", "--key", required=True, type=click.Path(path_type=Path), help="A private SSH key, e.g. ed25519.")
def sign_command(file: Path, key: Path) -> None:
    """Sign a policy file with an SSH key.

    The signature goes to FILE.sig, beside those of others that still fit the file. A policy that `check` refuses is not
    signed. Keys with a passphrase, in an agent or
    on hardware sign with ssh-keygen, whose signatures `verify` takes as well:

    \b
      ssh-keygen -Y sign -f KEY -n FederationPolicy@mhfl-mq FILE
    """
    private = load_key(read_bytes(key), str(key))
    read_installed_policy(file)
    out = _signature_of(file)
    before = read_bytes(out).decode("ascii", "replace") if out.exists() else ""
    text = renew(read_bytes(file), before, private, namespace_of(KIND))
    atomic_write(RealFiles(), out, text.encode())
    say(f"signed {file}: {out}")


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-s", "--signers", required=True, type=click.Path(path_type=Path), help="An allowed_signers file, as SSH has it."
)
@click.option(
    "-n", "--require", type=click.IntRange(1, 32), default=1, show_default=True, help="So many people must have signed."
)
@json_option
def verify_command(file: Path, signers: Path, require: int, as_json: bool) -> int:
    """Say who signed a policy file, and whether they are enough.

    Reads FILE.sig. A person counts once, however often they signed. Exit code 0 when enough have signed, 4 otherwise.
    """
    allowed = read_signers(read_bytes(signers).decode("utf-8", "replace"), str(signers))
    out = _signature_of(file)
    content = read_bytes(file)
    try:
        text = read_bytes(out).decode("ascii", "replace")
        found = verify(content, text, namespace_of(KIND), allowed, datetime.now(UTC))
    except ValueError as error:
        remedy = f"`mhfl policy sign {file} -k KEY` makes one"
        raise ConfigError(f"{error} in it", where=str(out), remedy=remedy) from None
    people = sorted({one.principal for one in found if one.counts})
    enough = len(people) >= require
    if as_json:
        rows = [{"fingerprint": one.fingerprint, "principal": one.principal, "fault": one.fault} for one in found]
        print_json({"file": str(file), "enough": enough, "required": require, "signed_by": people, "signatures": rows})
    else:
        for one in found:
            click.echo(_line(one))
        click.echo(
            f"{file}: signed by {len(people)} of the {require} {'person' if require == 1 else 'people'} required"
        )
    return 0 if enough else PolicyError.exit_code


def _line(one: Signature) -> str:
    if one.counts:
        return f"  ok  {one.principal}  {one.fingerprint}"
    return f"  NO  {one.principal or 'unknown'}  {one.fingerprint}: {one.fault}"


def _signature_of(file: Path) -> Path:
    return file.with_name(file.name + SUFFIX)


def read_bytes(file: Path) -> bytes:
    """A policy, its signatures or a key; raises `ConfigError` for what cannot be one."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(file), remedy="check the file's name"
        ) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES // 1024} KiB", where=str(file), remedy="check the file's name")
    return data
