"""The fuzz target over its corpus (the named vectors) and over seeded mutations of it."""

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
MUTATIONS = 20_000
TAG = 8


@pytest.fixture(scope="module")
def target() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_decode", HERE / "fuzz_decode.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corpus() -> list[bytes]:
    found = []
    for path in sorted((HERE.parent / "vectors").glob("*/*.json")):
        pieces = json.loads(path.read_text("utf-8"))["frame"]
        found.append(b"".join(bytes.fromhex(piece) * times for piece, times in pieces))
    return found


LYING_HEADS = [bytes.fromhex(head) for head in ("dd", "df", "db", "c6", "c9", "cb7ff0", "cf", "d3", "91", "81", "c7")]


def mutate(data: bytes, others: list[bytes], luck: random.Random) -> bytes:
    """One to three of the changes that break parsers: another byte, a cut, a repeat, a splice, a lying length."""
    for _ in range(luck.randint(1, 3)):
        at = luck.randrange(len(data) + 1)
        other = luck.choice(others)
        change = luck.random()
        if change < 0.7:
            data = data[:at] + bytes([luck.randrange(256)]) + data[at + 1 :]
        elif change < 0.8:
            data = data[:at] + data[at : at + 16] * luck.randint(0, 8) + data[at + 16 :]
        elif change < 0.9:
            data = data[:at] + other[luck.randrange(len(other) + 1) :]
        else:
            data = data[:at] + luck.choice(LYING_HEADS) + data[at:]
    return data


def test_the_corpus_keeps_the_invariant(target: ModuleType) -> None:
    seeds = corpus()
    assert sum(target.check_bytes(seed) for seed in seeds) >= 28


def test_seeded_mutations_keep_the_invariant(target: ModuleType) -> None:
    luck = random.Random(20261123)
    seeds = [seed for seed in corpus() if len(seed) <= 2048]
    valid = [seed for seed in seeds if target.check_frame(seed)]
    parsed = 0
    for _ in range(MUTATIONS):
        seed = luck.choice(luck.choice([seeds, valid, valid]))
        parsed += target.check_bytes(mutate(seed[luck.choice([0, TAG, TAG]) :], seeds, luck))
    assert parsed > 200  # else the mutations are too wild to reach behind the first check


def test_a_broken_decoder_is_noticed(target: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(frame: bytes) -> object:
        raise KeyError("b")

    monkeypatch.setattr(target, "decode", broken)
    with pytest.raises(KeyError):
        target.check_bytes(b"garbage")
