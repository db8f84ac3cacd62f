"""The layout that an algorithm's plan makes of a task's models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, MhflError, TaskError
from mhfl_mq.families.plan import Cut, Own, Plan, Shares
from mhfl_mq.families.sharing.rows import ROWS
from mhfl_mq.segments import Axis, Layout, Parameter, Tier
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays
from mhfl_mq.train.derive.forward import build_model
from mhfl_mq.train.derive.invent import invent_sample
from mhfl_mq.train.derive.rolls import roll_units
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.links import check_links
from mhfl_mq.train.parts import Head, Parts, find_head, parts_of
from mhfl_mq.train.private_last import private_last_layout
from mhfl_mq.train.ranked import ranked_layout
from mhfl_mq.train.task import Examples, Task

__all__ = ["Sizes", "build_module", "planned_layout"]


def build_module(task: Task, tiers: Sequence[Tier], tier: int, plan: Plan) -> nn.Module:
    """A new module of a tier as the plan wants it: the full model, one with exits, or another architecture."""
    whole = plan.cut in (Cut.WHOLE, Cut.RANKED)
    return _build(task, tiers[-1 if whole else tier], plan, keep_depth=not whole)


def _build(task: Task, tier: Tier, plan: Plan, *, keep_depth: bool) -> nn.Module:
    if tier.architecture:
        return _architecture(task, tier)
    shape = TierShape(tier.width, tier.depth if keep_depth else 0, plan.exits)
    try:
        return _made(task, shape, plan)
    except MhflError:
        raise
    except Exception as error:
        what = f"its model of {shape} cannot be built: {type(error).__name__}: {error}"
        raise TaskError(what, where=f"task {task.name!r}") from error


def _made(task: Task, shape: TierShape, plan: Plan) -> nn.Module:
    """The task's model, as the plan needs it; what goes wrong in the task's own code comes out as it is."""
    module = task.model(shape)
    if plan.exits and not (isinstance(module, ExitNet) and len(module.heads) == len(module.blocks)):
        raise TaskError(
            f"its model of {shape} has no exit after each block",
            where=f"task {task.name!r}",
            remedy="build it as a mhfl_mq.train.exits.ExitNet with one head per block where shape.exits is true",
        )
    if (plan.blocks or plan.private_last) and not (isinstance(module, ExitNet) and len(module.heads) == 1):
        raise TaskError(
            f"its model of {shape} is not made of blocks with one head after the last",
            where=f"task {task.name!r}",
            remedy="build it as a mhfl_mq.train.exits.ExitNet with a single head where shape.exits is false",
        )
    return module


def _architecture(task: Task, tier: Tier) -> nn.Module:
    make = task.architectures.get(tier.architecture)
    if make is None:
        known = ", ".join(sorted(task.architectures)) or "none"
        raise TaskError(
            f"it has no architecture {tier.architecture!r}",
            where=f"task {task.name!r}, tier {tier.name!r}",
            remedy=f"known are: {known}; see Task.architectures",
        )
    try:
        return make()
    except Exception as error:
        what = f"its architecture {tier.architecture!r} cannot be built: {type(error).__name__}: {error}"
        raise TaskError(what, where=f"task {task.name!r}") from error


@dataclass
class Sizes:
    """What the models of a task measure, found when first asked for: classes, features, heads."""

    task: Task
    tiers: tuple[Tier, ...]
    plan: Plan
    public: Examples | None = None

    def of(self, axis: str | int, array: str) -> int:
        """The length of an axis of an own array."""
        match axis:
            case int():
                return axis
            case "classes":
                return self.classes
            case "features":
                return self.features
            case "public" if self.public is not None:
                return len(self.public)
        raise LayoutError(f"the axis {axis!r} of {array} is not known")

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The head of every tier's model."""
        return tuple(head for head, _ in self._found)

    @cached_property
    def parts(self) -> tuple[Parts, ...]:
        """The names of the arrays of every tier's head and body."""
        return tuple(parts_of(module, head) for head, module in self._found)

    @cached_property
    def _found(self) -> list[tuple[Head, nn.Module]]:
        found = []
        for k in range(len(self.tiers)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = build_module(self.task, self.tiers, k, self.plan)
                found.append((find_head(module, self.sample(module), self.task.head), module))
        return found

    def sample(self, module: nn.Module) -> tuple[Tensor, ...]:
        """One small batch of model inputs."""
        given = self.task.sample() if self.task.sample is not None else invent_sample(module)
        return (given,) if isinstance(given, Tensor) else tuple(given)

    @cached_property
    def classes(self) -> int:
        """Scores of an example: the same in all tiers."""
        return self._same("classes", [head.classes for head in self.heads], "make all models score the same classes")

    @cached_property
    def features(self) -> int:
        """What the head gets of an example: the same in all tiers."""
        remedy = "let every model end in a layer of one common size before its head"
        return self._same("features", [head.features for head in self.heads], remedy)

    def _same(self, what: str, found: Sequence[int], remedy: str) -> int:
        if len(set(found)) > 1:
            each = ", ".join(f"{tier.name} {count}" for tier, count in zip(self.tiers, found, strict=True))
            raise LayoutError(f"the tiers' models differ in {what}: {each}", where=self.task.name, remedy=remedy)
        return found[0]


def planned_layout(
    task: Task, tiers: Sequence[Tier], plan: Plan, public: Examples | None = None
) -> tuple[Layout, Sizes]:
    """The layout of a plan, and what was measured for it; raises `LayoutError` and `TaskError`."""
    if plan.public and not public:  # none, or no examples
        raise TaskError("it has no public data", where=f"task {task.name!r}", remedy="give it public_data")
    sizes = Sizes(task, tuple(tiers), plan, public)
    own = tuple(_own(one, sizes) for one in plan.own)
    if plan.shares is Shares.NOTHING:
        return Layout(sizes.tiers, {}, own, whole=True), sizes
    layout = _CUTS[plan.cut](sizes)
    if plan.shares is not Shares.ALL:
        layout = _shared(layout, sizes)
    if plan.rows:
        layout = _with_rows(layout, sizes)
    return replace(layout, parameters=(*own, *layout.parameters)) if own else layout, sizes


def _nested(sizes: Sizes) -> Layout:
    task, plan = sizes.task, sizes.plan
    _refuse_foreign(sizes)
    if plan.private_last:
        with torch.random.fork_rng(devices=[]):
            modules = [build_module(task, sizes.tiers, k, plan) for k in range(len(sizes.tiers))]
        return private_last_layout(sizes.tiers, [module for module in modules if isinstance(module, ExitNet)])

    def build(shape: TierShape) -> nn.Module:
        return _made(task, TierShape(shape.width, shape.depth, plan.exits), plan)

    sample = task.sample() if task.sample is not None else None
    layout = derive_layout(build, sizes.tiers, sample=sample, annotations=task.annotations)
    if plan.rolls:
        widest = [
            build(TierShape(sizes.tiers[-1].width, depth)) for depth in dict.fromkeys(t.depth for t in sizes.tiers)
        ]
        layout = replace(layout, rolls=_rolls(roll_units(widest, layout, sizes.sample(widest[-1])), layout, task))
    return layout


def _refuse_foreign(sizes: Sizes) -> None:
    foreign = [tier.name for tier in sizes.tiers if tier.architecture]
    if foreign:
        raise LayoutError(
            f"tier {foreign[0]!r} names an architecture, and this algorithm makes all tiers of one model",
            where=sizes.task.name,
            remedy="use an algorithm of the native or distillation family, or tiers of widths and depths",
        )


def _rolls(units: Mapping[str, int], layout: Layout, task: Task) -> Mapping[str, int]:
    """The units of the groups that may be rolled; those that may not keep their static prefix, if any is left."""
    if layout.groups and not units:
        raise LayoutError(
            f"none of the groups {', '.join(sorted(layout.groups))} can be rolled: the model reads the order of all "
            "their channels",
            where=task.name,
            remedy="use heterofl, whose windows stay, or take out what fixes the order (a code of positions, a local "
            "norm over channels)",
        )
    return units


def _whole(sizes: Sizes) -> Layout:
    """Every tier holds the full model."""
    _refuse_foreign(sizes)
    module = build_module(sizes.task, sizes.tiers, len(sizes.tiers) - 1, sizes.plan)
    if isinstance(module, ExitNet) and sizes.plan.blocks:
        _check_blocks(sizes, module)
    arrays = layout_arrays(module)
    uncut = tuple(Parameter(name, tuple(Axis(n) for n in array.shape)) for name, array in arrays.items())
    return Layout(sizes.tiers, {}, uncut, whole=True)


def _check_blocks(sizes: Sizes, net: ExitNet) -> None:
    """Tiers must differ in nothing but their depth, and the head must be within reach of each group's last block."""
    widest = sizes.tiers[-1]
    other = next((tier for tier in sizes.tiers if tier.width != widest.width), None)
    if other is not None:
        raise LayoutError(
            f"tier {other.name!r} has the width {other.width:g} and tier {widest.name!r} {widest.width:g}, and this "
            "algorithm trains the full model on every device",
            where=sizes.task.name,
            remedy="give tiers of one width; their depth is the number of blocks that they train at once (0: all)",
        )
    blocks = len(net.blocks)
    depths = {tier.depth for tier in sizes.tiers if tier.depth}
    ends = {end for depth in depths for end in range(depth - 1, blocks - 1, depth)}
    check_links(net, sizes.sample(net)[0], ends)


def _apart(sizes: Sizes) -> Layout:
    """Each tier's model is its own, whatever the others look like."""
    parameters = []
    for k, tier in enumerate(sizes.tiers):
        for name, array in layout_arrays(build_module(sizes.task, sizes.tiers, k, sizes.plan)).items():
            parameters.append(Parameter(f"{tier.name}:{name}", tuple(Axis(n) for n in array.shape), only=k))
    return Layout(sizes.tiers, {}, tuple(parameters))


def _ranked(sizes: Sizes) -> Layout:
    """Each tier holds as much of the full model as its own width's model has."""
    _refuse_foreign(sizes)
    trained = []
    for tier in sizes.tiers:
        make = partial(_made, sizes.task, TierShape(tier.width, tier.depth), sizes.plan)
        trained.append(sum(p.numel() for p in build_model(make, f"tier {tier.name!r}").parameters()))
    return ranked_layout(sizes.tiers, build_module(sizes.task, sizes.tiers, -1, sizes.plan), trained)


_CUTS: Mapping[Cut, Callable[[Sizes], Layout]] = {
    Cut.NESTED: _nested,
    Cut.WHOLE: _whole,
    Cut.APART: _apart,
    Cut.RANKED: _ranked,
}


def _shared(layout: Layout, sizes: Sizes) -> Layout:
    """The layout of the part that travels: of the head, or of all but the head."""
    wanted = sizes.plan.shares is Shares.HEAD
    of_head = {name for parts in sizes.parts for name in parts.head}
    kept = tuple(p for p in layout.parameters if (p.name.rpartition(":")[2] in of_head) is wanted)
    used = {axis.group for p in kept for axis in p.axes}
    groups = {name: widths for name, widths in layout.groups.items() if name in used}
    return Layout(layout.tiers, groups, kept, whole=layout.whole or (not groups and not any(p.since for p in kept)))


def _with_rows(layout: Layout, sizes: Sizes) -> Layout:
    """The layout with an array of rows for each segment that has columns of the head."""
    names = {head.name for head in sizes.heads}
    rows = Axis(sizes.classes)
    arrays = {i: p for i, p in enumerate(layout.parameters) if p.name.rpartition(".")[0] in names}
    plain = all(p.axes[:1] == (rows,) for p in arrays.values())
    if len(names) > 1 or not plain or {p.name for p in arrays.values()} != set(sizes.parts[-1].head):
        raise LayoutError(
            "its arrays are not one row for each class, so none can be left to those who have the class",
            where=f"head {sizes.heads[-1].name!r}",
            remedy="let one layer, such as nn.Linear, make the scores in every tier, or leave out the option 'masked'",
        )
    (name,) = names
    segments = sorted({box.segment for box in layout.boxes if box.parameter in arrays})
    own = tuple(Parameter(f"{ROWS}{k}:{name}", (rows,), since=k) for k in segments)
    return replace(layout, parameters=(*own, *layout.parameters))


def _own(one: Own, sizes: Sizes) -> Parameter:
    return Parameter(one.array, tuple(Axis(sizes.of(axis, one.array)) for axis in one.axes))
