"""From a URL to a store with everything around it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from walkeeper.errors import ConfigError
from walkeeper.storage.base import Storage, is_valid_name
from walkeeper.storage.limit import LimitedStorage
from walkeeper.storage.observe import ObservedStorage, StorageCounters
from walkeeper.storage.retry import Retrier, RetryingStorage, RetryPolicy
from walkeeper.storage.settings import MIB, Secret, StorageSettings

__all__ = ["Secret", "StorageSettings", "open_storage"]

_SMALLEST_PIECE_BYTES: Final = 5 * MIB  # AWS S3, "Amazon S3 multipart upload limits"


def open_storage(
    settings: StorageSettings,
    executor: ThreadPoolExecutor,
    counters: StorageCounters | None = None,
) -> Storage:
    """The store of ``settings``, which counts in ``counters``, retries, and bounds concurrency.

    Nothing is connected yet. ``executor`` does file work and digests and stays the caller's. Raises
    `ConfigError`, without any secret in its message.
    """
    _check(settings)
    policy = RetryPolicy(
        attempt_timeout_s=settings.attempt_timeout_s, deadline_s=settings.deadline_s
    )
    counters = counters or StorageCounters()
    retrier = Retrier(policy, on_retry=counters.note_retry)
    backend = _backend(settings, executor, retrier)
    observed = ObservedStorage(backend, counters)
    return LimitedStorage(RetryingStorage(observed, retrier), settings.max_concurrent)


def _backend(settings: StorageSettings, executor: ThreadPoolExecutor, retrier: Retrier) -> Storage:
    parts = _split(settings.url)
    if parts.scheme == "file":
        return _filesystem(parts, executor)
    if parts.scheme == "s3":
        _check_s3_url(parts)
        # Half of all start-up time: not for those who keep files.
        from walkeeper.storage.s3 import S3Storage

        return S3Storage(settings, executor, retrier)
    raise ConfigError(
        f"unknown kind of repository: {parts.scheme or 'no'} scheme in its url",
        hint="s3://bucket/prefix or file:///path",
    )


def _filesystem(parts: SplitResult, executor: ThreadPoolExecutor) -> Storage:
    from walkeeper.storage.filesystem import FilesystemStorage

    path = Path(unquote(parts.path))
    if parts.netloc not in {"", "localhost"} or not path.is_absolute() or parts.query:
        raise ConfigError("not the url of a directory", hint="file:///absolute/path")
    return FilesystemStorage(path, executor)


def _check_s3_url(parts: SplitResult) -> None:
    prefix = parts.path.strip("/")
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc)
    if not (is_plain and parts.netloc and (not prefix or is_valid_name(prefix))):
        raise ConfigError("not the url of a bucket", hint="s3://bucket or s3://bucket/prefix")


def _check(settings: StorageSettings) -> None:
    if settings.endpoint_url is not None:
        parts = _split(settings.endpoint_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ConfigError("endpoint_url is not of the form https://host[:port]")
    if (settings.access_key_id is None) != (settings.secret_access_key is None):
        raise ConfigError("access_key_id and secret_access_key go together")
    if settings.piece_size_bytes < _SMALLEST_PIECE_BYTES:
        raise ConfigError("piece_size is below 5 MiB, the least that S3 accepts")
    if settings.max_concurrent < 1:
        raise ConfigError("at least one operation at a time is needed")
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise ConfigError(f"ca_file {settings.ca_file} is not a file")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError("malformed url") from None
    return parts
