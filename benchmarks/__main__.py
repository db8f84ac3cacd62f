"""`make bench`: every figure beside its reference, as a table and in benchmarks/results.json.

A bound that is missed is shown, not hidden; it does not fail the command. Name modules to run only those.
"""

import importlib
import json
import platform
import sys
from pathlib import Path

from benchmarks.table import Row

MODULES = ("fold", "rounds", "agent", "families", "first_round", "policies")


def show(row: Row) -> str:
    """One line for a person."""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x of {row['reference']:.6g}"
    verdict = {True: "ok", False: "MISSED", None: ""}[row["ok"]]
    return f"{row['name']:<72} {row['ours']:>14.6g}  {ratio:<28} {row['bound']:>8}  {verdict}"


def main(names: list[str]) -> None:
    """Measure, print, write."""
    rows: list[Row] = []
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for name in names or MODULES:
        for row in importlib.import_module(f"benchmarks.{name}").measure():
            rows.append(row)
            print(show(row), flush=True)
    out = Path(__file__).parent / "results.json"
    out.write_text(json.dumps(rows, indent=2) + "\n")
    missed = sum(row["ok"] is False for row in rows)
    print(f"{len(rows)} figures, {missed} missed; written to {out.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
