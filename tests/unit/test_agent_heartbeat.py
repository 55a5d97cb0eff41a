"""The heartbeat, whose silence is the alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from structlog.testing import capture_logs

from tests.fix_sinks import T0, WebSink
from walkeeper.agent.heartbeat import Heartbeat
from walkeeper.storage.settings import Secret


class _Enough(Exception):
    pass


async def beat(
    url: str,
    times: int,
    *,
    is_well: Callable[[], bool] = lambda: True,
    between: Callable[[int], None] = lambda _: None,
    deadline_s: float = 60,
) -> Heartbeat:
    """Run for so many intervals of a minute; ``between`` gets the number of each pause."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        between(len(pauses))
        if len(pauses) == times:
            raise _Enough

    heartbeat = Heartbeat(
        Secret(url), 60, is_well, deadline_s=deadline_s, now=lambda: T0, sleep=sleep
    )
    with suppress(_Enough):
        await heartbeat.run()
    assert pauses == [60] * times
    return heartbeat


async def test_it_asks_at_each_interval(web_sink: WebSink) -> None:
    heartbeat = await beat(web_sink.url("/ping"), 3)
    assert [(one.method, one.path) for one in web_sink.received] == [("GET", "/ping")] * 3
    assert (heartbeat.sent, heartbeat.failed, heartbeat.last_ok_at) == (3, 0, T0)


async def test_it_is_silent_while_not_all_is_well(web_sink: WebSink) -> None:
    answers = iter([True, False, False, True])
    heartbeat = await beat(web_sink.url(), 4, is_well=lambda: next(answers))
    assert len(web_sink.received) == heartbeat.sent == 2
    assert heartbeat.failed == 0


async def test_failures_are_logged_when_they_begin_and_end_without_the_address(
    web_sink: WebSink,
) -> None:
    def change(pause: int) -> None:
        web_sink.status = {1: 200, 2: 500, 3: 500, 4: 500}.get(pause, 200)

    with capture_logs() as logs:
        heartbeat = await beat(web_sink.url("/secret-path"), 6, between=change)
    assert [line["event"] for line in logs] == ["heartbeat_not_heard", "heartbeat_heard_again"]
    assert logs[0]["reason"].endswith("answered 500 Internal Server Error")
    assert "secret-path" not in str(logs)
    assert (heartbeat.sent, heartbeat.failed) == (3, 3)


async def test_a_beat_that_is_lost_is_no_trouble_and_two_are_until_one_is_heard(
    web_sink: WebSink,
) -> None:
    web_sink.status = 500
    assert (await beat(web_sink.url(), 1)).status.problem is None
    status = (await beat(web_sink.url("/secret-path"), 2)).status
    assert status.problem is not None
    assert status.problem.endswith("answered 500 Internal Server Error")
    assert (status.name, status.told, status.failed) == ("heartbeat", 0, 2)

    def mend(pause: int) -> None:
        web_sink.status = 200 if pause == 2 else 500

    assert (await beat(web_sink.url(), 3, between=mend)).status.problem is None


async def test_a_server_that_hangs_is_a_failure_and_the_next_try_comes(web_sink: WebSink) -> None:
    web_sink.hangs = True
    heartbeat = await beat(web_sink.url(), 2, deadline_s=0.5)
    assert (heartbeat.sent, heartbeat.failed, heartbeat.last_ok_at) == (0, 2, None)


async def test_it_ends_when_it_is_cancelled_in_the_middle(web_sink: WebSink) -> None:
    web_sink.hangs = True
    heartbeat = Heartbeat(Secret(web_sink.url()), 60, lambda: True, deadline_s=600)
    task = asyncio.create_task(heartbeat.run())
    async with asyncio.timeout(60):
        while not web_sink.received:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
