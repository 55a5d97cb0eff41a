"""The HTTP port as aiohttp serves it; imported only where the port is on, for it takes memory."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from walkeeper.agent.http_answer import Answer, Question, text_answer

MOST_CONNECTIONS: Final = 32
_LONGEST_CONNECTION_S: Final = 30.0
_REQUEST_PATIENCE_S: Final = 10.0
_DRAIN_S: Final = 5.0
_LONGEST_LINE: Final = 4096
_MOST_HEADERS: Final = 64

Respond = Callable[[str, Question, list[str], str | None], Awaitable[Answer]]
"""Answers a method and its question, given the Host and Authorization headers; never raises."""

_quiet = logging.getLogger("walkeeper.http.protocol")
_quiet.setLevel(logging.CRITICAL)  # what strangers send is no news


class Doors(web.Server):
    """Serves one listening socket: one request to a connection, so many connections at most.

    A connection ends after half a minute whatever happens on it.
    """

    def __init__(self, respond: Respond) -> None:
        super().__init__(
            self._handle,
            access_log=None,
            logger=_quiet,
            keepalive_timeout=_REQUEST_PATIENCE_S,
            lingering_time=0.0,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            max_headers=_MOST_HEADERS,
        )
        self._respond = respond
        self._ends: dict[RequestHandler, asyncio.TimerHandle] = {}

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serve until ``stop``; then what is being answered may end. Owns the listener."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self, sock=listener, backlog=MOST_CONNECTIONS)
        try:
            await stop.wait()
        finally:
            server.close()
            self.pre_shutdown()
            await self.shutdown(_DRAIN_S)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, or end it where there are enough."""
        super().connection_made(handler, transport)
        if len(self._ends) >= MOST_CONNECTIONS:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._ends[handler] = loop.call_later(_LONGEST_CONNECTION_S, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        end = self._ends.pop(handler, None)
        if end is not None:
            end.cancel()
        super().connection_lost(handler, exc)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if _comes_from_elsewhere(request):
            answer = text_answer("this is not for other sites' pages", 403)
        else:
            query = {name: request.query.getall(name)[0] for name in request.query}
            answer = await self._respond(
                request.method,
                Question(request.path, query),
                request.headers.getall("Host", []),
                request.headers.get("Authorization"),
            )
        response = web.Response(
            body=answer.body, status=answer.status, headers=answer.all_headers()
        )
        response.force_close()
        return response


def _comes_from_elsewhere(request: web.BaseRequest) -> bool:
    """Whether another site's page asks, in the browser of somebody who may (W3C, "Fetch Metadata
    Request Headers"): it could not read the answer, but have the agent work for it. A link to the
    page may be followed."""
    headers = request.headers
    if headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}:
        return False
    follows = headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")
    return follows != ("navigate", "document")
