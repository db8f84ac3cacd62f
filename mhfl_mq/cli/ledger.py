"""`mhfl ledger`: verify the audit record, or read it."""

import json
import re
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from mhfl_mq.cli.options import Subcommands, json_option, state_option
from mhfl_mq.cli.output import print_json, say
from mhfl_mq.errors import LedgerBroken
from mhfl_mq.store.ledger import Head, Record, query, verify
from mhfl_mq.store.view import ledger_of, verify_folder

__all__ = ["command"]

_TIME: Final = re.compile(
    r"([0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01])"
    r"(T([01][0-9]|2[0-3])(:[0-5][0-9](:[0-5][0-9](\.[0-9]{1,3})?)?)?Z?)?)?)?)?"
)
LONGEST_FACT = 60  # characters of a fact in a line for people; --json has them whole


@click.group(cls=Subcommands)
def command() -> None:
    """Verify the hash-chained audit record, or read it."""


@command.command("verify")
@state_option
@click.option("--file", type=click.Path(path_type=Path), help="A copy of a ledger file, instead of a state folder.")
@click.option("--head", metavar="SEQ:HASH", help="The last line as a witness knows it; with --file.")
@json_option
def verify_(state: Path, file: Path | None, head: str | None, as_json: bool) -> None:
    """Check every line against the one before, and the last one against the database.

    Works while an aggregator runs. Exit code 0 when it is whole, 9 with the first wrong line when it is not. A copy
    alone cannot show that its end was cut off: give --head for that.
    """
    if head is not None and file is None:
        raise click.UsageError("--head needs --file: a state folder has its own head")
    expected = None if head is None else _head(head)
    try:
        end = verify_folder(state) if file is None else verify(file, expected)
    except LedgerBroken as broken:
        if as_json:
            line = broken.where.rpartition(":")[2]
            print_json({"ok": False, "line": int(line) if line.isdecimal() else None, "what": broken.what})
        raise
    if as_json:
        print_json({"ok": True, "lines": end.seq, "hash": end.hash})
    else:
        click.echo(f"ok: {end.seq} lines, head {end.seq}:{end.hash}")


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    if not (number.isdecimal() and number.isascii() and len(digest) == 64):
        raise click.BadParameter("write it as `mhfl ledger verify` prints it: SEQ:HASH", param_hint="--head")
    return Head(int(number), digest)


def _since(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The beginning of a time as the ledger writes it: anything else would be compared as text, and find nothing."""
    if not _TIME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no UTC time; write 2026, 2026-11-23, or 2026-11-23T02:00")
    return value.removesuffix("Z")  # the ledger's times have more digits where this ends


@command.command()
@state_option
@click.option("--file", type=click.Path(path_type=Path), help="A copy of a ledger file, instead of a state folder.")
@click.option("--kind", default="*", help="Only entries of this kind; round.* takes a whole family.")
@click.option("--round", "in_round", type=click.IntRange(1), help="Only entries of this round.")
@click.option("--since", default="", callback=_since, help="Only entries from this UTC time on, e.g. 2026-11-23T02:00.")
@click.option("--last", type=click.IntRange(1), help="Only so many, the newest.")
@json_option
def show(
    state: Path, file: Path | None, kind: str, in_round: int | None, since: str, last: int | None, as_json: bool
) -> None:
    """Print the entries, oldest first, the chain checked on the way. JSON is one entry per line."""
    path = ledger_of(state) if file is None else file
    found = query(path, kind=kind, in_round=in_round, since=since)
    count = 0
    for record in found if last is None else deque(found, maxlen=last):
        click.echo(_line(record, as_json))
        count += 1
    if not count and not as_json:
        say("no such entry")


def _line(record: Record, as_json: bool) -> str:
    if as_json:
        return json.dumps(asdict(record), ensure_ascii=False)
    facts = " ".join(f"{name}={_fact(value)}" for name, value in record.facts.items())
    return f"{record.seq:>6}  {record.at}  {record.kind:<18} {facts}"


def _fact(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= LONGEST_FACT else shown[: LONGEST_FACT - 1] + "…"
