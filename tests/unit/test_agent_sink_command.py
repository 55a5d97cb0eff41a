"""Alerts to a program."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.fix_postgres import wait_until
from tests.fix_sinks import ORIGIN, make_notice
from walkeeper.agent.sink_command import CommandSink
from walkeeper.errors import NotifyError

HELD_FOR_S = "300"


def shell(script: str, timeout_s: float = 60) -> CommandSink:
    return CommandSink(argv=("/bin/sh", "-c", script), timeout_s=timeout_s)


async def refusal(sink: CommandSink, summary: str = "x") -> str:
    with pytest.raises(NotifyError) as caught:
        await sink.tell(make_notice(summary=summary), ORIGIN)
    return caught.value.message


def is_alive(pid: int) -> bool:
    """Whether it runs; who has ended and is not reaped by its new parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def test_a_program_gets_json_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "not for programs")
    await shell(f"cat > {tmp_path}/in; env > {tmp_path}/env").tell(make_notice(), ORIGIN)
    document = json.loads((tmp_path / "in").read_text())
    variables = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert document["summary"] == "RPO is 22 min, target 15 min"
    assert variables["WALKEEPER_ALERT_SEVERITY"] == "critical"
    assert variables["WALKEEPER_ALERT_TEXT"] == document["text"]
    assert "PGPASSWORD" not in variables


async def test_a_program_need_not_read_its_input() -> None:
    await shell("exec <&-; exit 0").tell(make_notice(summary="x" * 50_000), ORIGIN)


async def test_a_failure_comes_with_the_end_of_what_was_printed() -> None:
    message = await refusal(shell("seq 1 100000; echo no such number >&2; exit 7"))
    assert message.startswith("/bin/sh failed with exit code 7: ")
    assert message.endswith("no such number")
    assert len(message) < 400


async def test_a_signal_is_a_failure() -> None:
    assert "signal 9" in await refusal(shell("kill -9 $$"))


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    sink = CommandSink(argv=("/nonexistent/page-me",), timeout_s=60)
    assert await refusal(sink) == (
        "/nonexistent/page-me cannot be started: No such file or directory"
    )


async def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    script = f"sleep {HELD_FOR_S} & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/new;"
    script += f"mv {tmp_path}/new {tmp_path}/own; wait"
    for timeout_s in (5, 60):  # the second for a host that is too busy to start it in the first
        message = await refusal(shell(script, timeout_s=timeout_s))
        assert message == f"/bin/sh took longer than {timeout_s} s and was killed"
        if (tmp_path / "own").exists():
            break
    for name in ("child", "own"):
        pid = int((tmp_path / name).read_text())
        wait_until(lambda pid=pid: not is_alive(pid), f"the {name} process to end", 60)


async def test_a_child_that_keeps_the_output_open_does_not_hold_the_alert(tmp_path: Path) -> None:
    await shell(f"sleep {HELD_FOR_S} & echo $! > {tmp_path}/child").tell(make_notice(), ORIGIN)
    child = int((tmp_path / "child").read_text())
    assert is_alive(child), "what a program leaves behind on purpose is its own affair"
    os.kill(child, 9)


async def test_a_cancelled_alert_takes_its_program_along(tmp_path: Path) -> None:
    sink = shell(f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/own; sleep {HELD_FOR_S}")
    task = asyncio.create_task(sink.tell(make_notice(), ORIGIN))
    async with asyncio.timeout(60):
        while not (tmp_path / "own").exists():
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int((tmp_path / "own").read_text())
    wait_until(lambda: not is_alive(pid), "the program to end", 60)


async def test_no_secret_is_passed_on_or_shown(tmp_path: Path, canary: str) -> None:
    script = f"cat > {tmp_path}/in; env > {tmp_path}/env; echo it was {canary}; exit 1"
    message = await refusal(shell(script), summary=f"no {canary}")
    assert "it was [redacted]" in message
    assert canary not in (tmp_path / "in").read_text() + (tmp_path / "env").read_text() + message
