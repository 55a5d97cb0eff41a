"""Answers for the status page and its documents, from what the observer saw last."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from walkeeper.agent.http import HttpServer
from walkeeper.agent.http_answer import HTML, Answer, Question, json_answer, text_answer
from walkeeper.agent.observer import SAMPLE_S, Observer
from walkeeper.agent.page.problems import ProblemLog
from walkeeper.agent.page.render import PageContent, render_page, script, style
from walkeeper.agent.page.restoring import show_moment
from walkeeper.agent.page.view import View, parse_view
from walkeeper.errors import UsageError
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.clocks import Clocks, read_clocks
from walkeeper.services.look import Look
from walkeeper.services.moment import CommandWords, plan_moment
from walkeeper.services.time_axis import TimeAxis, find_edge, lay_out

_TARGET_DIR: Final = PurePosixPath("/var/lib/postgresql/restored")


class StatusPage:
    """The page at ``/``, and what it shows as documents; ``run`` remembers what was wrong.

    ``program`` are the words with which ``walkeeper`` is called on this host. Nobody waits here
    for the store or the server.
    """

    def __init__(
        self,
        observer: Observer,
        pool: ThreadPoolExecutor,
        program: tuple[str, ...],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._observer = observer
        self._pool = pool
        self._program = program
        self._now = now
        self._problems = ProblemLog()
        self._clocks: tuple[Look, Clocks] | None = None  # of the look they were read from

    def register(self, http: HttpServer) -> None:
        """Give the server its paths."""
        http.register("/", self._page)
        http.register("/moment", self._moment)
        http.register("/api/v1/timeline", self._timeline)
        http.register("/api/v1/plan", self._plan)

    async def run(self) -> None:
        """Note what is wrong, until cancelled."""
        while True:
            self._problems.note(self._observer.findings(), self._now())
            await asyncio.sleep(SAMPLE_S)

    async def _page(self, question: Question) -> Answer:
        complaint = None
        try:
            view = parse_view(question.query)
        except UsageError as error:
            view, complaint = View(), error.message
        now, agent = self._now(), self._observer.agent()
        findings = self._observer.findings()
        self._problems.note(findings, now)
        content = PageContent(
            now=now,
            agent=agent,
            axis=await self._axis(agent, now),
            proven=self._observer.last_good.drills.last_proven,
            findings=findings,
            notices=self._observer.report().notices,
            problems=self._problems.newest_first,
            samples=tuple(self._observer.samples),
            words=self._words(view, agent),
            complaint=complaint,
        )
        loop = asyncio.get_running_loop()
        page = await loop.run_in_executor(self._pool, render_page, content, view)
        return _html(page, 200 if complaint is None else 400)

    async def _moment(self, question: Question) -> Answer:
        """The panel of one moment alone, for the page's script."""
        try:
            view = parse_view(question.query)
        except UsageError as error:
            return text_answer(error.message, 400)
        now, agent = self._now(), self._observer.agent()
        axis = await self._axis(agent, now)
        if axis is None:
            return text_answer("the repository has not been read yet", 503)
        words = self._words(view, agent)
        found = plan_moment(axis, view.at or now, words, view.timeline)
        return _html(show_moment(found, view, axis))

    async def _timeline(self, _: Question) -> Answer:
        axis = await self._axis(self._observer.agent(), self._now())
        return _not_yet() if axis is None else json_answer(axis.chart())

    async def _plan(self, question: Question) -> Answer:
        try:
            view = parse_view(question.query)
        except UsageError as error:
            return json_answer({"error": error.message}, 400)
        if view.at is None:
            return json_answer({"error": "which moment? time=2026-11-20T10:15:00Z"}, 400)
        agent = self._observer.agent()
        axis = await self._axis(agent, self._now())
        if axis is None:
            return _not_yet()
        return json_answer(plan_moment(axis, view.at, self._words(view, agent), view.timeline))

    async def _axis(self, agent: AgentStatus, now: datetime) -> TimeAxis | None:
        """The axis of the last look that succeeded."""
        look = self._observer.last_good
        if look.health is None or look.at is None:
            return None
        if self._clocks is None or self._clocks[0] is not look:
            loop = asyncio.get_running_loop()
            clocks = await loop.run_in_executor(self._pool, read_clocks, look.health)
            self._clocks = look, clocks
        return lay_out(
            look.health,
            self._clocks[1],
            look.drills.recent,
            find_edge(agent, now),
            looked_at=look.at,
            now=now,
        )

    def _words(self, view: View, agent: AgentStatus) -> CommandWords:
        """The command's words, with a place beside the data directory where none is given."""
        own = agent.source.data_directory
        proposed = _TARGET_DIR if own is None else PurePosixPath(f"{own}.restored")
        return CommandWords(self._program, view.target_dir or proposed)


def _not_yet() -> Answer:
    return json_answer({"error": "the repository has not been read yet"}, 503)


def _html(text: str, status: int = 200) -> Answer:
    return Answer(text.encode(), HTML, status, policy=page_policy())


def page_policy() -> tuple[str, ...]:
    """What a page needs: its own style and script by their digests, and to ask for itself."""
    return (
        f"style-src '{_digest(style())}'",
        f"script-src '{_digest(script())}'",
        "connect-src 'self'",
        "form-action 'self'",
        "img-src data:",
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
