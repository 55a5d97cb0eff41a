"""``/metrics`` of a live agent, read by Prometheus' own parser."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.fix_cli import Installation
from tests.fix_http import ask, http_address, wait_ready
from tests.fix_postgres import wait_until
from walkeeper import __version__, metrics
from walkeeper.core.lsn import Lsn
from walkeeper.metrics import Metric

GROWING_BYTES = 1 << 20


@dataclass
class Scrape:
    """The samples of one scrape."""

    samples: list[Sample]

    @property
    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(one.name, tuple(sorted(one.labels.items()))) for one in self.samples}

    @property
    def names(self) -> set[str]:
        return {one.name for one in self.samples}

    def value(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        found = [
            one.value
            for one in self.samples
            if one.name == metric.name + suffix and one.labels == labels
        ]
        assert len(found) == 1, f"{metric.name}{suffix} {labels} is there {len(found)} times"
        return float(found[0])


def scrape(installation: Installation) -> Scrape:
    reply = ask(http_address(installation), "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.text)
    return Scrape([sample for family in families for sample in family.samples])


def known_names(of: Iterable[Metric]) -> set[str]:
    return {name for metric in of for name in metric.series}


def test_a_scrape_tells_all_that_is_in_the_list_and_nothing_else(watched: Installation) -> None:
    watched.configure('[schedule]\nbackup = "0 0 1 1 *"')
    watched.cluster.sql("ALTER ROLE postgres VALID UNTIL '2100-01-01'")
    watched.stop_agent()
    watched.start_agent()
    began = time.time()
    watched.run("backup")
    watched.run("drill")
    watched.archive_now()
    wait_ready(watched)
    # The drill has to be seen, the disk, the role and the keys to be looked at.
    wait_until(lambda: known_names(metrics.ALL) <= scrape(watched).names, "all to be known", 60)
    found = scrape(watched)
    assert found.names - set(metrics.PROCESS) == known_names(metrics.ALL)
    assert set(metrics.PROCESS) <= found.names
    assert found.value(metrics.BUILD, version=__version__, python=python_of(found)) == 1
    assert found.value(metrics.POSTGRES_UP) == found.value(metrics.STORE_UP) == 1
    assert found.value(metrics.FINDINGS) == 0
    assert found.value(metrics.RPO) < 60
    assert found.value(metrics.BACKUPS) == 1
    assert found.value(metrics.WINDOWS) == 1
    assert found.value(metrics.GAPS, state="open") == 0
    assert found.value(metrics.ARCHIVED_BYTES) % GROWING_BYTES == 0
    assert found.value(metrics.ARCHIVED_BYTES) > 0
    begin, end = found.value(metrics.WINDOW_BEGIN), found.value(metrics.WINDOW_END)
    assert began - 1 < begin <= end <= time.time() + 1
    assert found.value(metrics.JOB_DONE, task="backup") == found.value(metrics.BACKUP_NEWEST)
    assert found.value(metrics.JOB_SCHEDULED, task="backup") == 1
    assert found.value(metrics.JOB_SCHEDULED, task="expire") == 0
    assert found.value(metrics.JOB_AGE, task="drill") < 600
    assert found.value(metrics.EXPIRY, access="role") > time.time()
    assert found.value(metrics.KEY_FILE, option="encryption.identity_file") == 1
    flushed = found.value(metrics.FLUSHED)
    now = Lsn.parse(watched.cluster.value("SELECT pg_current_wal_flush_lsn()")).value
    assert 0 < flushed <= now
    assert 0 < found.value(metrics.DISK_FREE) < found.value(metrics.DISK_SIZE)
    assert found.value(metrics.REQUESTS, operation="put") > 0
    parts = len([*watched.archive_dir.glob("backups/*/data/*.tar.zst.age")])
    assert found.value(metrics.WRITE_BYTES, "_count", kind="backup_part") == parts > 0
    stored = found.value(metrics.WRITE_BYTES, "_sum", kind="backup_part")
    assert 0 < stored <= found.value(metrics.BACKUP_STORED)


def python_of(found: Scrape) -> str:
    return next(one.labels["python"] for one in found.samples if one.name == metrics.BUILD.name)


def test_the_number_of_series_does_not_grow_with_segments(watched: Installation) -> None:
    watched.run("backup")
    watched.archive_now()
    wait_ready(watched)

    def is_whole() -> bool:
        known = metrics.WINDOW_END, metrics.DISK_FREE, metrics.KEY_FILE, metrics.TAIL_UP
        return {metric.name for metric in known} <= scrape(watched).names

    wait_until(is_whole, "all to be known", 60)
    before = scrape(watched)
    for _ in range(50):
        watched.cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")
    last = watched.archive_now()
    wait_until(
        lambda: last in ask(http_address(watched), "/api/v1/status").text, "the last one", 60
    )
    after = scrape(watched)
    assert after.value(metrics.ARCHIVED) >= before.value(metrics.ARCHIVED) + 50
    assert after.series == before.series


def test_an_outage_and_its_end_show_in_the_next_scrapes(watched: Installation) -> None:
    watched.run("backup")
    wait_ready(watched)
    wait_until(lambda: metrics.BACKUP_NEWEST.name in scrape(watched).names, "the backup", 60)
    away = watched.repository.with_name("away")
    watched.repository.rename(away)
    watched.workspace.directory(f"{watched.root.name}/repo")
    wait_until(lambda: scrape(watched).value(metrics.STORE_UP) == 0, "the outage to show", 60)
    wait_until(lambda: scrape(watched).value(metrics.FINDINGS) > 0, "the finding to count", 60)
    assert scrape(watched).value(metrics.BACKUPS) == 1, "what was seen last is still known"
    watched.repository.rmdir()
    away.rename(watched.repository)
    wait_until(lambda: scrape(watched).value(metrics.STORE_UP) == 1, "the end to show", 60)
    watched.cluster.stop()
    wait_until(lambda: scrape(watched).value(metrics.POSTGRES_UP) == 0, "the stop to show", 60)


@pytest.mark.parametrize("metric", metrics.ALL, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("walkeeper_")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.about.endswith(".")
