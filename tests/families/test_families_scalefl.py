"""ScaleFL's half at the aggregator: its options, and that devices count alike."""

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Evaluated, make_algorithm


def test_devices_count_alike_as_published_and_the_aggregator_scores() -> None:
    algorithm = make_algorithm("scalefl")
    assert [algorithm.weight(n) for n in (0, 7)] == [1.0, 1.0]
    assert algorithm.evaluated is Evaluated.AGGREGATOR
    assert algorithm.plan.exits
    assert algorithm.about.linear


def test_a_device_is_told_when_and_how_much_to_distil() -> None:
    told = make_algorithm("scalefl", {"distil_after": 0, "distil": 0.5}).device_options({"rate": 0.1})
    assert told == {"rate": 0.1, "distil": 0.5, "distil_after": 0.0, "temperature": 3.0, "server_rate": 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distill": 3}, "did you mean 'distil'"),
        ({"temprature": 3}, "did you mean 'temperature'"),
        ({"temperature": 0}, "0 is not within 0.1 to 100"),
        ({"distil": -0.1}, "-0.1 is not within 0 to 100"),
        ({"distil_after": 2.5}, "2.5 is not a whole number"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("scalefl", options)
