"""What goes over the wire to S3 stores: how many requests, how addressed, signed and checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.fix_ceph import Ceph
from tests.fix_proxy import HttpFaults, Seen
from tests.fix_s3 import S3Server
from walkeeper.errors import (
    ConfigError,
    ObjectExists,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    WalkeeperError,
)
from walkeeper.storage.base import Capabilities
from walkeeper.storage.retry import Retrier, RetryPolicy
from walkeeper.storage.s3 import S3Storage
from walkeeper.storage.settings import Secret, StorageSettings

MIB = 1024 * 1024

MakeFaults = Callable[[str | None], HttpFaults]


@asynccontextmanager
async def opened(
    settings: StorageSettings, executor: ThreadPoolExecutor
) -> AsyncIterator[S3Storage]:
    storage = S3Storage(settings, executor, Retrier(RetryPolicy(deadline_s=10)))
    try:
        yield storage
    finally:
        await storage.aclose()


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size


async def content(storage: S3Storage, name: str) -> bytes:
    async with storage.read(name) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_each_operation_costs_the_requests_it_says(
    ceph: S3Server, executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    proxy = http_faults(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=proxy.url)
    async with opened(settings, executor) as storage:

        async def cost(work: Any) -> dict[str, int]:
            proxy.forget()
            await work
            return dict(proxy.counts)

        assert await cost(storage.put("segment", bytes(16 * MIB))) == {"PUT": 1}
        assert await cost(storage.put_stream("small", pieces(1000))) == {"PUT": 1}
        assert await cost(content(storage, "segment")) == {"GET": 1}
        assert await cost(storage.head("segment")) == {"HEAD": 1}
        assert await cost(storage.delete("segment")) == {"DELETE": 1}
        assert await cost(storage.folders("")) == {"LIST": 1}
        multipart = {"POST": 2, "PUT": 3, "HEAD": 1}
        assert await cost(storage.put_stream("large", pieces(11 * MIB))) == multipart


async def test_where_creates_are_not_conditional_the_name_is_asked_for_first(
    rclone: S3Server, executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    proxy = http_faults(rclone.endpoint_url)
    settings = rclone.settings(rclone.new_bucket(), endpoint_url=proxy.url)
    async with opened(settings, executor) as storage:
        await storage.put("archive.json", b"{}")
        assert storage.capabilities == Capabilities()
        await storage.probe("archive.json", b"{}")
        assert storage.capabilities == Capabilities(
            conditional_put=False, conditional_multipart=False
        )
        proxy.forget()
        await storage.put("one", b"1")
        kinds = [seen.kind for seen in proxy.requests]
        assert (kinds[0], kinds[-2], kinds[-1]) == ("HEAD", "PUT", "HEAD")
        put = next(seen for seen in proxy.requests if seen.kind == "PUT")
        assert "If-None-Match" not in put.headers
        proxy.forget()
        with pytest.raises(ObjectExists):
            await storage.put("one", b"2")
        assert proxy.counts == {"HEAD": 1}


async def sent_by(storage: S3Storage, proxy: HttpFaults) -> list[Seen]:
    """The three uploads of a small object and of one in two pieces."""
    proxy.forget()
    await storage.put("one", b"content")
    await storage.put_stream("two", pieces(6 * MIB))
    puts = [seen for seen in proxy.requests if seen.kind == "PUT"]
    assert len(puts) == 3
    for put in puts:
        assert ("Expect" in put.headers) == (put.size_bytes >= MIB / 2), "large bodies ask first"
        assert not any("checksum" in name.lower() for name in put.headers)
    assert puts[0].headers["If-None-Match"] == "*"
    return puts


async def probe(storage: S3Storage) -> None:
    await storage.put("archive.json", b"{}")
    await storage.probe("archive.json", b"{}")


def by_md5(puts: list[Seen]) -> bool:
    """Whether bodies go with their MD5, signed; else with a SHA-256, which is signed."""
    for put in puts:
        if "Content-MD5" in put.headers:
            assert put.headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
            assert len(base64.b64decode(put.headers["Content-MD5"])) == 16
            assert "content-md5" in put.headers["Authorization"]
        else:
            assert len(bytes.fromhex(put.headers["X-Amz-Content-SHA256"])) == 32
            assert "x-amz-content-sha256" in put.headers["Authorization"]
    (found,) = {"Content-MD5" in put.headers for put in puts}
    return found


async def test_a_body_is_checked_by_its_md5_until_the_store_has_shown_that_it_checks_sha256(
    ceph: S3Server, executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    proxy = http_faults(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=proxy.url)
    async with opened(settings, executor) as storage:
        puts = await sent_by(storage, proxy)
        completion = [seen for seen in proxy.requests if seen.kind == "POST"][-1]
        assert completion.headers["If-None-Match"] == "*"
        assert by_md5(puts)
        digest = base64.b64encode(hashlib.md5(b"content").digest()).decode()
        assert puts[0].headers["Content-MD5"] == digest
        await probe(storage)
        for name in ("one", "two"):
            await storage.delete(name)
        puts = await sent_by(storage, proxy)
        assert not by_md5(puts)
        assert puts[0].headers["X-Amz-Content-SHA256"] == hashlib.sha256(b"content").hexdigest()


async def test_a_store_that_does_not_compare_sha256_goes_on_to_be_given_md5(
    rclone: S3Server, moto: S3Server, executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    for server in (rclone, moto):
        proxy = http_faults(server.endpoint_url)
        settings = server.settings(server.new_bucket(), endpoint_url=proxy.url)
        async with opened(settings, executor) as storage:
            await probe(storage)
            proxy.forget()
            await storage.put("one", b"content")
            await storage.put_stream("two", pieces(6 * MIB))
        assert by_md5([seen for seen in proxy.requests if seen.kind == "PUT"])


# AWS for a bucket with Object Lock: "Content-MD5 OR x-amz-checksum- HTTP header is required for Put
# Part requests with Object Lock parameters"; perhaps only after it has compared the digest.
@pytest.mark.parametrize(
    "answers",
    [
        [(400, "InvalidRequest")],
        [(400, "XAmzContentSHA256Mismatch"), (400, "InvalidRequest")],
        [(503, "SlowDown")],
    ],
)
async def test_a_store_that_wants_an_md5_or_does_not_say_is_given_one(
    ceph: S3Server,
    executor: ThreadPoolExecutor,
    http_faults: MakeFaults,
    answers: list[tuple[int, str]],
) -> None:
    proxy = http_faults(ceph.endpoint_url)
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=proxy.url)
    async with opened(settings, executor) as storage:
        for status, code in answers:
            proxy.add(kind="PUT", path_contains="partNumber", status=status, code=code)
        await probe(storage)
        assert by_md5(await sent_by(storage, proxy))
        assert storage.capabilities == ceph.enforces


@pytest.mark.parametrize(("kind", "probed"), [("ceph", True), ("ceph", False), ("rclone", True)])
async def test_a_body_that_was_damaged_on_the_way_is_refused_by_the_store(
    request: pytest.FixtureRequest,
    executor: ThreadPoolExecutor,
    http_faults: MakeFaults,
    kind: str,
    probed: bool,
) -> None:
    server: S3Server = request.getfixturevalue(kind)
    proxy = http_faults(server.endpoint_url)
    settings = server.settings(server.new_bucket(), endpoint_url=proxy.url)
    async with opened(settings, executor) as storage:
        if probed:
            await probe(storage)
        proxy.add(kind="PUT", path_contains="one", damage=True)
        with pytest.raises(StorageUnavailable, match=r"BadDigest|XAmzContentSHA256Mismatch"):
            await storage.put("one", b"what was sent")
        with pytest.raises(ObjectNotFound):
            await storage.head("one")
        proxy.forget()
        proxy.add(kind="PUT", path_contains="partNumber", damage=True)
        await storage.put_stream("two", pieces(5 * MIB, 1000))
        assert await content(storage, "two") == bytes(5 * MIB) + b"\1" * 1000
        assert proxy.counts["PUT"] == 3, "the damaged piece was sent again"


async def test_tls_is_verified_against_the_ca_file(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    bucket = ceph.new_bucket()
    settings = ceph.settings(bucket, endpoint_url=ceph.tls_endpoint_url, ca_file=ceph.ca_file)
    async with opened(settings, executor) as storage:
        await storage.put("one", bytes(3 * MIB))
        await storage.put_stream("two", pieces(6 * MIB))
        assert await content(storage, "one") == bytes(3 * MIB)
    async with opened(replace(settings, ca_file=None), executor) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.head("one")
    assert not caught.value.retryable
    assert "ca_file" in (caught.value.hint or "")


async def test_a_bucket_that_ignores_conditions_because_it_is_versioned_is_found_out(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    settings = ceph.settings(ceph.new_bucket(versioned=True))
    async with opened(settings, executor) as storage:
        await storage.put("archive.json", b"{}")
        found = await storage.probe("archive.json", b"{}")
        assert found == Capabilities(conditional_put=False, conditional_multipart=False)
        with pytest.raises(ObjectExists):
            await storage.put("archive.json", b"other")
        assert await content(storage, "archive.json") == b"{}"


async def test_a_probe_leaves_no_upload_behind(
    moto: S3Server, ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    for server in (moto, ceph):
        bucket = server.new_bucket()
        async with opened(server.settings(bucket), executor) as storage:
            await storage.put("archive.json", b"{}")
            await storage.probe("archive.json", b"{}")
        assert server.uploads_under_way(bucket) == []


async def test_a_missing_bucket_is_not_a_missing_object(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    async with opened(ceph.settings("no-such-bucket"), executor) as storage:
        for attempt in (
            storage.head("one"),
            content(storage, "one"),
            storage.sync("one"),
            storage.put("one", b"1"),
            storage.folders(""),
            storage.delete("one"),
        ):
            with pytest.raises(StorageError) as caught:
                await attempt
            assert not isinstance(caught.value, ObjectNotFound)
            assert "NoSuchBucket" in str(caught.value)
            assert "bucket" in (caught.value.hint or "")


async def test_wrong_keys_are_denied_without_showing_them(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    settings = ceph.settings(ceph.new_bucket(), secret_access_key=Secret("planted-secret"))
    async with opened(settings, executor) as storage:
        for attempt in (storage.head("one"), storage.put("one", b"1"), storage.folders("")):
            with pytest.raises(StorageDenied) as caught:
                await attempt
            assert "planted" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


async def test_no_credentials_at_all_are_denied_with_a_hint(
    ceph: S3Server, executor: ThreadPoolExecutor
) -> None:
    settings = ceph.settings("bucket-1", access_key_id=None, secret_access_key=None)
    async with opened(settings, executor) as storage:
        with pytest.raises(StorageDenied) as caught:
            await storage.head("one")
    assert caught.value.hint is not None


async def test_credentials_come_from_the_environment_or_a_profile(
    ceph: S3Server, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    chain = {"access_key_id": None, "secret_access_key": None}
    settings = ceph.settings(ceph.new_bucket(), **chain)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key_id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_access_key)
        async with opened(settings, executor) as storage:
            await storage.put("one", b"1")
    (tmp_path / "credentials").write_text(
        "[backup]\n"
        f"aws_access_key_id = {ceph.access_key_id}\n"
        f"aws_secret_access_key = {ceph.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    async with opened(replace(settings, profile="backup"), executor) as storage:
        assert await content(storage, "one") == b"1"
    async with opened(replace(settings, profile="unknown"), executor) as storage:
        with pytest.raises(ConfigError):
            await storage.head("one")


async def test_a_full_quota_is_full_not_denied(
    ceph_cluster: Ceph, executor: ThreadPoolExecutor
) -> None:
    server = ceph_cluster.server
    bucket = server.new_bucket()
    ceph_cluster.set_quota(bucket, 64 << 10)
    async with opened(server.settings(bucket), executor) as storage:
        with pytest.raises(StorageFull, match="QuotaExceeded"):
            await storage.put("one", bytes(100 << 10))


async def test_the_session_token_is_sent(
    executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    proxy = http_faults(None)
    settings = StorageSettings(
        url="s3://bucket",
        endpoint_url=proxy.url,
        region="eu-central-1",
        access_key_id="key",
        secret_access_key=Secret("secret"),
        session_token=Secret("planted-token"),
    )
    async with opened(settings, executor) as storage:
        with pytest.raises(ObjectNotFound):
            await content(storage, "one")
    (seen,) = proxy.requests
    assert seen.headers["X-Amz-Security-Token"] == "planted-token"
    assert "/eu-central-1/s3/" in seen.headers["Authorization"]
    assert seen.path == "/bucket/one"


@pytest.mark.parametrize(
    ("style", "endpoint", "host", "path"),
    [
        ("virtual", "http://s3.example.test", "bucket.s3.example.test", "/prefix/one"),
        ("path", "http://s3.example.test", "s3.example.test", "/bucket/prefix/one"),
        ("auto", "http://s3.example.test", "s3.example.test", "/bucket/prefix/one"),
        ("virtual", "http://s3.eu-central-1.amazonaws.com", "bucket.s3.", "/prefix/one"),
    ],
)
async def test_the_bucket_is_in_the_host_or_in_the_path(
    executor: ThreadPoolExecutor,
    http_faults: MakeFaults,
    monkeypatch: pytest.MonkeyPatch,
    style: str,
    endpoint: str,
    host: str,
    path: str,
) -> None:
    proxy = http_faults(None)
    monkeypatch.setenv("http_proxy", proxy.url)
    settings = StorageSettings(
        url="s3://bucket/prefix",
        endpoint_url=endpoint,
        addressing_style=style,  # type: ignore[arg-type]
        access_key_id="key",
        secret_access_key=Secret("secret"),
    )
    async with opened(settings, executor) as storage:
        with pytest.raises(ObjectNotFound):
            await content(storage, "one")
    (seen,) = proxy.requests
    assert seen.headers["Host"].startswith(host)
    assert seen.path.endswith(path)
    assert f"/bucket{path}" not in seen.path or not path.startswith("/prefix")


async def test_virtual_hosts_work_with_a_store_that_has_them(
    moto: S3Server,
    executor: ThreadPoolExecutor,
    http_faults: MakeFaults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", http_faults(moto.endpoint_url).url)
    endpoint = "http://s3.amazonaws.com"
    settings = moto.settings(
        moto.new_bucket(), "prefix", endpoint_url=endpoint, addressing_style="virtual"
    )
    async with opened(settings, executor) as storage:
        await storage.put("one", b"content")
        assert await content(storage, "one") == b"content"
        assert [info.name async for info in storage.list_objects("")] == ["one"]


async def test_an_object_in_a_cold_storage_class_is_named_as_frozen(
    executor: ThreadPoolExecutor, http_faults: MakeFaults
) -> None:
    proxy = http_faults(None)
    proxy.add(status=403, code="InvalidObjectState")
    settings = _settings_for(proxy)
    async with opened(settings, executor) as storage:
        with pytest.raises(WalkeeperError) as caught:
            await content(storage, "one")
    assert type(caught.value).__name__ == "ObjectFrozen"
    assert "cold" in (caught.value.hint or "")


class Watch:
    """How long the event loop worked without a pause at most, in its thread's CPU seconds.

    These do not grow on a busy machine, as the time on the wall does.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.thread_time() - before)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_event_loop_stays_free_while_segments_are_written(
    ceph: S3Server, executor: ThreadPoolExecutor, scheme: str
) -> None:
    endpoint = ceph.endpoint_url if scheme == "http" else ceph.tls_endpoint_url
    settings = ceph.settings(ceph.new_bucket(), endpoint_url=endpoint, ca_file=ceph.ca_file)
    segments = [bytes([number]) * (16 * MIB) for number in range(4)]
    async with opened(settings, executor) as storage:
        await storage.put("first", b"")
        watch = Watch()
        watching = asyncio.create_task(watch.run())
        begin_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, segment in enumerate(segments):
                group.create_task(storage.put(str(number), segment))
        elapsed_s = time.monotonic() - begin_s
        watching.cancel()
    print(f"{scheme}: {64 / elapsed_s:.0f} MiB/s, held up {watch.longest_s * 1000:.0f} ms at most")
    assert watch.longest_s < 0.05, "some ms; work on whole segments in the loop takes longer"


def _settings_for(proxy: HttpFaults) -> StorageSettings:
    return StorageSettings(
        url="s3://bucket",
        endpoint_url=proxy.url,
        access_key_id="key",
        secret_access_key=Secret("secret"),
    )
