"""Running command lines in this process, with what they print and their exit code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from mhfl_mq.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """A command line that has ended."""

    code: int
    out: str
    err: str


Mhfl = Callable[..., Done]


@pytest.fixture
def mhfl(capfd: pytest.CaptureFixture[str]) -> Mhfl:
    """Run `mhfl WORDS...` as a shell would see it."""

    def run(*words: object) -> Done:
        arguments: Sequence[str] = [str(word) for word in words]
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, printed.out, printed.err)

    return run
