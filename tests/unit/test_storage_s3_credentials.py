"""When the credentials of a store end: botocore's own chain, fed by environment and programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fix_s3 import S3Server
from walkeeper.errors import ConfigError, StorageDenied
from walkeeper.storage.retry import Retrier, RetryPolicy
from walkeeper.storage.s3 import S3Storage
from walkeeper.storage.s3_credentials import CredentialsEnd, CredentialsWatch
from walkeeper.storage.settings import StorageSettings

SETTINGS = StorageSettings(url="s3://bucket")
SOON = timedelta(seconds=2)


def written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def in_minutes(minutes: float) -> datetime:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).replace(microsecond=0)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts keys into the environment, with the text of their end where there is one."""

    def give(server: S3Server | None = None, *, expiration: str | None = None) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key_id if server else "id")
        secret = server.secret_access_key if server else "secret"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        if expiration is not None:
            monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", expiration)

    return give


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[datetime | None], None]:
    """Decides what a credential process gives out: keys up to a moment, or nothing but an error."""
    given, config = tmp_path / "given", tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = /bin/cat {given}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    def give(ends_at: datetime | None) -> None:
        if ends_at is None:
            given.unlink()
            return
        keys = {"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "s", "SessionToken": "t"}
        given.write_text(json.dumps(keys | {"Expiration": written(ends_at)}))

    return give


async def test_keys_without_a_date_have_no_end(environment: Callable[..., None]) -> None:
    environment()
    assert await CredentialsWatch(SETTINGS).find_end() is None


@pytest.mark.parametrize("minutes", [-90, 5, 90, 60 * 24 * 400])
async def test_keys_of_the_environment_end_when_it_says(
    environment: Callable[..., None], minutes: int
) -> None:
    ends_at = in_minutes(minutes)
    environment(expiration=written(ends_at))
    found = await CredentialsWatch(SETTINGS).find_end()
    assert found is not None
    assert found.from_environment
    assert found.problem is None
    assert abs(found.ends_at - ends_at) <= SOON


async def test_where_nobody_gives_out_credentials_the_end_is_unknown() -> None:
    with pytest.raises(StorageDenied):
        await CredentialsWatch(SETTINGS).find_end()


@pytest.mark.parametrize("text", ["tomorrow-ish", "2100-01-01T00:00:00"])
async def test_a_date_that_cannot_be_used_is_told_before_the_first_request(
    environment: Callable[..., None], text: str, executor: ThreadPoolExecutor
) -> None:
    environment(expiration=text)
    with pytest.raises(ConfigError, match="credentials of the store cannot be used"):
        await CredentialsWatch(SETTINGS).find_end()
    storage = S3Storage(SETTINGS, executor, Retrier(RetryPolicy(deadline_s=10)))
    with pytest.raises(ConfigError, match="credentials of the store cannot be used"):
        await storage.head("one")
    await storage.aclose()


async def test_credentials_that_can_be_renewed_have_no_end(
    answer: Callable[[datetime | None], None],
) -> None:
    answer(in_minutes(5))  # little, as of a program that keeps them until the last moment
    watch = CredentialsWatch(SETTINGS)
    assert await watch.find_end() is None
    answer(in_minutes(60))
    assert await watch.find_end() is None
    answer(None)
    assert await watch.find_end() is None, "there is plenty of time left"


async def test_credentials_that_nobody_renews_any_more_end(
    answer: Callable[[datetime | None], None],
) -> None:
    ends_at = in_minutes(12)
    answer(ends_at)
    watch = CredentialsWatch(SETTINGS)
    assert await watch.find_end() is None
    answer(None)
    found = await watch.find_end()
    assert isinstance(found, CredentialsEnd)
    assert found.source == "custom-process"
    assert not found.from_environment
    assert found.problem is not None
    assert abs(found.ends_at - ends_at) <= SOON
    answer(in_minutes(60))
    assert await watch.find_end() is None, "it works again"


async def test_a_request_with_credentials_that_have_ended_is_refused_and_not_a_fault(
    environment: Callable[..., None], moto: S3Server, executor: ThreadPoolExecutor
) -> None:
    bucket = moto.new_bucket()
    settings = moto.settings(bucket, access_key_id=None, secret_access_key=None)
    environment(moto, expiration=written(in_minutes(5)))
    storage = S3Storage(settings, executor, Retrier(RetryPolicy(deadline_s=10)))
    await storage.put("one", b"1")
    await storage.aclose()
    environment(moto, expiration=written(in_minutes(-5)))
    storage = S3Storage(settings, executor, Retrier(RetryPolicy(deadline_s=10)))
    with pytest.raises(StorageDenied, match="the credentials have expired"):
        await storage.head("one")
    await storage.aclose()
