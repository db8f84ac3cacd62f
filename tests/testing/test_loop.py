"""Virtual time: hours pass at once, threads are waited for, a program that waits for nothing is told so."""

import asyncio
import time

import pytest

from mhfl_mq.testing.loop import Deadlock, VirtualLoop, run_virtual


def test_a_day_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    before = time.monotonic()
    assert run_virtual(main()) == pytest.approx(86_400)
    assert time.monotonic() - before < 5


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def main() -> list[int]:
        fired: list[int] = []

        async def after(delay: int) -> None:
            await asyncio.sleep(delay)
            fired.append(delay)

        await asyncio.gather(*(after(delay) for delay in (30, 10, 20)))
        return fired

    assert run_virtual(main()) == [10, 20, 30]


def test_a_timeout_comes_in_virtual_time() -> None:
    async def main() -> None:
        async with asyncio.timeout(3600):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        run_virtual(main())


def test_a_thread_is_waited_for_in_real_time() -> None:
    async def main() -> int:
        return await asyncio.to_thread(sum, range(1000))

    assert run_virtual(main()) == 499_500


def test_a_program_that_waits_for_ever_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main(), patience_s=0.01)


def test_time_stands_still_while_something_is_ready() -> None:
    loop = VirtualLoop()
    try:
        loop.call_later(5, loop.stop)
        for _ in range(3):
            loop.call_soon(lambda: None)
        assert loop.time() == 0
        loop.run_forever()
        assert loop.time() == pytest.approx(5)
    finally:
        loop.close()
