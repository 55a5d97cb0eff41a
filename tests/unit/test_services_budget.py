"""A budget bounds bytes, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from walkeeper.services.budget import ByteBudget


async def test_what_does_not_fit_waits_until_it_does() -> None:
    budget = ByteBudget(100)
    order: list[str] = []

    async def take(name: str, size: int, hold: asyncio.Event) -> None:
        async with budget.take(size):
            order.append(name)
            await hold.wait()

    first_done, second_done = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(take("first", 60, first_done))
        group.create_task(take("second", 60, second_done))
        await asyncio.sleep(0.01)
        assert order == ["first"]
        assert budget.used_bytes == 60
        first_done.set()
        await asyncio.sleep(0.01)
        assert order == ["first", "second"]
        second_done.set()
    assert budget.used_bytes == 0


async def test_giving_back_early_lets_the_next_one_in() -> None:
    budget = ByteBudget(100)
    async with budget.take(90) as grant:
        grant.shrink(10)
        async with asyncio.timeout(1), budget.take(90):
            assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_what_is_larger_than_the_budget_is_admitted_alone() -> None:
    budget = ByteBudget(100)
    async with asyncio.timeout(1), budget.take(1000):
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_first_come_first_served_so_large_ones_do_not_starve() -> None:
    budget = ByteBudget(100)
    order: list[int] = []

    async def take(size: int) -> None:
        async with budget.take(size):
            order.append(size)

    async with asyncio.TaskGroup() as group, budget.take(50):
        for size in (90, 10, 20):
            group.create_task(take(size))
            await asyncio.sleep(0)
    assert order == [90, 10, 20]


async def test_whoever_is_cancelled_while_waiting_takes_nothing() -> None:
    budget = ByteBudget(100)
    async with budget.take(100):
        waiter = asyncio.create_task(budget.take(50).__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    assert budget.used_bytes == 0


async def test_cancelled_in_the_turn_of_being_admitted_the_bytes_come_back() -> None:
    budget = ByteBudget(100)
    holder = budget.take(100)
    await holder.__aenter__()
    waiter = asyncio.create_task(budget.take(50).__aenter__())
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used_bytes == 0
