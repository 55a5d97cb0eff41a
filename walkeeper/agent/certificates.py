"""When the certificates end that the repository depends on.

What can be known without asking anybody for rights: the authorities in ``ca_file``, and what an
``endpoint_url`` with https shows. A public cloud renews its own certificates: nothing is said of
these.
"""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from walkeeper.config import RepositoryConfig
from walkeeper.services.access import Expiring

_DEADLINE_S: Final = 20.0
_HTTPS: Final = 443


async def find_expiring(
    repository: RepositoryConfig, pool: ThreadPoolExecutor
) -> tuple[Expiring, ...] | None:
    """What is known now; None where something was there and could not be asked."""
    found: list[Expiring] = []
    loop = asyncio.get_running_loop()
    try:
        if repository.ca_file is not None:
            found.append(await loop.run_in_executor(pool, _of_file, repository.ca_file))
        if repository.endpoint_url is not None:
            async with asyncio.timeout(_DEADLINE_S):
                found += await _of_endpoint(repository.endpoint_url, repository.ca_file, pool)
    except (OSError, ValueError, TimeoutError):  # the look at the repository tells of the reason
        return None
    return tuple(found)


def _of_file(path: Path) -> Expiring:
    """The authority that ends last: an old one beside its successor is of no account."""
    certificates = x509.load_pem_x509_certificates(path.read_bytes())
    ends_at = max(one.not_valid_after_utc for one in certificates)
    return Expiring("ca_file", f"the last authority in {path}", ends_at)


async def _of_endpoint(
    url: str, ca_file: Path | None, pool: ThreadPoolExecutor
) -> tuple[Expiring, ...]:
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        return ()
    loop = asyncio.get_running_loop()
    context = await loop.run_in_executor(pool, lambda: ssl.create_default_context(cafile=ca_file))
    _, writer = await asyncio.open_connection(
        parts.hostname, parts.port or _HTTPS, ssl=context, server_hostname=parts.hostname
    )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert()
    finally:
        writer.transport.abort()  # nothing was asked, so there is nothing to wait for
    ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
    what = f"the certificate of the store at {parts.hostname}"
    return (Expiring("endpoint", what, ends_at),)
