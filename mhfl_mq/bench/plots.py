"""The pictures of a benchmark; without matplotlib there are none, and a line says how to get them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from mhfl_mq.bench.methods import BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

MISSING = 'no plots: matplotlib is not installed (pip install "mhfl-mq[bench]")'

COLOURED: Final = 6
"""Algorithms that have a colour of their own in the curves: more cannot be told apart."""
DARK: Final = ("black", "dimgrey", "darkred", "saddlebrown")

Document = Mapping[str, Any]
Methods = Mapping[str, Sequence[Document]]


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
            figure = Figure(figsize=(12, 5.5), layout="constrained")
            for axes, panel in zip(figure.subplots(1, 2), panels, strict=True):
                panel(axes, methods)
            figure.suptitle(f"{data}, bound by {constraint}")
            path = out / f"{data}.{constraint}.{what}.png"
            figure.savefig(path, dpi=110)
            written.append(path)
    return written


def _curve(axes: "Axes", methods: Methods, x: Callable[[Any], float]) -> None:
    """The best algorithms in colours, the baselines dashed, the others in grey."""
    algorithms = [method for method in _by_mean(methods) if method not in BASELINES]
    for method in [*reversed(algorithms), *(one for one in BASELINES if one in methods)]:
        cells = methods[method]
        shortest = min(len(one["curve"]) for one in cells)
        across = [fmean(x(one["curve"][k]) for one in cells) for k in range(shortest)]
        heights = [fmean(_height(one, k) for one in cells) for k in range(shortest)]
        place = algorithms.index(method) if method in algorithms else -1
        if method in BASELINES:
            style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2, "color": DARK[list(BASELINES).index(method)]}
        elif place < COLOURED:
            style = {"linewidth": 1.6, "color": f"C{place}"}
        else:
            style = {"linewidth": 0.6, "color": "lightgrey", "zorder": 1}
        named = place < COLOURED
        axes.plot(across, heights, label=method if named else None, **style)
    axes.set_ylabel("accuracy, mean over tiers")
    axes.grid(alpha=0.3)


def _rounds(axes: "Axes", methods: Methods) -> None:
    _curve(axes, methods, lambda point: float(point["round"]))
    axes.set_xlabel("round")


def _seconds(axes: "Axes", methods: Methods) -> None:
    _curve(axes, methods, lambda point: float(point["seconds"]))
    axes.set_xlabel("simulated seconds")
    others = len([method for method in methods if method not in BASELINES]) - COLOURED
    title = f"grey: {others} others" if others > 0 else None
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), title=title, reverse=True)


def _tiers(axes: "Axes", methods: Methods) -> None:
    """A row for each method, the best on top: a point for each tier, a whisker from its worst seed to its best."""
    tallest = max((cells[0]["tiers"] for cells in methods.values()), key=len)
    names = [tier["name"] for tier in tallest]
    order = _by_mean(methods)
    for index, name in enumerate(names):
        rows = [k for k, method in enumerate(order) if any(name in one["accuracy"] for one in methods[method])]
        found = [[one["accuracy"][name] for one in methods[order[k]] if name in one["accuracy"]] for k in rows]
        means = [fmean(values) for values in found]
        around = [
            [mean - min(values) for mean, values in zip(means, found, strict=True)],
            [max(values) - mean for mean, values in zip(means, found, strict=True)],
        ]
        shifted = [k + (index - (len(names) - 1) / 2) * 0.22 for k in rows]
        axes.errorbar(means, shifted, xerr=around, fmt="o", markersize=4, linewidth=1, color=f"C{index}", label=name)
    axes.set_yticks(range(len(order)), [f"{method}  {k + 1}" for k, method in enumerate(order)], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("accuracy by tier, last rounds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names))


def _bytes(axes: "Axes", methods: Methods) -> None:
    """Accuracy against what it costs in bytes; the numbers are those of the rows beside it."""
    for number, method in enumerate(_by_mean(methods), 1):
        cells = methods[method]
        moved = fmean((one["bytes_up"] + one["bytes_down"]) / len(one["devices"]) / 1e6 for one in cells)
        height = _mean(cells)
        baseline = method in BASELINES
        axes.scatter([moved], [height], marker="x" if baseline else "o", color="dimgrey" if baseline else "C0", s=20)
        axes.annotate(str(number), (moved, height), fontsize="small", xytext=(4, 3), textcoords="offset points")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(left=0)
    axes.set_xlabel("MB up and down, per device (x: baselines)")
    axes.set_ylabel("accuracy, mean over tiers")
    axes.grid(alpha=0.3)


def _height(one: Document, place: int) -> float:
    """The mean over the tiers that somebody carries at a point of the curve."""
    said = one["curve"][place]["accuracy"]
    carried = [said[name] for name in one["accuracy"] if name in said]
    return fmean(carried or said.values())


def _by_mean(methods: Methods) -> list[str]:
    """The methods, best first."""
    return sorted(methods, key=lambda method: -_mean(methods[method]))


def _mean(cells: Sequence[Document]) -> float:
    means = [one["mean"] for one in cells if one["mean"] is not None]
    return fmean(means) if means else 0.0
