"""When the certificates of a repository end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fix_sinks import Certificate, WebSink
from walkeeper.agent.certificates import find_expiring
from walkeeper.config import RepositoryConfig
from walkeeper.services.access import Expiring

Find = Callable[[RepositoryConfig], tuple[Expiring, ...] | None]


@pytest.fixture
def find(sink_pool: ThreadPoolExecutor) -> Find:
    return lambda repository: asyncio.run(find_expiring(repository, sink_pool))


def test_the_file_of_authorities_and_the_certificate_that_is_shown_are_known(
    find: Find,
    certificate: Certificate,
    make_web_sink: Callable[[ssl.SSLContext | None], WebSink],
) -> None:
    address = make_web_sink(certificate.context).address
    repository = RepositoryConfig(
        url="s3://b", endpoint_url=f"https://{address}", ca_file=certificate.path
    )
    found = find(repository)
    assert found is not None
    assert [one.name for one in found] == ["ca_file", "endpoint"]
    assert {one.ends_at for one in found} == {found[0].ends_at}
    assert timedelta() < found[0].ends_at - datetime.now(UTC) <= timedelta(days=1)


def test_what_cannot_be_asked_is_unknown(find: Find, certificate: Certificate) -> None:
    gone = RepositoryConfig(
        url="s3://b", endpoint_url="https://127.0.0.1:1", ca_file=certificate.path
    )
    assert find(gone) is None
    assert find(RepositoryConfig(url="s3://b", ca_file=Path("/nowhere/ca.pem"))) is None


def test_a_certificate_that_is_not_trusted_is_unknown(
    find: Find,
    certificate: Certificate,
    other_certificate: Certificate,
    make_web_sink: Callable[[ssl.SSLContext | None], WebSink],
) -> None:
    address = make_web_sink(certificate.context).address
    repository = RepositoryConfig(
        url="s3://b", endpoint_url=f"https://{address}", ca_file=other_certificate.path
    )
    assert find(repository) is None


def test_a_repository_without_tls_has_nothing_that_ends(find: Find) -> None:
    assert find(RepositoryConfig(url="file:///r")) == ()
    assert find(RepositoryConfig(url="s3://b", endpoint_url="http://127.0.0.1:1")) == ()
