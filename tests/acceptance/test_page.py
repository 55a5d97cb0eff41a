"""The status page on a live agent with a past: what it shows is so, and its commands do it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fix_browser import DESKTOP, PHONE, Tab
from tests.fix_cli import Installation
from tests.fix_http import ask, http_address
from tests.fix_postgres import BARE_ENVIRONMENT, Cluster, wait_until
from tests.fix_restore import RestoreBed, rows
from tests.unit.test_agent_page import PAST, content
from walkeeper.agent.http import HttpServer
from walkeeper.agent.http_answer import HTML, Answer, Question
from walkeeper.agent.http_entry import Entry
from walkeeper.agent.page.render import render_page
from walkeeper.agent.page.routes import page_policy
from walkeeper.agent.page.view import View
from walkeeper.config_values import Listen

LABEL = "<img src=x onerror=document.title='owned'>"


@dataclass
class Story:
    """Timeline 1 with rows 1 to 3; from after row 2 timeline 2 with row 10, a gap, and row 11."""

    bed: RestoreBed
    moments: dict[int, datetime] = field(default_factory=dict)
    lost: str = ""

    @property
    def installation(self) -> Installation:
        return self.bed.installation

    @property
    def address(self) -> str:
        return f"http://{http_address(self.installation)}"

    def document(self, path: str) -> dict[str, Any]:
        return ask(http_address(self.installation), path).json()

    def write(self, primary: Cluster, row: int) -> None:
        """Commit a row, note a moment after it, then archive; moments keep their distance."""
        primary.sql(f"INSERT INTO t VALUES ({row})")
        time.sleep(1.5)
        said = primary.value(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USOF')"
        )
        self.moments[row] = datetime.fromisoformat(said.replace("+00", "+00:00"))
        time.sleep(1.5)
        self.installation.archive_now()

    def lose(self) -> None:
        """A segment of timeline 2 goes away, with WAL behind it."""
        name = self.installation.archive_now()
        for _ in range(2):
            self.installation.archive_now()
        (stored,) = self.installation.archive_dir.glob(f"wal/*/*/{name}.zst.age")
        stored.unlink()
        self.lost = name


@pytest.fixture
def story(watched: Installation, make_bed: Callable[..., RestoreBed]) -> Story:
    """Two timelines, three backups, a gap and two drills, seen by a running agent."""
    told = Story(make_bed(watched))
    source = watched.cluster
    source.sql("CREATE TABLE t (n int)")
    watched.run("backup")
    for row in (1, 2, 3):
        told.write(source, row)
    watched.run("drill")
    source.stop()
    watched.stop_agent()
    target = told.moments[2].isoformat()
    told.bed.restore("heir", "--target-time", target, "--resume-archiving")
    heir = told.bed.started("heir")
    assert rows(heir) == [1, 2]
    watched.cluster = heir
    watched.configure()
    watched.start_agent()
    watched.wait_recognised()
    watched.run("backup")
    told.write(heir, 10)
    told.lose()
    watched.run("backup", "--label", LABEL)
    told.write(heir, 11)
    watched.run("drill")
    wait_until(
        lambda: (
            len(told.document("/api/v1/timeline").get("drills", ())) == 2
            and len(told.document("/api/v1/timeline")["backups"]) == 3
            and told.document("/api/v1/timeline")["gaps"]
        ),
        f"the agent to have seen all of it:\n{watched.agent_log[-3000:]}",
        60,
    )
    return told


async def choose(tab: Tab, at: datetime, timeline: int, *, finger: bool = False) -> str:
    """Point at a moment on a timeline's bar; the moment that the page takes it for."""
    before, *place = await tab.look(
        f"""(() => {{
            const axis = document.getElementById("axis");
            axis.scrollIntoView({{block: "center"}});
            const box = axis.getBoundingClientRect();
            const lane = document.querySelector('.lane[data-timeline="{timeline}"]');
            const part = ({at.timestamp() * 1000} - axis.dataset.begin)
                / (axis.dataset.end - axis.dataset.begin);
            return [
                location.search, box.left + part * box.width, box.top + +lane.dataset.top + 40
            ];
        }})()"""
    )
    await (tab.touch(*place) if finger else tab.point(*place))
    # The page goes on by itself meanwhile: its panel may change before the click and after it.
    taken: str = await tab.wait_for(
        f"""(() => {{
            const asked = new URLSearchParams(location.search).get("time");
            const shown = document.getElementById("moment").dataset.time;
            const answered = Date.parse(asked) === Date.parse(shown);
            return location.search !== {json.dumps(before)} && answered ? shown : "";
        }})()"""
    )
    return taken


async def keep_picture(tab: Tab, name: str) -> None:
    """For somebody's eyes, where $WALKEEPER_TEST_PICTURES names a directory."""
    kept = os.environ.get("WALKEEPER_TEST_PICTURES")
    if kept is not None:
        await tab.picture(Path(kept) / f"page-{name}.png")


def run_as_copied(story: Story, command: str, *more: str) -> None:
    """Run a command exactly as it stands on the page, as somebody at a shell does."""
    argv = ["sh", "-c", " ".join([command, *more])]
    story.installation.workspace.run(argv, env=BARE_ENVIRONMENT, timeout=120)


def expected_rows(story: Story, timeline: int, at: datetime) -> list[int]:
    """What had been committed by a moment near one of those that were noted.

    These lie a second and a half from each commit, and a pixel of the axis is far less.
    """
    known = [row for row, moment in story.moments.items() if moment <= at + timedelta(seconds=1)]
    return [row for row in known if (row < 10 if timeline == 1 else row != 3)]


@pytest.mark.slow
async def test_the_command_that_the_page_shows_for_a_moment_restores_that_moment(
    story: Story, tab: Tab
) -> None:
    await tab.show_as(DESKTOP)
    await tab.open(story.address)
    for case, (row, timeline, finger) in enumerate([(1, 1, False), (3, 1, False), (10, 2, True)]):
        taken = datetime.fromisoformat(
            await choose(tab, story.moments[row], timeline, finger=finger)
        )
        assert "can be restored" in await tab.text("#moment h3")
        place = story.installation.root / f"copy{case}"
        await tab.look(f"document.getElementById('dir').value = '{place}'")
        await tab.look("document.getElementById('choose').requestSubmit()")
        await tab.wait_for(
            f"document.getElementById('moment-command')?.innerText.includes('{place}')"
        )
        command = await tab.text("#moment-command")
        run_as_copied(story, command)
        copy = story.bed.started(place.name)
        assert rows(copy) == expected_rows(story, timeline, taken), command
        copy.stop()
    await check_gap(story, tab)
    await keep_picture(tab, "chosen")
    assert tab.complaints == []


async def check_gap(story: Story, tab: Tab) -> None:
    """A moment in it has no command, but names two moments beside it that have one."""
    (gap,) = story.document("/api/v1/timeline")["gaps"]
    assert gap["missing"] == [story.lost]
    begin, end = (datetime.fromisoformat(gap[edge]) for edge in ("begin_at", "end_at"))
    await tab.open(story.address)
    await choose(tab, begin + (end - begin) / 2, gap["timeline"])
    assert "cannot be restored" in await tab.text("#moment h3")
    assert story.lost in await tab.text("#moment")
    assert await tab.look("document.querySelectorAll('#moment-command').length") == 0
    found = await tab.look("[...document.querySelectorAll('#moment a')].map((one) => one.href)")
    assert len(found) == 2
    for address in found:
        await tab.open(address)
        assert "can be restored" in await tab.text("#moment h3")
        run_as_copied(story, await tab.text("#moment-command"), "--plan")


@pytest.mark.slow
async def test_everybody_can_use_the_page_without_scripts_too(
    story: Story, tab: Tab, axe: str
) -> None:
    await check_facts(story, tab)
    await check_access(story, tab, axe)
    await check_keys(tab)
    await check_manners(story, tab)


async def check_facts(story: Story, tab: Tab) -> None:
    """Every fact and every command is there with scripting off."""
    await tab.show_as(PHONE, scripts=False)
    await tab.open(story.address)
    page = await tab.look("document.body.textContent")
    chart = story.document("/api/v1/timeline")
    said = [one["id"] for one in chart["backups"]] + [story.lost, "RPO", LABEL]
    assert [one for one in said if one not in page] == []
    assert await tab.look("document.querySelectorAll('.drill.proven').length") == 3  # and the key
    query = f"?time={story.moments[10].isoformat().replace('+', '%2B')}&timeline=2"
    await tab.open(f"{story.address}/{query}")
    chosen = await tab.text("#moment-command")
    commands = await tab.look(  # before any is run: without scripts the page loads itself anew
        "[...document.querySelectorAll('#suggested td code')].map((one) => one.textContent)"
    )
    assert len(commands) >= 5
    for command in [chosen, *commands]:
        run_as_copied(story, command, "--plan")


async def check_access(story: Story, tab: Tab, axe: str) -> None:
    """Nothing serious in light and dark, on a desktop and a phone, and no scrolling sideways."""
    for scheme in ("light", "dark"):
        for size in (DESKTOP, PHONE):
            await tab.show_as(size, scheme=scheme)
            await tab.open(story.address)
            await keep_picture(tab, f"{scheme}-{size[0]}")
            await tab.look("document.querySelectorAll('details').forEach((one) => one.open = true)")
            assert await tab.look("document.documentElement.scrollWidth") <= size[0]
            assert await tab.judge(axe) == []


async def check_keys(tab: Tab) -> None:
    """Moments can be chosen without pointing."""
    await tab.look("document.getElementById('axis').focus()")
    before = await tab.look("document.getElementById('moment').dataset.time")
    for _ in range(3):
        await tab.press("ArrowLeft")
    await tab.wait_for(f"document.getElementById('moment').dataset.time < '{before}'")


async def check_manners(story: Story, tab: Tab) -> None:
    """What the archive says is text, and nobody else is asked."""
    assert await tab.look("document.title") != "owned"
    assert await tab.look("document.querySelectorAll('img').length") == 0
    assert {one for one in tab.requests if not one.startswith((story.address, "data:"))} == set()
    assert tab.complaints == []


@pytest.mark.slow
async def test_an_open_page_shows_what_happens_by_itself(watched: Installation, tab: Tab) -> None:
    await tab.show_as(DESKTOP)
    await tab.open(f"http://{http_address(watched)}")
    backup = json.loads(watched.run("backup", "--json").stdout)["backup"]
    await tab.wait_for(f"document.getElementById('tables')?.textContent.includes('{backup}')")
    away = watched.repository.with_name("away")
    watched.repository.rename(away)
    await tab.wait_for("document.getElementById('state').textContent.includes('finding')")
    assert "the repository" in await tab.text("#health")
    away.rename(watched.repository)
    await tab.wait_for("document.getElementById('state').textContent.includes('All is well')")
    assert "over" in await tab.text("#problems")


@pytest.mark.slow
async def test_a_page_opened_before_the_first_look_comes_to_show_what_can_be_restored(
    tab: Tab,
) -> None:
    shown = [content(), content(PAST.axis())]

    async def page(_: Question) -> Answer:
        found = render_page(shown[0], View())
        return Answer(found.encode(), HTML, policy=page_policy())

    server = HttpServer(Listen("127.0.0.1:0"), Entry())
    server.register("/", page)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        async with asyncio.timeout(60):
            while server.status.address is None:
                await asyncio.sleep(0.05)
        await tab.open(f"http://{server.status.address}/")
        assert "has not been read yet" in await tab.text("#restore")
        del shown[0]
        await tab.wait_for("document.getElementById('axis')?.getAttribute('role') === 'slider'")
        server.stop()
    assert tab.complaints == []
