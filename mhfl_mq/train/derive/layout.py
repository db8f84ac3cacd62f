"""The layout of a task, derived from the models that its factory builds for the tiers.

    1. every module that owns arrays says how its axes count units (`kinds`), or a person does
       (`leaves`);
    2. a probe of the largest model says which units are the same (`trace`);
    3. the shapes that the tiers' models really have give every group its widths (`assemble`);
    4. on the sample, each tier's output is compared with the full model's whose other units are masked
       (`masked`).

What cannot be derived is refused with the array's name and how to annotate it; nothing is guessed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Layout, Tier
from mhfl_mq.train.derive.arrays import Table, aliases_of, check_arrays, layout_arrays
from mhfl_mq.train.derive.assemble import Assembly
from mhfl_mq.train.derive.forward import Sample, build_model, copy_model, run_model, unlike_values
from mhfl_mq.train.derive.invent import invent_sample
from mhfl_mq.train.derive.leaves import Annotations, check_annotations, leaves_of
from mhfl_mq.train.derive.masked import check_nesting, check_seen
from mhfl_mq.train.derive.statistics import check_statistics, measuring
from mhfl_mq.train.derive.trace import Ties, trace

__all__ = ["TierShape", "derive_layout"]


@dataclass(frozen=True, slots=True)
class TierShape:
    """What a model factory is asked for: `width` in (0, 1], `depth` in blocks (0: all of them).

    `exits`: one head after every block (`mhfl_mq.train.exits.ExitNet`) instead of one at the end. `architecture`: the
    name of one of the task's unrelated models; empty for the one that comes in sizes.
    """

    width: float = 1.0
    depth: int = 0
    exits: bool = False
    architecture: str = ""


Build = Callable[[TierShape], nn.Module]


def derive_layout(
    build: Build,
    tiers: Sequence[Tier],
    *,
    sample: Tensor | tuple[Tensor, ...] | None = None,
    annotations: Annotations | None = None,
    verify: bool = True,
) -> Layout:
    """The layout of the models that `build` makes for the tiers (smallest first).

    `sample` is one small batch of model inputs of the right shapes and types; without it, one is made up
    (see `invent`). Float values are replaced by random ones, integers are taken as they are. On it the data
    flow is probed and, if `verify`, the nesting of every tier is checked.
    `annotations` give the axes of single arrays, by name; groups of the same name are the same units.
    Raises `LayoutError`. The global random state is left as it was.
    """
    notes = dict(annotations or {})
    if not tiers:
        raise LayoutError("a layout has 0 tiers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [_built(build, TierShape(t.width, t.depth), t) for t in tiers]
        tables = [layout_arrays(model) for model in models]
        check_arrays(tables, tiers)
        aliases = aliases_of(models[-1])
        check_annotations(notes, tables, aliases)
        same = _nothing_varies(tables)
        if same and (len(tiers) == 1 or not measuring(models[-1])):
            return Assembly(tiers, tables, {}, Ties(), aliases).layout()
        leaves = {} if same else leaves_of(models, tables, aliases, notes)
        inputs = _inputs(models[-1], sample)
        check_statistics(models[-1], tables, tiers, inputs)
        if same:
            return Assembly(tiers, tables, {}, Ties(), aliases).layout()
        ties = trace(copy_model(models[-1]), leaves, inputs)
        layout = Assembly(tiers, tables, leaves, ties, aliases).layout()
        if verify:
            full_at = [_built(build, TierShape(tiers[-1].width, t.depth), t) for t in tiers]
            check_nesting(layout, models, full_at, leaves, inputs)
            if notes:
                check_seen(models[-1], notes, inputs)
    return layout


def _built(build: Build, shape: TierShape, tier: Tier) -> nn.Module:
    return build_model(lambda: build(shape), f"tier {tier.name!r}")


def _nothing_varies(tables: Sequence[Table]) -> bool:
    """Whether no array differs in width between tiers: then there is nothing to find out, whatever the layers are."""
    return all(table[n].shape == t.shape for table in tables for n, t in tables[-1].items() if n in table)


def _inputs(model: nn.Module, sample: Tensor | Sample | None) -> Sample:
    """The model inputs to probe with: the task's, or made up ones, with random numbers in float tensors."""
    if sample is None:
        return unlike_values(model, invent_sample(model))
    given = (sample,) if isinstance(sample, Tensor) else sample
    with torch.no_grad():
        run_model(model, given, "the largest tier")
    return unlike_values(model, given)
