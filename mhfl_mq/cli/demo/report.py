"""What came out of the demo: a record for machines, a table for people, a plot."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mhfl_mq.protocol.records import VersionAdded
from mhfl_mq.run.rules import tier_metrics

__all__ = ["LAST", "DemoResult", "last_mean", "plot", "table"]

LAST = 3
"""Rounds at the end whose mean is reported: the best round would be chosen on the test data."""
PHASES = {"first_round": "first round", "train": "train (all devices)"}
"""What a phase is called where its key says too little: devices train side by side, so theirs may exceed the total."""
BASELINES = {
    "smallest-on-all": "every device trains the smallest tier",
    "exclusive-largest": "only the largest tier's devices take part",
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that the demo reports; `record` is the content of `--json`."""

    record: dict[str, Any]
    curves: dict[str, list[float]]  # tier -> accuracy per round

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_text(json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


def last_mean(versions: list[VersionAdded]) -> dict[str, float]:
    """Per tier, the mean of the metric over the last rounds."""
    ends = [tier_metrics(version.metrics) for version in versions[-LAST:]]
    return {tier: fmean(end[tier] for end in ends) for tier in ends[-1]}


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def table(record: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows) of what a person reads."""
    largest = list(record["tiers"])[-1]
    top = record["tiers"][largest]["accuracy"]
    accuracy = [
        [name, str(tier["devices"]), f"{tier['parameters']:,}", f"{tier['accuracy']:.4f}"]
        for name, tier in record["tiers"].items()
    ]
    for name, baseline in record["baselines"].items():
        gain = top - baseline["accuracy"]
        accuracy.append([f"baseline {name}", "", "", f"{baseline['accuracy']:.4f} ({largest} is {gain:+.4f})"])
    moved, seconds = record["bytes"], record["seconds"]
    saved = moved["down_if_unicast"] / moved["down"] if moved["down"] else 0.0
    rest = [
        ["rounds", str(record["rounds"])],
        ["participation", f"{record['participation']:.1%} of invited updates were counted"],
        ["bytes up", size(moved["up"])],
        ["bytes down", f"{size(moved['down'])}; {size(moved['down_if_unicast'])} if sent to each ({saved:.1f}x)"],
        ["seconds", ", ".join(f"{PHASES.get(phase, phase)} {value:.1f}" for phase, value in seconds.items())],
    ]
    if "the aggregator" in record["killed"]:
        rest.append(["bytes are without", "what moved in the last second before the aggregator was killed"])
    if record["killed"]:
        rest.append(["survived kill -9 of", ", ".join(record["killed"])])
    return [
        (
            f"\naccuracy on the test part, {_over(record['rounds'])}",
            ["tier", "devices", "parameters", "accuracy"],
            accuracy,
        ),
        ("\nthe run", ["figure", "value"], rest),
    ]


def _over(rounds: int) -> str:
    """Which rounds the accuracy is of, as `last_mean` takes them."""
    return "of the only round" if rounds == 1 else f"mean of the last {min(LAST, rounds)} rounds"


def plot(result: DemoResult, path: Path) -> bool:
    """Draw accuracy per tier over rounds, with both baselines; false when matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rounds = range(1, 1 + max(len(curve) for curve in result.curves.values()))
    for tier, curve in result.curves.items():
        parameters = result.record["tiers"][tier]["parameters"]
        axes.plot(rounds, curve, label=f"{tier} ({parameters:,} parameters)")
    for style, (name, baseline) in zip(("--", ":"), result.record["baselines"].items(), strict=False):
        axes.axhline(baseline["accuracy"], linestyle=style, color="0.4", label=f"{name}: {BASELINES[name]}")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on the test part")
    low = min(min(curve) for curve in result.curves.values())
    axes.set_ylim(bottom=max(0.0, low - 0.02))
    axes.legend(loc="lower right", fontsize="small")
    axes.set_title("One federation, devices of three strengths")
    figure.savefig(path, dpi=120)
    return True
