"""The benchmark's data sets by name."""

import difflib
from typing import Final

from mhfl_mq.bench.data.base import BenchSet
from mhfl_mq.bench.data.fashion import FASHION
from mhfl_mq.bench.data.hydraulic import ACCUMULATOR, VALVE
from mhfl_mq.bench.data.windfarm import WIND
from mhfl_mq.errors import TaskError

__all__ = ["BENCH_SETS", "find_set"]

BENCH_SETS: Final = (VALVE, ACCUMULATOR, WIND, FASHION)


def find_set(name: str) -> BenchSet:
    """The data set of a name; raises `TaskError` with the nearest one."""
    known = {one.name: one for one in BENCH_SETS}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
    raise TaskError(f"there is no data set {name!r}", where="the benchmark", remedy=remedy)
