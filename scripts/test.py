"""The test command: the simulator's tests, all others under branch coverage, then the floors.

The simulator runs without coverage: with it, it would take two and a half times as long, and the floors are for what
the tests of each part reach by themselves. `--long` runs the slow tests only (thousands of simulator seeds, kills at
many instants). Other arguments go to pytest. Exit code: pytest's, or 1 when a floor is missed or time is up.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

import psutil

# What the floors hold, in per cent of lines and branches together (coverage.py's branch mode).
FLOORS = (
    ("mhfl_mq/wire/*,mhfl_mq/protocol/*", 100),
    ("mhfl_mq/*", 90),
)
SIMULATOR = "tests/sim"
# Twice the cores of the smallest machine that we promise: many tests wait for brokers and timers. A worker that dies
# ends the run: pytest-xdist 3.8 gives the one that replaces it a single test and waits for ever for a second.
WORKERS = ("-n", "4", "--max-worker-restart", "0")
LIMIT_S = 1200.0
"""Of the quick tests, twice what they may take: what hangs in spite of all limits of its own ends here."""


def run(*words: str, limit_s: float | None = None) -> int:
    """Run a module of this interpreter; return its exit code, 1 when it was ended after `limit_s`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two workers that each use all cores starve each other
    # The tests start some hundred processes of ours: half of a start is compiling, where nothing is cached.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen([sys.executable, "-m", *words], env=environment) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            print(f"{' '.join(words)}: ended after {limit_s:.0f} s", file=sys.stderr)
            for one in psutil.Process(process.pid).children(recursive=True):  # its workers, and what their tests began
                one.kill()
            process.kill()
            return 1


def main(arguments: Sequence[str]) -> int:
    """Run the tests and check the floors."""
    if "--long" in arguments:
        rest = [word for word in arguments if word != "--long"]
        return run("pytest", "-m", "slow", *WORKERS, "--timeout", "3600", "-o", "faulthandler_timeout=0", *rest)
    quick = ("-m", "not slow", *WORKERS, "--dist", "loadgroup")
    if not arguments and (failed := run("pytest", *quick, SIMULATOR, limit_s=LIMIT_S)):
        return failed
    run("coverage", "erase")
    which = arguments or [f"--ignore={SIMULATOR}"]
    if failed := run("coverage", "run", "-m", "pytest", *quick, *which):
        return failed
    if run("coverage", "combine", "--quiet"):
        return 1
    missed = [
        f"{files} below {floor} %"
        for files, floor in FLOORS
        if run("coverage", "report", f"--include={files}", f"--fail-under={floor}")
    ]
    for text in missed:
        print(f"coverage floor missed: {text}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
