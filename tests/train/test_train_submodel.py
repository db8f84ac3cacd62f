"""A smaller tier inside a larger tier's module: exits, buffers, what it leaves alone and what it refuses."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.errors import LayoutError, LocalMisuse, TaskError
from mhfl_mq.segments import Axis, Tier
from mhfl_mq.train import wind
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.submodel import SubModels
from mhfl_mq.train.task import Examples, Task

WIDTHS = (Tier("small", 0.25), Tier("large", 1.0))
DEPTHS = (Tier("shallow", 1.0, 1), Tier("deep", 1.0, 2))
SAMPLE = torch.rand(6, 4)


def no_data(shard: str, folder: object) -> Examples:
    raise AssertionError


def models_of(
    build: Callable[[TierShape], nn.Module],
    tiers: tuple[Tier, ...] = WIDTHS,
    sample: Tensor = SAMPLE,
    annotations: dict[str, tuple[Axis, ...]] | None = None,
) -> TaskModels:
    return TaskModels(Task("any", build, no_data, sample=lambda: sample, annotations=annotations), tiers)


def mlp(s: TierShape) -> nn.Module:
    wide = int(8 * s.width)
    return nn.Sequential(nn.Linear(4, wide), nn.ReLU(), nn.Linear(wide, 3))


def exits(s: TierShape) -> nn.Module:
    wide = int(8 * s.width)
    blocks = [nn.Sequential(nn.Linear(wide, wide), nn.Tanh()) for _ in range(s.depth or 2)]
    return ExitNet(nn.Linear(4, wide), blocks, [nn.Linear(wide, 3) for _ in blocks])


# ---- running --------------------------------------------------------------------------------------------------


def test_the_largest_tier_is_the_module_itself() -> None:
    module = models_of(mlp).build(1).module
    assert torch.equal(SubModels(models_of(mlp), 1, module).call(1, SAMPLE), module(SAMPLE))


def test_the_losses_of_all_tiers_add_up_in_the_gradients_of_the_large_module() -> None:
    models = models_of(wind.model, sample=wind.sample())
    module = models.build(1).module
    inside = SubModels(models, 1, module)

    def slope(tiers: tuple[int, ...]) -> list[Tensor]:
        module.zero_grad()
        for k in tiers:
            torch.autograd.backward(inside.call(k, wind.sample()).square().sum())
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    for both, small, large in zip(slope((0, 1)), slope((0,)), slope((1,)), strict=True):
        torch.testing.assert_close(both, small + large)


def test_a_step_of_the_large_modules_optimizer_is_seen_by_the_small_tier() -> None:
    models = models_of(mlp)
    module = models.build(1).module
    inside, before = SubModels(models, 1, module), module.get_parameter("0.weight").detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first = inside.call(0, SAMPLE).square().mean()
    torch.autograd.backward(first)
    optimizer.step()
    assert inside.call(0, SAMPLE).square().mean() < first
    assert torch.equal(module.get_parameter("0.weight")[2:], before[2:])


def test_every_exit_of_a_shallower_tier_is_the_large_modules_exit() -> None:
    models = models_of(exits, DEPTHS)
    module = models.build(1).module
    assert isinstance(module, ExitNet)
    inside = SubModels(models, 1, module)
    (small,) = inside.call_exits(0, SAMPLE)
    large = inside.call_exits(1, SAMPLE)
    assert torch.equal(small, large[0])
    assert torch.equal(inside.call(0, SAMPLE), small)
    assert torch.equal(large[1], module(SAMPLE))


def test_exits_of_a_narrower_tier_are_computed_from_its_slices() -> None:
    models = models_of(exits)
    module = models.build(1).module
    torch.autograd.backward(torch.stack(SubModels(models, 1, module).call_exits(0, SAMPLE)).sum())
    grads = {name: p.grad for name, p in module.named_parameters()}
    for name in ("heads.0.weight", "heads.1.weight"):
        grad = grads[name]
        assert grad is not None
        assert grad[:, :2].any()
        assert not grad[:, 2:].any()


def test_it_drops_units_when_the_large_module_trains_and_not_when_it_evaluates() -> None:
    models = models_of(lambda s: nn.Sequential(mlp(s), nn.Dropout()))
    module = models.build(1).module
    inside = SubModels(models, 1, module)
    assert not torch.equal(inside.call(0, SAMPLE), inside.call(0, SAMPLE))
    module.eval()
    assert torch.equal(inside.call(0, SAMPLE), inside.call(0, SAMPLE))


def test_building_a_smaller_tier_takes_no_luck() -> None:
    models = models_of(mlp)
    inside = SubModels(models, 1, models.build(1).module)
    torch.manual_seed(5)
    inside.call(0, SAMPLE)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


class Recurrent(nn.Module):
    def __init__(self, s: TierShape) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, int(8 * s.width), batch_first=True), nn.Linear(int(8 * s.width), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("build", "sample"), [(mlp, SAMPLE), (Recurrent, torch.rand(2, 3, 4))])
def test_no_slice_and_no_graph_outlives_the_step(build: Callable[[TierShape], nn.Module], sample: Tensor) -> None:
    models = models_of(build, sample=sample)
    inside = SubModels(models, 1, models.build(1).module)
    seen: list[weakref.ref[Tensor]] = []

    def watch(layer: nn.Module, args: object) -> None:
        seen.extend(weakref.ref(array) for array in layer._parameters.values() if array is not None)

    for layer in inside._at(0).model.modules():
        layer.register_forward_pre_hook(watch)
    torch.autograd.backward(inside.call(0, sample).sum())
    gc.collect()
    large = {id(p) for p in inside.sliced(1).values()}
    assert seen
    assert all(ref() is None or id(ref()) in large for ref in seen)


# ---- buffers --------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A batch norm that every tier has before its blocks."""

    def __init__(self, s: TierShape, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=momentum)
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(s.depth or 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return x


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_that_a_small_tier_measures_are_the_large_modules(momentum: float | None) -> None:
    models = models_of(lambda s: Normed(s, momentum), DEPTHS)
    module, alone = models.build(1).module, models.build(1).module
    alone.load_state_dict(module.state_dict())
    inside = SubModels(models, 1, module)
    for batch in (SAMPLE, SAMPLE + 1, SAMPLE - 3):
        inside.call(0, batch)
        alone(batch)
    assert int(module.get_buffer("norm.num_batches_tracked")) == 3
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(module.get_buffer(name), buffer)


class Meter(nn.Module):
    """A layer that keeps the mean of what it saw, for each unit of two blocks; in place or as a new array."""

    def __init__(self, units: int, *, renew: bool) -> None:
        super().__init__()
        self.renew = renew
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(2 * units))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, x], 1)
        mean = both.detach().mean(0)
        if self.training and self.renew:
            self.seen = self.seen + mean
        elif self.training:
            self.seen += mean
        return (both + self.seen).view(len(x), 2, -1).sum(1)


@pytest.mark.parametrize("renew", [False, True], ids=["in place", "as a new array"])
def test_a_buffer_of_blocks_that_a_small_tier_changes_is_changed_in_the_large_module(renew: bool) -> None:
    def build(s: TierShape) -> nn.Module:
        wide = int(8 * s.width)
        return nn.Sequential(nn.Linear(4, wide), Meter(wide, renew=renew), nn.Linear(wide, 3))

    models = models_of(build, annotations={"1.seen": (Axis(8, 2, 1, "wide"),)})
    module = models.build(1).module
    before = module.get_buffer("1.seen").clone()
    torch.autograd.backward(SubModels(models, 1, module).call(0, SAMPLE).sum())
    changed = (module.get_buffer("1.seen") != before).view(2, 8)
    assert changed[:, :2].all()
    assert not changed[:, 2:].any()


class Swollen(nn.Module):
    """A layer whose buffer grows with every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.log: Tensor
        self.register_buffer("log", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.log = torch.cat([self.log, x.detach().mean().view(1)])
        return x


def test_a_buffer_that_changes_its_shape_is_refused_by_name() -> None:
    models = models_of(lambda s: nn.Sequential(mlp(s), Swollen()))
    inside = SubModels(models, 1, models.build(1).module)
    with pytest.raises(TaskError, match=r"^1\.log: .* made it \(2,\) instead of \(1,\); let the buffer keep its shape"):
        inside.call(0, SAMPLE)


class Scaled(nn.Module):
    """A layer with a constant of its tier's size that is not saved."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.arange(units) + 1.0, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_constants_that_are_not_saved_are_the_small_tiers_own() -> None:
    def build(s: TierShape) -> nn.Module:
        wide = int(8 * s.width)
        return nn.Sequential(nn.Linear(4, wide), Scaled(wide), nn.Linear(wide, 3))

    models = models_of(build)
    module = models.build(1).module
    inside = SubModels(models, 1, module)
    arrays = inside.sliced(0)
    hidden = (SAMPLE @ arrays["0.weight"].T + arrays["0.bias"]) * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(inside.call(0, SAMPLE), hidden @ arrays["2.weight"].T + arrays["2.bias"])


# ---- refusals -------------------------------------------------------------------------------------------------


def test_a_model_without_exits_has_none_to_call() -> None:
    models = models_of(mlp)
    inside = SubModels(models, 1, models.build(1).module)
    for tier in (0, 1):
        with pytest.raises(TaskError, match=r"^Sequential: the model has no exits; let the factory give an ExitNet"):
            inside.call_exits(tier, SAMPLE)


@pytest.mark.parametrize("tier", [-1, 2])
def test_only_the_tier_and_smaller_ones_can_be_run(tier: int) -> None:
    models = models_of(mlp)
    inside = SubModels(models, 1, models.build(1).module)
    with pytest.raises(LocalMisuse, match=f"^tier {tier} in a model of tier 1"):
        inside.call(tier, SAMPLE)
    with pytest.raises(LocalMisuse, match=f"^tier {tier}: there are 2"):
        SubModels(models, tier, models.build(1).module)


def test_a_module_of_another_tier_is_refused_by_the_first_array_that_differs() -> None:
    models = models_of(mlp)
    with pytest.raises(
        LayoutError, match=r"^0\.weight: the model has \(2, 4\), the layout has \(8, 4\) in tier 'large'"
    ):
        SubModels(models, 1, models.build(0).module)
    exiting = models_of(exits, DEPTHS)
    with pytest.raises(LayoutError, match=r"^blocks\.1\.0\.weight: the model has no such array, the layout has"):
        SubModels(exiting, 1, exiting.build(0).module)


def test_after_a_forward_pass_that_fails_the_next_one_works() -> None:
    models = models_of(mlp)
    module = models.build(1).module
    inside = SubModels(models, 1, module)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        inside.call(0, torch.rand(2, 9))
    assert inside.call(0, SAMPLE).shape == (6, 3)
