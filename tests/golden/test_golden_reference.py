"""Does the reference itself follow the rules that it is there to hold others to?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhfl_mq.train.derive import TierShape
from tests.golden.comparisons import TOLERANCE, assert_ensemble, assert_same
from tests.golden.network import (
    PER_GROUP,
    STREAM_A,
    STREAM_B,
    Arrays,
    Window,
    cnn,
    depth_names,
    exits,
    extract,
    masks,
    narrowed,
    prefix,
    put_back,
    rolled,
    rolling,
)
from tests.golden.reference import (
    Descent,
    Device,
    Upload,
    depthfl_ramp,
    depthfl_round,
    depthfl_scores,
    descend,
    fedrolex_round,
    fjord_round,
    heterofl_round,
    mean_over_holders,
    mutual_distillation,
)
from tests.golden.setting import DEPTHS, WIDTHS, Exits, Network, descent, devices, examples

WINDOWS = [prefix(t.width) for t in WIDTHS] + [rolled(t.width, 6, 14) for t in WIDTHS] + [rolled(0.5, 2, 8)]


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def images() -> Tensor:
    return examples("north").inputs


# ---- sub-networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_a_sub_network_computes_what_the_plants_module_of_that_width_computes(initial: Arrays, width: float) -> None:
    part = tensors(extract(initial, prefix(width)))
    module = Network(TierShape(width))
    module.load_state_dict(part)
    with torch.no_grad():
        torch.testing.assert_close(cnn(part, images()), module(images()))


@pytest.mark.parametrize("window", WINDOWS)
def test_a_sub_network_computes_what_the_full_one_computes_with_the_rest_masked(
    initial: Arrays, window: Window
) -> None:
    exact: Arrays = {name: array.astype(np.float64) for name, array in initial.items()}
    holds = masks(window, exact)
    masked: Arrays = {name: np.where(holds[name], array, 0.0) for name, array in exact.items()}
    part = extract(exact, window)
    inputs = images().double()
    torch.testing.assert_close(cnn(tensors(part), inputs), cnn(tensors(masked), inputs), rtol=0, atol=1e-12)
    for name, array in put_back(part, window, exact).items():
        np.testing.assert_array_equal(array, masked[name])
    for name, tensor in narrowed(tensors(exact), window).items():
        np.testing.assert_array_equal(tensor.numpy(), part[name])


@pytest.mark.parametrize("channels", [STREAM_A, STREAM_B])
@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("step", [1, PER_GROUP])
def test_rolling_covers_every_channel_equally_over_as_many_rounds_as_there_are_channels(
    channels: int, width: float, step: int
) -> None:
    seen = Counter(c for r in range(channels) for c in rolling(channels, width, r * step))
    assert set(seen) == set(range(channels))
    assert set(seen.values()) == {len(rolling(channels, width, 0))}


def test_a_window_that_would_cut_a_norms_group_is_refused() -> None:
    with pytest.raises(ValueError, match="would cut the groups"):
        rolled(0.5, 1, 0)


# ---- the aggregator --------------------------------------------------------------------------------------------


def test_what_nobody_holds_keeps_its_value_bit_for_bit(initial: Arrays) -> None:
    strange = np.array([-0.0, 1e-45, np.float32(1 / 3)], np.float32)
    for array in initial.values():
        array.reshape(-1)[-strange.size :] = strange[-array.size :]
    absent = [replace(d, width=min(d.width, 0.5)) for d in devices(1)]
    new = heterofl_round(initial, absent, descent(1))
    held = masks(prefix(0.5), initial)
    for name, array in new.items():
        assert array[~held[name]].tobytes() == initial[name][~held[name]].tobytes()
        assert not np.array_equal(array[held[name]], initial[name][held[name]])
    nobody = heterofl_round(initial, [], descent(1))
    assert all(array.tobytes() == initial[name].tobytes() for name, array in nobody.items())


def test_who_trained_without_effect_still_counts(initial: Arrays) -> None:
    trained, other = devices(1)[:2]
    idle = replace(other, minibatches=[])
    alone = heterofl_round(initial, [trained], descent(1))
    both = heterofl_round(initial, [trained, idle], descent(1))
    held = masks(prefix(trained.width), initial)
    for name, array in both.items():
        halfway = np.where(held[name], (alone[name] + initial[name]) / 2, initial[name])
        np.testing.assert_allclose(array, halfway, rtol=0, atol=1e-7)


def test_the_mean_is_over_the_holders_of_each_coordinate_by_their_weights() -> None:
    old = {"w": np.array([1.0, 1.0, 1.0, 1.0])}

    def upload(values: list[float], holds: list[bool], weight: float) -> Upload:
        return Upload({"w": np.array(values)}, {"w": np.array(holds)}, weight)

    first, second = (
        upload([2, 3, 0, 0], [True, True, False, False], 1),
        upload([6, 0, 5, 0], [True, False, True, False], 3),
    )
    np.testing.assert_array_equal(mean_over_holders(old, [first, second])["w"], [5.0, 3.0, 5.0, 1.0])


# ---- the descent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.0, 0.3, 1e6])
def test_the_descent_is_sgd_with_momentum_and_a_clipped_gradient(initial: Arrays, clip: float) -> None:
    data = examples("west")
    batches = [(data.inputs[i : i + 6], data.targets[i : i + 6]) for i in range(0, 24, 6)]
    module = Network(TierShape())
    module.load_state_dict(tensors(initial))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    for inputs, targets in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
    losses = [lambda v, x=x, y=y: nn.functional.cross_entropy(cnn(v, x), y) for x, y in batches]
    found = descend(initial, losses, Descent(0.2, 0.9, clip))
    expected = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    assert_same(found, expected, 1)


# ---- the algorithms --------------------------------------------------------------------------------------------


def test_fedrolex_is_heterofl_on_a_model_whose_channels_are_rolled_and_rolled_back(initial: Arrays) -> None:
    a, b = 2, 10
    everything = rolled(1.0, a, b)
    turned = heterofl_round(extract(initial, everything), devices(1), descent(1))
    expected = put_back(turned, everything, initial)
    assert_same(fedrolex_round(initial, devices(1), descent(1), offset_a=a, offset_b=b), expected, 1)
    plain = heterofl_round(initial, devices(1), descent(1))
    assert_same(fedrolex_round(initial, devices(1), descent(1), offset_a=0, offset_b=0), plain, 1)
    assert any(not np.allclose(plain[name], expected[name], atol=1e-3) for name in plain)


def test_fjord_that_always_draws_the_widest_is_heterofl_weighted_by_samples(initial: Arrays) -> None:
    here = [replace(d, drawn=[d.width] * len(d.minibatches)) for d in devices(1)]
    found = fjord_round(initial, here, descent(1), distil=False)
    uploads = []
    for device in here:
        alone, window = heterofl_round(initial, [device], descent(1)), prefix(device.width)
        uploads.append(Upload(alone, masks(window, initial), float(len(device.targets))))
    assert_same(found, mean_over_holders(initial, uploads), 1)


def test_fjord_trains_what_was_drawn_and_with_distillation_its_widest_network_too(initial: Arrays) -> None:
    large = next(d for d in devices(1) if d.width == 1.0)
    narrow = replace(large, drawn=[0.25] * len(large.minibatches))
    outside = {name: ~mask for name, mask in masks(prefix(0.25), initial).items()}
    plain = fjord_round(initial, [narrow], descent(1), distil=False)
    taught = fjord_round(initial, [narrow], descent(1), distil=True)
    for name in ("conv1.weight", "conv2.weight", "conv3.weight", "linear.weight"):
        np.testing.assert_array_equal(plain[name][outside[name]], initial[name][outside[name]])
        assert not np.array_equal(plain[name], initial[name])
        assert not np.array_equal(taught[name][outside[name]], initial[name][outside[name]])


def test_fjord_needs_a_width_for_each_minibatch(initial: Arrays) -> None:
    with pytest.raises(ValueError):
        fjord_round(initial, devices(1), descent(1), distil=False)


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_the_exits_are_those_of_the_plants_module(initial_exits: Arrays, tier: int) -> None:
    depth = DEPTHS[tier].depth
    part = {name: tensor for name, tensor in tensors(initial_exits).items() if name in depth_names(depth)}
    module = Exits(depth)
    module.load_state_dict(part)
    with torch.no_grad():
        ours = module(images())
        for mine, theirs in zip(exits(part, depth, images()), ours, strict=True):
            torch.testing.assert_close(mine, theirs)
        assert_ensemble(initial_exits, depth, images().numpy(), torch.stack(ours).mean(0).numpy())


def test_mutual_distillation_is_the_sum_written_out_example_by_example() -> None:
    luck = np.random.default_rng(0)
    scores, targets, mutual = luck.normal(size=(3, 5, 4)), luck.integers(0, 4, 5), 0.7
    p = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    expected = 0.0
    for i in range(3):
        for n in range(5):
            expected -= np.log(p[i, n, targets[n]]) / 5
            for j in {0, 1, 2} - {i}:
                divergence = sum(p[j, n, c] * np.log(p[j, n, c] / p[i, n, c]) for c in range(4))
                expected += mutual * divergence / 2 / 5
    found = mutual_distillation(list(torch.from_numpy(scores)), torch.from_numpy(targets), mutual)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_an_exit_that_teaches_does_not_learn_from_who_it_teaches() -> None:
    """The slope of the distilling part at an exit is that of its own terms, in which the others are constant."""
    learner, teacher = (torch.randn(5, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    targets = torch.tensor([0, 1, 2, 3, 0])
    both = mutual_distillation([learner, teacher], targets, 1.0)
    (slope,) = torch.autograd.grad(both, [learner])
    p, q = (torch.softmax(x, 1).detach() for x in (learner, teacher))
    labels = nn.functional.one_hot(targets, 4)
    torch.testing.assert_close(slope, ((p - labels) + (p - q)) / 5)


def test_depthfl_averages_by_name_over_those_who_have_the_block(initial_exits: Arrays) -> None:
    here = devices(1)
    found = depthfl_round(initial_exits, here, descent(1), mutual=0.4)
    deep = [d for d in here if d.depth == 3]
    assert len(deep) == 1
    alone = depthfl_round(initial_exits, deep, descent(1), mutual=0.4)
    for name, array in found.items():
        only_deep = name.startswith(("blocks.2.", "heads.2."))
        assert np.array_equal(array, alone[name]) == only_deep
    shallow = depthfl_round(initial_exits, [d for d in here if d.depth < 3], descent(1), mutual=0.4)
    assert shallow["heads.2.1.weight"].tobytes() == initial_exits["heads.2.1.weight"].tobytes()


def test_the_ramp_rises_to_one_over_its_rounds() -> None:
    values = [depthfl_ramp(r) for r in (0, 150, 300, 900)]
    assert values == pytest.approx([np.exp(-5), np.exp(-1.25), 1.0, 1.0])


def drawn_by_luck(round_number: int, here: Sequence[Device]) -> list[list[float]]:
    """Uniformly among the widths up to the device's own, for each minibatch."""
    luck = np.random.default_rng(round_number)
    widths = [t.width for t in WIDTHS]
    return [[float(luck.choice([w for w in widths if w <= d.width])) for _ in d.minibatches] for d in here]


def test_three_rounds_of_each_algorithm_learn(initial: Arrays, initial_exits: Arrays) -> None:
    """The check would be worth little on models that stay where they are."""
    data = [examples(shard) for shard in ("north", "east", "south", "west")]
    inputs, targets = torch.cat([d.inputs for d in data]), torch.cat([d.targets for d in data])

    def loss(scores: Tensor) -> float:
        return float(nn.functional.cross_entropy(scores, targets))

    ends: dict[str, Arrays] = dict.fromkeys(("heterofl", "fedrolex", "fjord", "fjord distilled"), initial)
    deep = initial_exits
    for number in (1, 2, 3):
        here, how = devices(number), descent(number)
        drawn = devices(number, drawn_by_luck(number, here))
        offset = PER_GROUP * number
        ends = {
            "heterofl": heterofl_round(ends["heterofl"], here, how),
            "fedrolex": fedrolex_round(ends["fedrolex"], here, how, offset_a=offset, offset_b=offset),
            "fjord": fjord_round(ends["fjord"], drawn, how, distil=False),
            "fjord distilled": fjord_round(ends["fjord distilled"], drawn, how, distil=True),
        }
        deep = depthfl_round(deep, here, how, mutual=depthfl_ramp(number, over=3))
    before = loss(cnn(tensors(initial), inputs))
    assert all(loss(cnn(tensors(arrays), inputs)) < before - 0.1 for arrays in ends.values())
    answers = [loss(torch.from_numpy(depthfl_scores(a, 3, inputs.numpy()))) for a in (initial_exits, deep)]
    assert answers[1] < answers[0] - 0.1
    for one, other in (("heterofl", "fedrolex"), ("heterofl", "fjord"), ("fjord", "fjord distilled")):
        assert any(np.abs(ends[one][n] - ends[other][n]).max() > 1000 * TOLERANCE for n in initial)
