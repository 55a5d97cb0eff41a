"""One request to an address that is a secret: for webhooks and the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from walkeeper import __version__
from walkeeper.errors import NotifyError
from walkeeper.storage.settings import Secret

_HEADERS: Final = {"User-Agent": f"walkeeper/{__version__}"}


def show_address(url: str) -> str:
    """The part of an address that may be shown: ``https://host:port``. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("there is no host in the address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port is not None else "")


async def request(
    method: str,
    url: Secret,
    *,
    deadline_s: float,
    body: bytes | None = None,
    content_type: str | None = None,
) -> None:
    """Ask, and raise `NotifyError` unless the answer is 2xx and comes within ``deadline_s``.

    Redirects are not followed: they would carry what is sent to another host. Certificates are
    verified; proxies are those of the environment. No message shows more than scheme and host.
    """
    import aiohttp  # it takes memory, and most agents have none of this

    address = _shown(url)
    headers = _HEADERS if content_type is None else {**_HEADERS, "Content-Type": content_type}
    with _translated(address, deadline_s):
        async with (
            asyncio.timeout(deadline_s),
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout()) as session,
            session.request(
                method,
                url.reveal(),
                data=body,
                allow_redirects=False,
                proxy=_find_proxy(url.reveal()),
            ) as response,
        ):
            status = response.status
    if 300 <= status < 400:
        raise NotifyError(
            f"{address} answered {_words(status)}, which is not followed",
            hint="configure the address where it leads",
        )
    if not 200 <= status < 300:
        raise NotifyError(f"{address} answered {_words(status)}")


def _shown(url: Secret) -> str:
    try:
        return show_address(url.reveal())
    except ValueError:  # its text may show what was not understood
        raise NotifyError("the configured address cannot be understood") from None


@contextmanager
def _translated(address: str, deadline_s: float) -> Iterator[None]:
    """What aiohttp raises, without the address that its texts hold."""
    import aiohttp

    try:
        yield
    except TimeoutError:
        raise NotifyError(f"{address} did not answer within {deadline_s:g} s") from None
    except aiohttp.InvalidURL:
        raise NotifyError("the configured address cannot be understood") from None
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
        raise NotifyError(
            f"{address} has a certificate that is not trusted, or speaks no TLS"
        ) from None
    except aiohttp.ClientConnectorDNSError:
        raise NotifyError(f"{address}: the name of the host is not known") from None
    except aiohttp.ClientOSError as error:
        why = error.strerror or "no connection"
        raise NotifyError(f"{address} cannot be reached: {why}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NotifyError(f"{address} gave no answer: {type(error).__name__}") from None


def _find_proxy(url: str) -> str | None:
    """The proxy of the environment (``https_proxy``, ``no_proxy``) as urllib understands it."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
