"""Retries and deadlines, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.errors import (
    ObjectExists,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from walkeeper.storage.base import Buffer, ObjectInfo
from walkeeper.storage.memory import MemoryStorage
from walkeeper.storage.retry import Retrier, RetryingStorage, RetryPolicy


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.pauses.append(duration_s)
        self.now_s += duration_s

    def retrier(self, *, chance: float = 1.0, **policy: float) -> Retrier:
        return Retrier(
            RetryPolicy(**policy), clock=self.clock, sleep=self.sleep, chance=lambda: chance
        )


class Failing:
    """An attempt that raises ``errors`` one after another, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def unavailable(retry_after_s: float | None = None) -> StorageUnavailable:
    error = StorageUnavailable("no answer")
    error.retry_after_s = retry_after_s
    return error


async def test_the_first_success_ends_it_without_a_pause() -> None:
    time = VirtualTime()
    assert await time.retrier().call("put x", Failing()) == "done"
    assert time.pauses == []


async def test_pauses_double_up_to_the_longest() -> None:
    time = VirtualTime()
    attempt = Failing(*[unavailable() for _ in range(6)])
    retrier = time.retrier(first_pause_s=1.0, longest_pause_s=8.0)
    assert await retrier.call("put x", attempt) == "done"
    assert time.pauses == [1, 2, 4, 8, 8, 8]


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_pause_is_random_between_half_and_all_of_its_length(chance: float) -> None:
    time = VirtualTime()
    retrier = time.retrier(chance=chance, first_pause_s=1.0)
    asyncio.run(retrier.call("put x", Failing(unavailable())))
    assert 0.5 <= time.pauses[0] <= 1.0


async def test_the_pause_that_the_store_asks_for_is_kept() -> None:
    time = VirtualTime()
    await time.retrier().call("put x", Failing(unavailable(7.0), unavailable(0.0)))
    assert time.pauses[0] == 7.0
    assert time.pauses[1] < 1.0


@pytest.mark.parametrize("error", [ObjectExists("x"), ObjectNotFound("x"), StorageDenied("x")])
async def test_what_another_attempt_cannot_change_is_raised_at_once(error: StorageError) -> None:
    attempt = Failing(error)
    with pytest.raises(type(error)):
        await VirtualTime().retrier().call("put x", attempt)
    assert attempt.attempts == 1


async def test_an_error_of_the_program_is_raised_at_once() -> None:
    attempt = Failing(ValueError("mistake"))
    with pytest.raises(ValueError, match="mistake"):
        await VirtualTime().retrier().call("put x", attempt)
    assert attempt.attempts == 1


async def test_after_the_deadline_the_last_error_is_raised() -> None:
    time = VirtualTime()
    attempt = Failing(*[unavailable() for _ in range(1000)])
    with pytest.raises(StorageUnavailable, match="no answer"):
        await time.retrier(deadline_s=60.0).call("put x", attempt)
    assert 30 < time.now_s < 60
    assert attempt.attempts == len(time.pauses) + 1


async def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    time = VirtualTime()
    attempt = Failing(unavailable(retry_after_s=600.0))
    with pytest.raises(StorageUnavailable):
        await time.retrier(deadline_s=60.0).call("put x", attempt)
    assert time.pauses == []


async def test_an_attempt_that_takes_too_long_is_given_up_and_repeated() -> None:
    attempts = 0

    async def slow_at_first() -> str:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(3600 if attempts == 1 else 0)
        return "done"

    policy = RetryPolicy(attempt_timeout_s=0.05, first_pause_s=0.01)
    assert await Retrier(policy).call("put x", slow_at_first) == "done"
    assert attempts == 2


@pytest.mark.parametrize("attempt_timeout_s", [0.1, 3600.0])
async def test_nothing_takes_longer_than_the_deadline(attempt_timeout_s: float) -> None:
    async def endless() -> None:
        await asyncio.sleep(3600)

    loop = asyncio.get_running_loop()
    begin = loop.time()
    policy = RetryPolicy(attempt_timeout_s=attempt_timeout_s, deadline_s=0.35, first_pause_s=0.01)
    with pytest.raises(StorageUnavailable, match="put x: no answer within"):
        await Retrier(policy).call("put x", endless)
    assert 0.2 < loop.time() - begin < 60  # without a deadline: for an hour, or for ever


async def test_an_attempt_cut_short_by_the_deadline_does_not_hide_why_the_others_failed() -> None:
    attempts = 0

    async def refused_at_first() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StorageUnavailable("503 SlowDown")
        await asyncio.sleep(3600)

    policy = RetryPolicy(attempt_timeout_s=3600.0, deadline_s=0.2, first_pause_s=0.01)
    with pytest.raises(StorageUnavailable, match="503 SlowDown"):
        await Retrier(policy).call("put x", refused_at_first)


async def test_a_large_body_has_more_time() -> None:
    async def slow() -> str:
        await asyncio.sleep(0.2)
        return "done"

    policy = RetryPolicy(attempt_timeout_s=0.05, deadline_s=0.1)
    with pytest.raises(StorageUnavailable):
        await Retrier(policy).call("put x", slow)
    assert await Retrier(policy).call("put x", slow, size_bytes=16 * 1024 * 1024) == "done"


async def test_a_timeout_of_the_caller_is_the_callers() -> None:
    async def endless() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Retrier(RetryPolicy()).call("put x", endless)


async def test_a_timeout_inside_the_attempt_is_not_taken_for_ours() -> None:
    attempt = Failing(TimeoutError("someone else's"))
    with pytest.raises(TimeoutError, match="someone else's"):
        await VirtualTime().retrier().call("put x", attempt)


class Cutting(MemoryStorage):
    """A store that breaks off each read after ``cut_after`` bytes and each listing after one name,
    and forgets to answer every other time it is opened."""

    def __init__(self, cut_after: int) -> None:
        super().__init__()
        self.cut_after = cut_after
        self.opened = 0

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened += 1
        if self.opened % 2:
            raise StorageUnavailable("not answered")
        async with super().read(name, offset=offset, length=length) as chunks:
            yield self._cut(chunks)

    async def _cut(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            if len(chunk) > self.cut_after:
                yield chunk[: self.cut_after]
                raise StorageUnavailable("cut")
            yield chunk

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.opened += 1
        if self.opened % 2:
            raise StorageUnavailable("not answered")
        async for info in super().list_objects(prefix, after=after):
            yield info
            raise StorageUnavailable("cut")


@given(
    size=st.integers(0, 60),
    cut_after=st.integers(1, 70),
    offset=st.integers(0, 70),
    length=st.none() | st.integers(0, 70),
)
def test_a_read_that_is_cut_goes_on_where_it_stopped(
    size: int, cut_after: int, offset: int, length: int | None
) -> None:
    async def scenario() -> bytes:
        store = Cutting(cut_after)
        await store.put("x", bytes(range(size)))
        retrying = RetryingStorage(store, VirtualTime().retrier())
        async with retrying.read("x", offset=offset, length=length) as chunks:
            return b"".join([chunk async for chunk in chunks])

    end = None if length is None else offset + length
    assert asyncio.run(scenario()) == bytes(range(size))[offset:end]


@given(st.sets(st.from_regex(r"[a-c]/[a-c]{1,2}", fullmatch=True), max_size=12))
def test_a_listing_that_is_cut_goes_on_after_the_last_name(names: set[str]) -> None:
    async def scenario() -> list[str]:
        store = Cutting(1)
        for name in names:
            await store.put(name, b"")
        retrying = RetryingStorage(store, VirtualTime().retrier())
        listed = [info.name async for info in retrying.list_objects("")]
        pages = retrying.list_pages("", names_only=True)
        assert [name async for page in pages for name in page.names] == listed
        return listed

    assert asyncio.run(scenario()) == sorted(names)


async def test_a_read_without_progress_ends_with_the_deadline() -> None:
    class Dead(MemoryStorage):
        @asynccontextmanager
        async def read(
            self, name: str, *, offset: int = 0, length: int | None = None
        ) -> AsyncIterator[AsyncIterator[bytes]]:
            async with super().read(name, offset=offset, length=length):
                yield self._nothing()

        async def _nothing(self) -> AsyncIterator[bytes]:
            raise StorageUnavailable("cut")
            yield b""

    store = Dead()
    await store.put("x", b"content")
    time = VirtualTime()
    async with RetryingStorage(store, time.retrier(deadline_s=30)).read("x") as chunks:
        with pytest.raises(StorageUnavailable, match="cut"):
            await anext(aiter(chunks))
    assert 10 < time.now_s < 30


async def test_a_put_whose_success_was_not_heard_of_ends_in_object_exists() -> None:
    class Deaf(MemoryStorage):
        async def put(self, name: str, body: Buffer) -> None:
            await super().put(name, body)
            raise StorageUnavailable("the answer was lost")

    store = Deaf()
    with pytest.raises(ObjectExists):
        await RetryingStorage(store, VirtualTime().retrier()).put("x", b"content")
    assert (await store.head("x")).size_bytes == 7


async def test_a_stream_is_not_repeated() -> None:
    class Broken(MemoryStorage):
        calls = 0

        async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
            self.calls += 1
            raise StorageUnavailable("broken")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    store = Broken()
    source = chunks()
    with pytest.raises(StorageUnavailable):
        await RetryingStorage(store, VirtualTime().retrier()).put_stream("x", source)
    assert store.calls == 1
    await source.aclose()  # type: ignore[attr-defined]


async def test_each_error_that_is_tried_again_is_told_and_no_other() -> None:
    time = VirtualTime()
    told: list[StorageError] = []
    retrier = Retrier(
        RetryPolicy(), clock=time.clock, sleep=time.sleep, chance=lambda: 1.0, on_retry=told.append
    )
    again = [unavailable(), unavailable()]
    await retrier.call("put x", Failing(*again))
    assert told == again
    with pytest.raises(StorageDenied):
        await retrier.call("put x", Failing(StorageDenied("x")))
    assert told == again
