"""One kit, every broker: in memory, and each real one that is found, by our fast client and by stock paho."""

import pytest

from mhfl_mq.testing.brokers import MemoryLab, RealLab, found_brokers
from mhfl_mq.testing.loop import run_virtual
from mhfl_mq.testing.transport_kit import CHECKS, Check
from mhfl_mq.transport.memory import MemoryBroker

by_name = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@pytest.mark.parametrize("protocol", [4, 5])
@by_name
def test_the_broker_in_memory_passes_the_kit(check: Check, protocol: int) -> None:
    async def run() -> None:
        await check(MemoryLab(MemoryBroker(protocol=protocol)))

    run_virtual(run())


@pytest.mark.broker
@by_name
async def test_a_real_broker_passes_the_kit(check: Check, lab: RealLab) -> None:
    await check(lab)


@pytest.fixture
def stock_lab(lab: RealLab) -> RealLab:
    return RealLab(lab.broker, lab.protocol, stock=True)


@pytest.mark.broker
@by_name
async def test_stock_paho_passes_the_kit(check: Check, stock_lab: RealLab) -> None:
    await check(stock_lab)


def test_a_broker_was_found_to_run_the_kit_on() -> None:
    assert "nats" in {kind.program for kind in found_brokers()}
