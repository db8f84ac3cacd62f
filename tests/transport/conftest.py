"""Brokers for the tests of the transport: one process per kind and session, topics kept apart by each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mhfl_mq.testing.brokers import BrokerKind, RealLab, found_brokers, started


@pytest.fixture(scope="module", params=found_brokers(), ids=str)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A real broker, once for each kind that is found here."""
    kind: BrokerKind = request.param
    with started(kind, tmp_path_factory.mktemp(str(kind))) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a broker of this test alone keeps its state."""
    return tmp_path / "broker"
