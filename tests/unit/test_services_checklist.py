"""Steps and what becomes of them."""

from __future__ import annotations

import pytest

from walkeeper.errors import NoSuchSegment, StorageDenied
from walkeeper.services.checklist import Checklist, Outcome, Remark, Step


async def fine() -> Remark:
    return Remark("fine")


async def worrying() -> Remark:
    return Remark("works", "but not well", "mend it")


async def denied() -> Remark:
    raise StorageDenied("no", hint="ask")


async def absent() -> Remark:
    raise NoSuchSegment("nothing there")


async def test_each_step_is_told_as_it_ends() -> None:
    seen: list[Step] = []
    checklist = Checklist(seen.append)
    assert await checklist.step("one", fine)
    assert seen == [Step("one", Outcome.OK, "fine")]
    assert await checklist.step("two", worrying)
    assert seen[1] == Step("two", Outcome.WARNING, "works; but not well", "mend it")
    assert not await checklist.step("three", denied)
    assert seen[2] == Step("three", Outcome.FAILED, "no", "ask", 22)
    checklist.skip("four", "needs three")
    assert seen[3] == Step("four", Outcome.SKIPPED, "needs three")
    assert checklist.steps == seen


async def test_the_first_failure_decides_the_exit_code() -> None:
    checklist = Checklist(lambda _: None)
    assert checklist.exit_code == 0
    await checklist.step("a", fine)
    checklist.skip("b", "why not")
    assert checklist.exit_code == 0
    await checklist.step("c", worrying)
    assert checklist.exit_code == 3
    await checklist.step("d", absent)
    await checklist.step("e", denied)
    assert checklist.exit_code == 13


async def test_a_mistake_of_the_program_is_no_failed_step() -> None:
    async def broken() -> Remark:
        raise ZeroDivisionError

    checklist = Checklist(lambda _: None)
    with pytest.raises(ZeroDivisionError):
        await checklist.step("x", broken)
