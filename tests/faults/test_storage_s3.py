"""S3 stores that refuse, hang, throttle, cut and lie: the right error, in time, nothing lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest

from tests.fix_ceph import Ceph
from tests.fix_proxy import Behaviour, HttpFaults, TcpProxy
from tests.fix_s3 import S3Server, free_port
from walkeeper.errors import (
    ObjectExists,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from walkeeper.storage.base import Storage
from walkeeper.storage.open import open_storage
from walkeeper.storage.retry import Retrier, RetryPolicy
from walkeeper.storage.s3 import S3Storage

S = TypeVar("S", bound=Storage)

MIB = 1024 * 1024

MakeFaults = Callable[[str | None], HttpFaults]
MakeProxy = Callable[[str], TcpProxy]

HTML = b"<html><body>Welcome to the wireless network of your hotel</body></html>"


class Setup:
    """A bucket on Ceph seen through an HTTP proxy with faults."""

    def __init__(self, ceph: S3Server, proxy: HttpFaults, executor: ThreadPoolExecutor) -> None:
        self.ceph = ceph
        self.proxy = proxy
        self.executor = executor
        self.bucket = ceph.new_bucket()
        self.settings = ceph.settings(self.bucket, endpoint_url=proxy.url)

    def give_up_soon(self) -> None:
        """For what never succeeds; anything else has the time that a busy host may take."""
        self.settings = replace(self.settings, attempt_timeout_s=1.0, deadline_s=4.0)

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[S3Storage]:
        """The backend alone: one attempt, but for the pieces of an upload."""
        policy = RetryPolicy(
            attempt_timeout_s=self.settings.attempt_timeout_s,
            deadline_s=self.settings.deadline_s,
            first_pause_s=0.01,
        )
        async with closing(S3Storage(self.settings, self.executor, Retrier(policy))) as storage:
            yield storage

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Storage]:
        """As the program uses it."""
        async with closing(open_storage(self.settings, self.executor)) as storage:
            yield storage


@asynccontextmanager
async def closing(storage: S) -> AsyncIterator[S]:
    try:
        yield storage
    finally:
        await storage.aclose()


@pytest.fixture
def setup(ceph: S3Server, http_faults: MakeFaults, executor: ThreadPoolExecutor) -> Setup:
    return Setup(ceph, http_faults(ceph.endpoint_url), executor)


async def content(storage: Storage, name: str) -> bytes:
    async with storage.read(name) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, ""), (429, ""), (409, "")])
async def test_a_storm_is_weathered(setup: Setup, status: int, code: str) -> None:
    async with setup.opened() as storage:
        for kind in ("PUT", "GET", "HEAD", "LIST", "DELETE"):
            setup.proxy.add(times=2, kind=kind, status=status, code=code)
        await storage.put("one", b"content")
        assert await content(storage, "one") == b"content"
        assert (await storage.head("one")).size_bytes == 7
        assert [info.name async for info in storage.list_objects("")] == ["one"]
        await storage.delete("one")
        assert await storage.folders("") == []
    assert setup.proxy.counts["PUT"] == 3
    assert setup.proxy.counts["DELETE"] == 3


async def test_the_backend_alone_tries_once(setup: Setup) -> None:
    async with setup.bare() as storage:
        for kind in ("PUT", "GET", "HEAD", "LIST", "DELETE"):
            setup.proxy.add(times=1, kind=kind)
        for attempt in (
            storage.put("one", b"1"),
            content(storage, "one"),
            storage.head("one"),
            storage.folders(""),
            storage.delete("one"),
        ):
            with pytest.raises(StorageUnavailable):
                await attempt
    assert setup.proxy.counts == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1}


async def test_the_pause_asked_for_is_made(setup: Setup) -> None:
    setup.proxy.add(times=1, kind="PUT", headers={"Retry-After": "1"})
    async with setup.opened() as storage:
        begin = time.monotonic()
        await storage.put("one", b"1")
        assert time.monotonic() - begin >= 1.0


async def test_an_endless_storm_ends_with_the_deadline(setup: Setup) -> None:
    setup.proxy.add(times=1_000_000)
    setup.give_up_soon()
    async with setup.opened() as storage:
        begin = time.monotonic()
        with pytest.raises(StorageUnavailable, match="SlowDown"):
            await storage.put("one", b"1")
        assert time.monotonic() - begin < 30  # without a deadline: for ever


async def test_a_refusal_is_not_repeated(setup: Setup) -> None:
    setup.proxy.add(times=1_000_000, status=403, code="AccessDenied")
    async with setup.opened() as storage:
        with pytest.raises(StorageDenied):
            await storage.put("one", b"1")
    assert setup.proxy.counts == {"PUT": 1}


async def test_a_put_whose_answer_was_lost_ends_in_object_exists(setup: Setup) -> None:
    setup.proxy.add(times=1, kind="PUT", status=500, code="InternalError", after=True)
    async with setup.opened() as storage:
        with pytest.raises(ObjectExists):
            await storage.put("one", b"content")
        assert await content(storage, "one") == b"content"


@pytest.mark.parametrize("body", [HTML, b"", b"<xml/>"], ids=["html", "empty", "xml"])
async def test_success_from_something_that_is_no_store_is_not_believed(
    setup: Setup, body: bytes
) -> None:
    setup.proxy.add(times=1_000_000, status=200, body=body, headers={"Content-Type": "text/html"})
    setup.give_up_soon()
    async with setup.bare() as storage:
        for attempt in (
            storage.put("one", b"1"),
            storage.put_stream("one", pieces(6 * MIB)),
            storage.head("one"),
            content(storage, "one"),
            storage.folders(""),
            anext(aiter(storage.list_objects(""))),
        ):
            with pytest.raises(StorageUnavailable):
                await attempt


@pytest.mark.parametrize("body", [HTML, b""], ids=["html", "empty"])
async def test_not_found_from_something_that_is_no_store_is_no_absence(
    setup: Setup, body: bytes
) -> None:
    setup.proxy.add(times=1_000_000, status=404, body=body)
    async with setup.bare() as storage:
        for attempt in (storage.head("one"), content(storage, "one"), storage.sync("one")):
            with pytest.raises(StorageUnavailable) as caught:
                await attempt
            assert not isinstance(caught.value, ObjectNotFound)


@pytest.mark.parametrize("kind", ["PUT", "POST", "LIST"])
async def test_an_error_inside_a_successful_answer_is_an_error(setup: Setup, kind: str) -> None:
    fault = setup.proxy.add(times=1_000_000, kind=kind, status=200, code="InternalError")
    setup.give_up_soon()
    async with setup.bare() as storage:
        attempts = {
            "PUT": storage.put("one", b"1"),
            "POST": storage.put_stream("one", pieces(6 * MIB)),
            "LIST": storage.folders(""),
        }
        for name, attempt in attempts.items():
            if name != kind:
                attempt.close()
        with pytest.raises(StorageUnavailable):
            await attempts[kind]
        fault.times = 0
        with pytest.raises(ObjectNotFound):
            await storage.head("one")


@pytest.mark.parametrize("cut_at", [0, 1, 1_000_000])
async def test_a_body_that_is_cut_is_an_error_of_the_backend_and_resumed_above(
    setup: Setup, cut_at: int
) -> None:
    body = bytes(range(256)) * 12_000
    async with setup.bare() as storage:
        await storage.put("one", body)
        setup.proxy.add(times=1, kind="GET", cut_body_at=cut_at)
        with pytest.raises(StorageUnavailable):
            await content(storage, "one")
    async with setup.opened() as storage:
        setup.proxy.add(times=3, kind="GET", cut_body_at=cut_at)
        assert await content(storage, "one") == body
        setup.proxy.add(times=2, kind="GET", cut_body_at=1000)
        async with storage.read("one", offset=5, length=500_000) as chunks:
            part = b"".join([chunk async for chunk in chunks])
        assert part == body[5:500_005]


async def test_a_store_that_ignores_ranges_does_not_deliver_wrong_bytes(setup: Setup) -> None:
    headers = {"ETag": '"x"', "Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT"}
    setup.proxy.add(times=9, kind="GET", status=200, body=b"0123456789", headers=headers)
    async with setup.bare() as storage:
        for offset, length in ((3, None), (0, 4), (3, 4)):
            with pytest.raises(StorageError, match="asked for bytes="):
                async with storage.read("one", offset=offset, length=length):
                    pass


async def test_a_short_range_is_not_taken_for_the_whole(setup: Setup) -> None:
    headers = {
        "ETag": '"x"',
        "Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT",
        "Content-Range": "bytes 3-5/100",
    }
    setup.proxy.add(times=9, kind="GET", status=206, body=b"345", headers=headers)
    async with setup.bare() as storage:
        with pytest.raises(StorageError):
            async with storage.read("one", offset=3):
                pass


async def test_pieces_of_an_upload_are_repeated(setup: Setup) -> None:
    setup.proxy.add(times=2, kind="PUT", path_contains="partNumber=2")
    setup.proxy.add(times=1, kind="POST", path_contains="uploadId")
    setup.proxy.add(times=1, kind="POST", path_contains="uploads")
    async with setup.bare() as storage:
        assert await storage.put_stream("one", pieces(5 * MIB, 5 * MIB, MIB)) == 11 * MIB
        expected = bytes(5 * MIB) + b"\1" * (5 * MIB) + b"\2" * MIB
        assert await content(storage, "one") == expected
    assert setup.ceph.uploads_under_way(setup.bucket) == []


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (404, "NoSuchUpload")])
@pytest.mark.parametrize("probed", [False, True])
async def test_a_completion_whose_answer_was_lost_is_recognised_as_ours(
    setup: Setup, status: int, code: str, probed: bool
) -> None:
    # Ceph itself repeats its success; other stores say this.
    completion = {"times": 1, "kind": "POST", "path_contains": "uploadId"}
    async with setup.bare() as storage:
        if probed:  # by SHA-256 then
            await storage.put("record", b"{}")
            await storage.probe("record", b"{}")
            setup.proxy.forget()
        setup.proxy.add(**completion, status=500, code="", after=True)
        setup.proxy.add(**completion, status=status, code=code)
        assert await storage.put_stream("one", pieces(5 * MIB, MIB)) == 6 * MIB
        assert (await storage.head("one")).size_bytes == 6 * MIB
    # Where completions are not conditional, which Ceph's are not, we look before asking again.
    assert setup.proxy.counts["POST"] == (2 if probed else 3)


@pytest.mark.parametrize("kind", ["ceph", "moto", "rclone"])
async def test_a_completion_whose_answer_was_lost_succeeds_or_leaves_the_decision_to_the_caller(
    request: pytest.FixtureRequest,
    http_faults: MakeFaults,
    executor: ThreadPoolExecutor,
    kind: str,
) -> None:
    server: S3Server = request.getfixturevalue(kind)
    setup = Setup(server, http_faults(server.endpoint_url), executor)
    setup.proxy.add(times=1, kind="POST", path_contains="uploadId", status=500, code="", after=True)
    async with setup.bare() as storage:
        if kind == "rclone":  # its entity tags are not S3's
            with pytest.raises(ObjectExists):
                await storage.put_stream("one", pieces(5 * MIB, MIB))
        else:
            assert await storage.put_stream("one", pieces(5 * MIB, MIB)) == 6 * MIB
        assert (await storage.head("one")).size_bytes == 6 * MIB


async def test_a_completion_that_another_writer_forestalled_is_refused(
    moto: S3Server, http_faults: MakeFaults, executor: ThreadPoolExecutor
) -> None:
    setup = Setup(moto, http_faults(moto.endpoint_url), executor)

    async def forestalled(storage: Storage) -> AsyncIterator[bytes]:
        yield bytes(6 * MIB)
        await storage.put("one", b"first")

    async with setup.bare() as storage:
        with pytest.raises(ObjectExists):
            await storage.put_stream("one", forestalled(storage))
        assert await content(storage, "one") == b"first"
    assert moto.uploads_under_way(setup.bucket) == []


@pytest.mark.parametrize("where", ["partNumber=1", "partNumber=2", "uploadId"])
async def test_an_upload_that_fails_is_aborted(setup: Setup, where: str) -> None:
    kind = "PUT" if "part" in where else "POST"
    setup.proxy.add(times=1_000, kind=kind, path_contains=where, status=403, code="AccessDenied")
    async with setup.bare() as storage:
        with pytest.raises(StorageDenied):
            await storage.put_stream("one", pieces(5 * MIB, 5 * MIB, 5 * MIB))
        with pytest.raises(ObjectNotFound):
            await storage.head("one")
    assert setup.ceph.uploads_under_way(setup.bucket) == []
    assert setup.proxy.counts["DELETE"] == 1


@pytest.mark.parametrize("where", ["partNumber=1", "partNumber=3", "uploadId"])
async def test_an_upload_that_is_cancelled_is_aborted(setup: Setup, where: str) -> None:
    kind = "PUT" if "part" in where else "POST"
    setup.proxy.add(times=1_000, kind=kind, path_contains=where, hang=True)
    async with setup.bare() as storage:
        task = asyncio.create_task(storage.put_stream("one", pieces(*[5 * MIB] * 3)))
        while not any(where in seen.path and seen.kind == kind for seen in setup.proxy.requests):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert setup.proxy.counts["DELETE"] == 1
    assert setup.ceph.uploads_under_way(setup.bucket) == []


async def test_an_abort_that_hangs_does_not_hide_the_first_error(setup: Setup) -> None:
    setup.proxy.add(times=9, kind="PUT", path_contains="part", status=403, code="AccessDenied")
    setup.proxy.add(times=9, kind="DELETE", status=500, code="InternalError")
    async with setup.bare() as storage:
        with pytest.raises(StorageDenied):
            await storage.put_stream("one", pieces(6 * MIB))


async def test_a_refused_connection_is_unavailable(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    settings = ceph.settings("bucket-1", endpoint_url=endpoint, deadline_s=1.0)
    async with closing(open_storage(settings, executor)) as storage:
        begin = time.monotonic()
        for attempt in (storage.put("one", b"1"), content(storage, "one")):
            with pytest.raises(StorageUnavailable):
                await attempt
        assert time.monotonic() - begin < 30  # without a deadline: for ever


async def test_a_host_name_that_does_not_resolve_is_unavailable(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    settings = ceph.settings("bucket-1", endpoint_url="http://nowhere.invalid", deadline_s=1.0)
    async with closing(open_storage(settings, executor)) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.head("one")


@pytest.mark.parametrize("behaviour", ["hang", "reset", "half-close", "refuse"])
async def test_a_line_that_is_bad_for_a_while_is_survived_and_for_ever_is_told(
    ceph: S3Server, tcp_proxy: MakeProxy, executor: ThreadPoolExecutor, behaviour: Behaviour
) -> None:
    proxy = tcp_proxy(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=f"http://127.0.0.1:{proxy.port}")
    async with closing(open_storage(settings, executor)) as storage:
        await storage.put("one", b"content")
    settings = replace(settings, attempt_timeout_s=0.5)
    async with closing(open_storage(settings, executor)) as storage:
        assert await content(storage, "one") == b"content"
        proxy.reset()
        proxy.set_behaviour(behaviour)
        reading = asyncio.create_task(content(storage, "one"))
        await asyncio.sleep(0.8)
        assert not reading.done()
        proxy.set_behaviour("forward")
        assert await reading == b"content"
    settings = replace(settings, deadline_s=3.0)
    async with closing(open_storage(settings, executor)) as storage:
        proxy.reset()
        proxy.set_behaviour(behaviour)
        begin = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await storage.put("two", b"content")
        assert time.monotonic() - begin < 30  # without a deadline: for ever


async def test_connections_that_are_reset_all_the_time_lose_nothing(
    ceph: S3Server, tcp_proxy: MakeProxy, executor: ThreadPoolExecutor
) -> None:
    proxy = tcp_proxy(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=f"http://127.0.0.1:{proxy.port}")
    body = bytes(range(256)) * 8_000

    async def trouble() -> None:
        pause_s = 0.05
        while True:
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(proxy.reset)
            pause_s *= 1.2  # on a busy host too there comes one in which an object goes over

    async with closing(open_storage(settings, executor)) as storage:
        troubling = asyncio.create_task(trouble())
        for number in range(12):
            with suppress(ObjectExists):  # the answer to an earlier attempt was lost
                await storage.put(str(number), body)
            assert await content(storage, str(number)) == body
        troubling.cancel()
    assert proxy.connections > 3


async def test_an_answer_that_is_cut_on_the_line_is_resumed(
    ceph: S3Server, tcp_proxy: MakeProxy, executor: ThreadPoolExecutor
) -> None:
    proxy = tcp_proxy(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=f"http://127.0.0.1:{proxy.port}")
    body = bytes(range(256)) * 20_000
    async with closing(open_storage(settings, executor)) as storage:
        await storage.put("one", body)
        proxy.reset()
        proxy.cut_down_after = 1_500_000
        assert await content(storage, "one") == body
    assert proxy.connections >= 4


async def test_a_slow_line_is_not_an_outage(
    ceph: S3Server, tcp_proxy: MakeProxy, executor: ThreadPoolExecutor
) -> None:
    proxy = tcp_proxy(ceph.endpoint_url)
    proxy.bytes_per_s = 1.0 * MIB
    proxy.latency_s = 0.01
    settings = ceph.settings(
        ceph.new_bucket(),
        endpoint_url=f"http://127.0.0.1:{proxy.port}",
        attempt_timeout_s=3.0,
        deadline_s=3.0,
    )
    async with closing(open_storage(settings, executor)) as storage:
        begin = time.monotonic()
        await storage.put("one", bytes(4 * MIB))
        assert time.monotonic() - begin > 3.0, "longer than the limits for a small body"
    settings = replace(settings, deadline_s=60.0)  # for each of the many steps of a read
    async with closing(open_storage(settings, executor)) as storage:
        begin = time.monotonic()
        assert await content(storage, "one") == bytes(4 * MIB)
        assert time.monotonic() - begin > 3.0, "longer than the limit for one step"


async def test_a_store_that_hangs_is_told_in_time_and_forgiven(
    ceph_cluster: Ceph, executor: ThreadPoolExecutor
) -> None:
    server = ceph_cluster.server
    settings = server.settings(server.new_bucket())
    hasty = replace(settings, attempt_timeout_s=2.0, deadline_s=5.0)
    async with (
        closing(open_storage(settings, executor)) as storage,
        closing(open_storage(hasty, executor)) as hasty_storage,
    ):
        await storage.put("one", b"1")
        ceph_cluster.freeze()
        try:
            begin = time.monotonic()
            with pytest.raises(StorageUnavailable, match="no answer within"):
                await hasty_storage.put("two", b"2")
            assert time.monotonic() - begin < 30  # without a deadline: for ever
        finally:
            ceph_cluster.thaw()
        async with asyncio.timeout(120):
            while True:
                try:
                    await hasty_storage.put("three", b"3")
                    break
                except StorageUnavailable:
                    continue
                except ObjectExists:
                    break
        assert await content(storage, "three") == b"3"
