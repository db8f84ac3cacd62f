"""The benchmark's data sets, how they are split over devices, and the tasks made of them."""

from mhfl_mq.bench.data.base import BenchSet
from mhfl_mq.bench.data.sets import BENCH_SETS, find_set
from mhfl_mq.bench.data.tasks import make_task, task_name

__all__ = ["BENCH_SETS", "BenchSet", "find_set", "make_task", "task_name"]
