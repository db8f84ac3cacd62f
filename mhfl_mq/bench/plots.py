"""The pictures of a benchmark; without matplotlib there are none, and a line says how to get them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mhfl_mq.bench.methods import BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

MISSING = 'no plots: matplotlib is not installed (pip install "mhfl-mq[bench]")'

Document = Mapping[str, Any]


def draw(documents: Sequence[Document], out: Path, say: Callable[[str], None] = lambda _text: None) -> list[Path]:
    """Two pictures for each data set and constraint: the way to the accuracy, and its price. Returns their files."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(MISSING)
        return []
    groups: dict[tuple[str, str], dict[str, list[Document]]] = {}
    for one in documents:
        cell = one["cell"]
        if one["outcome"] == "done" and one["curve"]:
            of_group = groups.setdefault((cell["data"], cell["constraint"]), {})
            of_group.setdefault(cell["method"], []).append(one)
    written = []
    for (data, constraint), methods in groups.items():
        for what, panels in (("curves", (_rounds, _seconds)), ("price", (_tiers, _bytes))):
            figure = Figure(figsize=(12, 4.5), layout="constrained")
            for axes, panel in zip(figure.subplots(1, 2), panels, strict=True):
                panel(axes, methods)
            figure.suptitle(f"{data}, bound by {constraint}")
            path = out / f"{data}.{constraint}.{what}.png"
            figure.savefig(path, dpi=110)
            written.append(path)
    return written


def _curve(axes: "Axes", methods: Mapping[str, Sequence[Document]], x: Callable[[Any], float]) -> None:
    for method, cells in methods.items():
        shortest = min(len(one["curve"]) for one in cells)
        across = [fmean(x(one["curve"][k]) for one in cells) for k in range(shortest)]
        heights = [fmean(fmean(one["curve"][k]["accuracy"].values()) for one in cells) for k in range(shortest)]
        style = {"linestyle": "--", "linewidth": 1.0} if method in BASELINES else {"linewidth": 1.6}
        axes.plot(across, heights, label=method, **style)
    axes.set_ylabel("accuracy, mean over tiers")
    axes.grid(alpha=0.3)


def _rounds(axes: "Axes", methods: Mapping[str, Sequence[Document]]) -> None:
    _curve(axes, methods, lambda point: float(point["round"]))
    axes.set_xlabel("round")
    axes.legend(fontsize="small")


def _seconds(axes: "Axes", methods: Mapping[str, Sequence[Document]]) -> None:
    _curve(axes, methods, lambda point: float(point["seconds"]))
    axes.set_xlabel("simulated seconds")


def _tiers(axes: "Axes", methods: Mapping[str, Sequence[Document]]) -> None:
    """Bars of each tier's accuracy, a whisker from the worst seed to the best."""
    names = list(dict.fromkeys(name for cells in methods.values() for one in cells for name in one["accuracy"]))
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        for place, cells in enumerate(methods.values()):
            values = [one["accuracy"][name] for one in cells if name in one["accuracy"]]
            if values:
                mean = fmean(values)
                around = [[mean - min(values)], [max(values) - mean]]
                label = name if place == next(iter(_having(methods, name))) else None
                axes.bar(place + index * width, mean, width, yerr=around, color=f"C{index}", label=label)
    axes.set_xticks(range(len(methods)), list(methods), rotation=30, ha="right", fontsize="small")
    axes.set_ylabel("accuracy, last rounds")
    axes.legend(fontsize="small")


def _having(methods: Mapping[str, Sequence[Document]], name: str) -> list[int]:
    """The places of the methods that have this tier."""
    return [k for k, cells in enumerate(methods.values()) if any(name in one["accuracy"] for one in cells)]


def _bytes(axes: "Axes", methods: Mapping[str, Sequence[Document]]) -> None:
    """Accuracy against what it costs in bytes."""
    for method, cells in methods.items():
        moved = fmean((one["bytes_up"] + one["bytes_down"]) / len(one["devices"]) / 1e6 for one in cells)
        height = fmean(one["mean"] for one in cells if one["mean"] is not None)
        axes.scatter([moved], [height], marker="x" if method in BASELINES else "o")
        axes.annotate(method, (moved, height), fontsize="small", xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("MB up and down, per device")
    axes.set_ylabel("accuracy, mean over tiers")
    axes.grid(alpha=0.3)
