"""Jobs under names: one of each, and one that breaks ends the process."""

import asyncio

import pytest

from mhfl_mq.errors import StoreFull
from mhfl_mq.run.jobs import Jobs


async def for_ever(log: list[str], name: str) -> None:
    try:
        await asyncio.sleep(1e9)
    finally:
        log.append(name)


async def breaks() -> None:
    await asyncio.sleep(1)
    raise StoreFull("no room")


async def answer() -> int:
    await asyncio.sleep(5)
    return 42


def test_a_job_ends_the_one_of_its_name(virtual: asyncio.Runner) -> None:
    async def main() -> list[str]:
        log: list[str] = []
        jobs = Jobs()
        jobs.start("train", for_ever(log, "first"))
        await asyncio.sleep(0)
        jobs.start("train", for_ever(log, "second"))
        await asyncio.sleep(0)
        assert log == ["first"]
        jobs.cancel("nonesuch")
        await jobs.close()
        return log

    assert virtual.run(main()) == ["first", "second"]


def test_guard_returns_what_its_work_returns(virtual: asyncio.Runner) -> None:
    async def main() -> int:
        jobs = Jobs()
        jobs.start("other", for_ever([], "other"))
        result = await jobs.guard(answer())
        await jobs.close()
        return result

    assert virtual.run(main()) == 42


def test_guard_raises_what_a_job_raised_and_ends_its_work(virtual: asyncio.Runner) -> None:
    async def main() -> list[str]:
        log: list[str] = []
        jobs = Jobs()
        jobs.start("breaks", breaks())
        with pytest.raises(StoreFull):
            await jobs.guard(for_ever(log, "work"))
        await asyncio.sleep(0)
        await jobs.close()
        return log

    assert virtual.run(main()) == ["work"]


def test_a_job_that_ends_by_itself_or_is_cancelled_breaks_nothing(virtual: asyncio.Runner) -> None:
    async def main() -> int:
        jobs = Jobs()
        jobs.start("ends", asyncio.sleep(1))
        jobs.start("cancelled", for_ever([], "cancelled"))
        asyncio.get_running_loop().call_later(2, jobs.cancel, "cancelled")
        result = await jobs.guard(answer())
        await jobs.close()
        return result

    assert virtual.run(main()) == 42


def test_a_job_that_breaks_without_a_guard_is_not_forgotten_noisily(virtual: asyncio.Runner) -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.start("breaks", breaks())
        await asyncio.sleep(2)
        await jobs.close()

    virtual.run(main())
