"""Head and body of a model: found, split, named, and refused where there is no such cut."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mhfl_mq.errors import LayoutError, TaskError
from mhfl_mq.families import Cut, Plan
from mhfl_mq.segments import Tier
from mhfl_mq.train import wind
from mhfl_mq.train.derive import TierShape, layout_arrays
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.layouts import Sizes
from mhfl_mq.train.parts import Head, find_head, parts_of, split
from mhfl_mq.train.task import Examples, Task

SAMPLE = torch.rand(3, 4)


def mlp(hidden: int = 8, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes))


class Encoder(nn.Module):
    """A class token of the model's own, a transformer layer, a head: the model itself owns weights, too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)  # registered first, run last
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x + self.token)[:, 0])  # type: ignore[no-any-return]


def with_pooling() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 5), nn.LogSoftmax(1))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), parametrizations.weight_norm(nn.Linear(8, 5, bias=False)))


# ---- finding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sample", "head"),
    [
        (mlp, SAMPLE, Head("3", 8, 5)),
        (Encoder, torch.rand(3, 6, 8), Head("head", 8, 5)),
        (with_pooling, torch.rand(3, 2, 6), Head("2", 24, 5)),
        (weight_normed, SAMPLE, Head("2", 8, 5)),
        (lambda: nn.Linear(4, 5), SAMPLE, Head("", 4, 5)),
    ],
    ids=["mlp", "encoder", "flatten and log softmax", "weight norm", "one layer"],
)
def test_the_head_is_the_last_layer_with_weights_that_runs(
    build: Callable[[], nn.Module], sample: Tensor, head: Head
) -> None:
    assert find_head(build(), sample) == head
    assert find_head(build().eval(), sample) == head


def test_the_tasks_own_name_counts_and_may_be_of_several_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5)))
    assert find_head(model, SAMPLE, "1") == Head("1", 7, 5)
    assert parts_of(model, find_head(model, SAMPLE, "1")).body == ("0.weight", "0.bias")


def test_every_tier_has_its_own_size_of_features_and_the_same_classes() -> None:
    tiers = [wind.model(TierShape(width)) for width in (1 / 16, 1 / 4, 1.0)]
    found = [find_head(tier, wind.sample()) for tier in tiers]
    assert found == [Head("head", 4, 5), Head("head", 16, 5), Head("head", 64, 5)]


def test_a_network_with_exits_has_the_head_of_its_last_block() -> None:
    def build(depth: int) -> nn.Module:
        return ExitNet(nn.Linear(4, 6), [nn.ReLU() for _ in range(depth)], [nn.Linear(6, 5) for _ in range(depth)])

    assert find_head(build(1), SAMPLE) == Head("heads.0", 6, 5)
    assert find_head(build(3), SAMPLE) == Head("heads.2", 6, 5)


def test_without_a_sample_one_is_made_up() -> None:
    assert find_head(mlp()) == Head("3", 8, 5)


def test_looking_for_the_head_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)).train()
    model[1].eval()
    before = {name: array.clone() for name, array in model.state_dict().items()}
    torch.manual_seed(3)
    find_head(model)
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))
    assert all(torch.equal(array, before[name]) for name, array in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert not any(module._forward_hooks for module in model.modules())


# ---- splitting ------------------------------------------------------------------------------------------------


def test_features_are_what_the_head_was_given_and_scores_what_the_model_gives() -> None:
    model, inputs = with_pooling(), torch.rand(3, 2, 6)
    features, scores = split(model, find_head(model, inputs), inputs)
    assert features.shape == (3, 24)
    assert torch.equal(scores, model(inputs))
    assert torch.equal(torch.log_softmax(model.get_submodule("2")(features), 1), scores)


def test_both_are_differentiable_and_the_hook_is_gone() -> None:
    model = mlp().eval()
    head = find_head(model, SAMPLE)
    features, scores = split(model, head, SAMPLE)
    torch.autograd.backward(features.sum())
    assert model[0].weight.grad is not None
    assert model[3].weight.grad is None
    assert scores.requires_grad
    assert not model[3]._forward_pre_hooks


def test_features_of_a_convolution_are_flattened() -> None:
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.Sequential(nn.Flatten(), nn.Linear(24, 5)))
    features, _ = split(model, find_head(model, torch.rand(3, 2, 6), "1"), torch.rand(3, 2, 6))
    assert features.shape == (3, 24)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.body(x))  # type: ignore[no-any-return]


def test_a_head_that_is_called_by_keyword_is_split_too() -> None:
    model = ByKeyword()
    features, _ = split(model, find_head(model, SAMPLE), SAMPLE)
    assert torch.equal(features, model.body(SAMPLE))


# ---- names of arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mlp, weight_normed, lambda: wind.model(TierShape(0.25))])
def test_every_array_is_of_the_head_or_of_the_body(build: Callable[[], nn.Module]) -> None:
    model = build()
    parts = parts_of(model, find_head(model))
    assert {*parts.head, *parts.body} == set(layout_arrays(model))
    assert not {*parts.head} & {*parts.body}


def test_the_heads_arrays_are_those_below_its_name() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 5), "head2": nn.Linear(4, 5)})
    assert parts_of(model, Head("head", 4, 5)).head == ("head.weight", "head.bias")


# ---- refusals -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1))  # type: ignore[no-any-return]


def test_weights_that_head_and_body_share_cannot_be_told_apart_but_features_can() -> None:
    model, inputs = Tied(), torch.arange(6).view(2, 3)
    head = find_head(model, inputs)
    assert split(model, head, inputs)[0].shape == (2, 8)
    with pytest.raises(TaskError, match=r"^words\.weight: the head and the body share it"):
        parts_of(model, head)


@pytest.mark.parametrize(("model", "part"), [(nn.Linear(4, 5), "body"), (nn.Sequential(nn.Flatten(), mlp()), "body")])
def test_a_model_that_is_all_head_has_no_parts(model: nn.Module, part: str) -> None:
    with pytest.raises(TaskError, match=f"the model's {part} has no arrays; name the module whose output"):
        parts_of(model, find_head(model, SAMPLE, "1" if len(list(model.children())) else ""))


def test_an_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(TaskError, match=r"^Task\(head=\.\.\.\): the model has no module 'haed'; did you mean 'head'\?"):
        find_head(wind.model(TierShape(0.25)), name="haed")
    with pytest.raises(TaskError, match=r"no module 'classifier'; it has 0, 1, 2, 3$"):
        find_head(mlp(), name="classifier")


class Twice(nn.Module):
    """The same last layer for both sides of a comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last, self.idle = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x)) - self.last(self.body(x.flip(1)))  # type: ignore[no-any-return]


def test_a_head_that_runs_twice_or_never_is_refused() -> None:
    with pytest.raises(TaskError, match=r"^head 'last': it runs 2 times in one forward pass; name the module"):
        find_head(Twice(), SAMPLE)
    with pytest.raises(TaskError, match=r"^head 'idle': it does not run in the forward pass; name the module"):
        find_head(Twice(), SAMPLE, "idle")
    with pytest.raises(TaskError, match="it ran 2 times in one forward pass"):
        split(Twice(), Head("last", 8, 5), SAMPLE)
    with pytest.raises(TaskError, match=r"^the model's head: no layer with weights runs in the forward pass"):
        find_head(nn.Sequential(nn.Flatten()), SAMPLE)


class Sequence(nn.Module):
    """Scores for every step of a sequence."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(4, 8), last

    def forward(self, x: Tensor) -> object:
        return self.last(self.body(x))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Sequence(nn.Linear(8, 5)), r"\(3, 6, 5\) for an input of \(3, 6, 8\)"),
        (Sequence(nn.LSTM(8, 5)), r"a tuple for an input of \(3, 6, 8\)"),
    ],
    ids=["steps", "tuple"],
)
def test_a_head_that_does_not_give_scores_is_refused(model: nn.Module, told: str) -> None:
    with pytest.raises(TaskError, match=rf"^head 'last': its output is {told}, not \(n, classes\); name the module"):
        find_head(model, torch.rand(3, 6, 4))


def test_a_layer_that_does_not_make_the_models_own_scores_is_refused() -> None:
    with pytest.raises(TaskError, match=r"^head '0': its output is \(3, 8\), but the model's is \(3, 5\)"):
        find_head(mlp(), SAMPLE, "0")


def test_tiers_that_know_other_classes_are_refused() -> None:
    task = Task(
        "t",
        lambda shape: mlp(classes=4 if shape.width < 1 else 5),
        lambda _shard, _folder: Examples(SAMPLE, torch.zeros(3)),
        sample=lambda: SAMPLE,
    )
    sizes = Sizes(task, (Tier("small", 0.5), Tier("large")), Plan(cut=Cut.APART))
    with pytest.raises(LayoutError, match="differ in classes: small 4, large 5"):
        _ = sizes.classes


def test_a_sample_that_the_model_does_not_take_is_told_with_the_layer() -> None:
    with pytest.raises(LayoutError, match=r"^0: the model of a tier fails on a sample of shape \(3, 9\)"):
        find_head(mlp(), torch.rand(3, 9))
