"""From a URL to a store."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from walkeeper.errors import ConfigError
from walkeeper.storage.observe import StorageCounters
from walkeeper.storage.open import Secret, StorageSettings, open_storage


async def test_a_directory_is_opened_with_everything_around_it(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    folder = tmp_path / "with blank"
    folder.mkdir()
    counters = StorageCounters()
    storage = open_storage(StorageSettings(url=folder.as_uri()), executor, counters)
    await storage.put("a/b", b"content")
    assert (folder / "a" / "b").read_bytes() == b"content"
    assert storage.url == folder.as_uri()
    assert counters.statistics().requests == {"put": 1}


async def test_a_bucket_is_named_by_its_url(executor: ThreadPoolExecutor) -> None:
    for url in ("s3://bucket", "s3://bucket/prefix", "s3://bucket/a/b/"):
        storage = open_storage(StorageSettings(url=url), executor)
        assert storage.url == url.rstrip("/")
        await storage.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "path",
        "ftp://host/path",
        "file://host/path",
        "file:path",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/prefix",
        "s3://bucket/../other",
        "s3://bucket/a b",
        "s3://bucket?region=x",
        "s3://bucket:99999/x",
        "s3://[::1/x",
    ],
)
def test_an_impossible_url_is_a_configuration_error(url: str, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(ConfigError) as caught:
        open_storage(StorageSettings(url=url), executor)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint_url": "localhost:9000"},
        {"endpoint_url": "ftp://localhost"},
        {"endpoint_url": "https://key:secret@localhost"},
        {"endpoint_url": "https://"},
        {"access_key_id": "only"},
        {"secret_access_key": Secret("only")},
        {"piece_size_bytes": 1024},
        {"max_concurrent": 0},
        {"ca_file": Path("/nonexistent/ca.pem")},
    ],
    ids=str,
)
def test_settings_that_contradict_themselves_are_refused(
    settings: dict[str, Any], executor: ThreadPoolExecutor
) -> None:
    with pytest.raises(ConfigError):
        open_storage(StorageSettings(url="s3://bucket", **settings), executor)


def test_a_secret_does_not_show() -> None:
    secret = Secret("planted-secret")
    settings = StorageSettings(
        url="s3://b", access_key_id="id", secret_access_key=secret, session_token=secret
    )
    assert secret.reveal() == "planted-secret"
    for text in (repr(settings), str(settings), f"{secret}", f"{secret!r}", str([secret])):
        assert "planted" not in text
    assert secret == Secret("planted-secret")
    assert secret != Secret("another")


def test_who_keeps_files_does_not_import_the_aws_library() -> None:
    program = (
        "import sys; from walkeeper.storage.open import *; "
        "open_storage(StorageSettings(url='file:///tmp'), None); "
        "sys.exit(any(name.split('.')[0] in {'aiobotocore', 'botocore', 'aiohttp'} "
        "for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
