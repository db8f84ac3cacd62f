"""From a block in the middle of a network to its head."""

import pytest
import torch
from torch import nn

from mhfl_mq.errors import TaskError
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.links import check_links, feature_shape, link


def test_features_of_the_heads_size_go_straight_to_it() -> None:
    features = torch.rand(2, 4, 6)
    assert link(features, (4, 6), 0) is features


def test_places_are_left_out_evenly_and_missing_channels_are_zeros_on_both_sides() -> None:
    features = torch.rand(2, 3, 8, 4)
    found = link(features, (6, 4, 2), 0)
    assert found.shape == (2, 6, 4, 2)
    torch.testing.assert_close(found[:, 1:4], features[:, :, ::2, ::2], rtol=0, atol=0)
    assert not found[:, 0].any()
    assert not found[:, 4:].any()


def test_places_that_do_not_divide_are_left_out_as_evenly_as_can_be() -> None:
    features = torch.arange(14.0).reshape(1, 1, 14)
    assert link(features, (1, 3), 0).flatten().tolist() == [0, 4, 9]
    assert link(features, (1, 13), 0).flatten().tolist() == [float(i) for i in range(13)]


def test_a_vector_of_features_gets_its_zeros_too() -> None:
    assert link(torch.ones(2, 3), (5,), 0).tolist() == [[0, 1, 1, 1, 0]] * 2


def test_a_link_passes_gradients_on() -> None:
    features = torch.rand(2, 3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(link(features, (4, 4), 0).sum(), features)
    assert gradient[0, 0].tolist() == [1, 0] * 4


@pytest.mark.parametrize("shape", [(2, 8), (4, 16), (2, 16), (4, 8, 1), (32,)])
def test_features_that_cannot_be_fitted_are_refused_with_what_to_do(shape: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match=r"^blocks\.1: it gives features \(3, 8\), .*; let blocks keep the size"):
        link(torch.rand(2, 3, 8), shape, 1)


def test_only_the_blocks_that_are_asked_for_need_a_way_to_the_head() -> None:
    blocks = [nn.Conv1d(4, 6, 1), nn.Conv1d(6, 4, 1), nn.Conv1d(4, 5, 1)]
    net = ExitNet(nn.Conv1d(2, 4, 1), blocks, [nn.Flatten()])
    sample = torch.rand(2, 2, 8)
    assert feature_shape(net, sample) == (5, 8)
    check_links(net, sample, {1})
    with pytest.raises(TaskError, match=r"^blocks\.0: "):
        check_links(net, sample, {0, 1})
