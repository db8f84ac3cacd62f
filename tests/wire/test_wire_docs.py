"""docs/wire.md says what the code does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mhfl_mq.wire import bounds
from mhfl_mq.wire.blobs import CHUNK_HEADER, PROFILES
from mhfl_mq.wire.topics import Topics, What

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "wire.md").read_text("utf-8")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wire_tables", ROOT / "scripts" / "wire_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_messages_are_those_of_the_dataclasses(tables: ModuleType) -> None:
    assert tables.written(DOCUMENT) == DOCUMENT, "stale: run python scripts/wire_tables.py"


def test_every_topic_stands_in_the_document() -> None:
    for what in What:
        name = "{k}" if what.value.startswith("seg") else "{dev}"
        assert f"| `{{root}}/v1/{{fed}}/{what.value.replace('+', name)}` |" in DOCUMENT


def test_the_acl_in_the_document_is_the_one_that_is_made() -> None:
    assert "```\n" + "\n".join(Topics("plant1").acl_lines("aggregator")) + "\n```" in DOCUMENT


@pytest.mark.parametrize(
    "row",
    [
        f"| frame without a manifest | {bounds.CONTROL_LIMIT // 1024} KiB |",
        f"| frame with a manifest | {bounds.FRAME_LIMIT // 1024} KiB |",
        f"| blob inside a frame | {bounds.INLINE_LIMIT // 1024} KiB |",
        f"| chunks of a blob | {bounds.MAX_CHUNKS:,} |",
        f"| chunk | {bounds.MIN_CHUNK} B to {bounds.MAX_CHUNK >> 20} MiB |",
        f"| chunk by default | {PROFILES['default'] // 1024} KiB |",
        f"| chunk, small packets | {PROFILES['small-packets'] // 1024} KiB |",
        f"| chunk, websockets | {PROFILES['websockets'] // 1024} KiB |",
        f"| tiers | {bounds.MAX_TIERS} |",
        f"| segments | {bounds.MAX_SEGMENTS} |",
        f"| ranges of a pull | {bounds.MAX_RANGES} |",
        f"| named numbers | {bounds.MAX_NUMBERS} |",
        f"| {CHUNK_HEADER} | | the chunk |",
    ],
)
def test_the_limits_in_the_document_are_those_of_the_code(row: str) -> None:
    assert row in DOCUMENT
