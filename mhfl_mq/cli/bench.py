"""`mhfl bench`: the algorithms against each other and against the baselines, on real data and a simulated plant."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mhfl_mq.cli.options import json_option
from mhfl_mq.cli.output import Progress, print_json, print_table, say

if TYPE_CHECKING:
    from mhfl_mq.bench.matrix import Matrix, Outcome
    from mhfl_mq.bench.plan import Plan
    from mhfl_mq.bench.sets import DataSet

__all__ = ["command"]

QUICK_ROUNDS: Final = 14
QUICK_DEVICES: Final = 8
QUICK_ALGORITHMS: Final = ("heterofl", "slimmable", "depthfl")
QUICK_CASE: Final = "computation"
QUICK_DATA: Final = "wind-gateways"
USUAL_DATA: Final = "wind"


def _names(_ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter("name one at least", param=param)
    return names


def _seeds(_ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, or A..B, both included."""
    first, dots, last = value.partition("..")
    if dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return tuple(range(int(first), int(last) + 1))
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter("write them as 0,1,2 or 0..4", param=param)
    return tuple(dict.fromkeys(map(int, parts)))


@click.command()
@click.option("--algorithms", callback=_names, help="Which, with commas between them (default: all).")
@click.option("--constraints", "cases", callback=_names, help="What binds the devices (default: all cases).")
@click.option("--data", callback=_names, help=f"Data sets.  [default: {USUAL_DATA}; {QUICK_DATA} with --quick]")
@click.option("--seeds", callback=_seeds, default="0,1,2", show_default=True, help="Seeds: 0,1,2 or 0..4.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each run (default: the data set's).")
@click.option("--devices", type=click.IntRange(2, 1000), help="How many devices (default: the data set's).")
@click.option("--cohort", type=click.IntRange(1), help="Devices in a round (default: all).")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("mhfl-bench"),
    show_default=True,
    help="Folder of the results; one that was begun is continued.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Runs at the same time.")
@click.option(
    "--quick",
    is_flag=True,
    help=f"A short look that checks itself: {', '.join(QUICK_ALGORITHMS)} and what they must beat.",
)
@click.option("--no-baselines", is_flag=True, help="Leave the baselines out: nothing to compare with.")
@click.option(
    "--data-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the files of the data sets lie that do not ship with the package.",
)
@click.option("--validation", is_flag=True, help="Score on a part of the training data: for choosing settings.")
@json_option
def command(
    algorithms: tuple[str, ...] | None,
    cases: tuple[str, ...] | None,
    data: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    rounds: int | None,
    devices: int | None,
    cohort: int | None,
    out: Path,
    jobs: int,
    quick: bool,
    no_baselines: bool,
    data_folder: Path | None,
    validation: bool,
    as_json: bool,
) -> int:
    """Run algorithms and baselines on a simulated plant with real training, and report what each costs and gains.

    The real machines, codec and stores run in virtual time over a broker in memory; devices play recorded profiles
    (Raspberry Pi, Jetson, PC and others), and each carries the largest tier that fits by measured cost. Results are
    one file for each run in the folder, results.json, report.md, and plots where matplotlib is installed. Interrupt
    it at any time: the same command goes on from there. Exit code 1 when runs failed.
    """
    matrix = _matrix(
        algorithms, cases, data, seeds, rounds, devices, cohort, quick, not no_baselines, data_folder, validation
    )
    outcome = _run(matrix, out, jobs)
    from mhfl_mq.bench.report import COLUMNS, table_rows, write_report
    from mhfl_mq.bench.summary import not_beaten

    rows, notes = write_report(matrix, out, say)
    missed = not_beaten(rows, QUICK_ALGORITHMS) if quick and not algorithms and not no_baselines else []
    if as_json:
        failed = {cell.key: why for cell, why in outcome.failed.items()}
        ok = not failed and not missed
        results = str(out / "results.json")
        print_json({"ok": ok, "failed": failed, "missed": missed, "notes": notes, "results": results})
    else:
        for name in matrix.plans:
            for case in matrix.constraints:
                shown = table_rows([row for row in rows if (row.data, row.constraint) == (name, case)])
                print_table(f"{name}, bound by {case}", COLUMNS[:8], [cells[:8] for cells in shown])
        for note in (*notes, *missed):
            click.echo(f"- {note}")
    say(f"everything is in {out}/: report.md, results.json")
    return 1 if outcome.failed or missed else 0


def _matrix(
    algorithms: Sequence[str] | None,
    cases: Sequence[str] | None,
    data: Sequence[str] | None,
    seeds: tuple[int, ...],
    rounds: int | None,
    devices: int | None,
    cohort: int | None,
    quick: bool,
    baselines: bool,
    folder: Path | None,
    validation: bool,
) -> "Matrix":
    """What the options ask for; raises `ConfigError` with the closest name."""
    from mhfl_mq.bench.matrix import Matrix
    from mhfl_mq.bench.methods import BASELINES, SMALLEST, method_names, pick
    from mhfl_mq.bench.profiles import constraints
    from mhfl_mq.bench.sets import SETS

    known = method_names()
    everything = QUICK_ALGORITHMS if quick else [name for name in known if name not in BASELINES]
    methods = pick("algorithm", algorithms or everything, known)
    if baselines:
        methods = tuple(dict.fromkeys((*methods, *((SMALLEST,) if quick else BASELINES))))
    bound = pick("constraint", cases or ([QUICK_CASE] if quick else list(constraints())), tuple(constraints()))
    plans = {
        name: _plan(SETS[name], rounds, devices, cohort, quick, folder, validation)
        for name in pick("data set", data or [QUICK_DATA if quick else USUAL_DATA], list(SETS))
    }
    return Matrix(methods, bound, seeds, plans)


def _plan(
    data: "DataSet",
    rounds: int | None,
    devices: int | None,
    cohort: int | None,
    quick: bool,
    folder: Path | None,
    validation: bool,
) -> "Plan":
    from mhfl_mq.bench.plan import Plan
    from mhfl_mq.bench.sets import Files
    from mhfl_mq.errors import ConfigError

    place = data.folder(folder)
    if data.files is Files.NEEDED and place is None:
        raise ConfigError(
            f"no folder of {data.name} is given",
            where="mhfl bench",
            remedy="give --data-folder; docs/data.md says how to get its files",
        )
    plan = Plan(data.rounds, data.devices, None if place is None else str(place.absolute()), cohort)
    plan = replace(plan, validation=validation)
    if quick:
        plan = replace(plan, rounds=QUICK_ROUNDS, devices=min(QUICK_DEVICES, data.devices))
    return replace(plan, rounds=rounds or plan.rounds, devices=devices or plan.devices)


def _run(matrix: "Matrix", out: Path, jobs: int) -> "Outcome":
    from mhfl_mq.bench.matrix import cells_of, run_matrix
    from mhfl_mq.cli.signals import run_interruptible

    say(f"{len(cells_of(matrix))} runs of {', '.join(matrix.methods)}; Ctrl-C stops, the same command goes on")
    with Progress("rounds", matrix.rounds) as bar:
        return run_interruptible(run_matrix(matrix, out, jobs=jobs, told=bar.update, say=bar.tell))
