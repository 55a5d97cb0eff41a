"""The parts of the bench that measure nothing: medians, goals, tables, the gateway's log."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The scripts import each other by their bare names."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def figures(scripts: None) -> ModuleType:
    return importlib.import_module("figures")


@pytest.fixture
def report(scripts: None) -> ModuleType:
    return importlib.import_module("report")


@pytest.fixture
def replay(scripts: None) -> ModuleType:
    return importlib.import_module("task_replay")


def test_the_median_of_each_figure_is_taken_by_itself(figures: ModuleType) -> None:
    case = figures.Case("push", "pgbench", "file")
    runs = [
        figures.Measurement(case, "walkeeper", {"wall_s": wall, "cpu_s": cpu})
        for wall, cpu in [(1, 9), (2, 8), (30, 1)]
    ]
    assert figures.find_medians(runs)[case]["walkeeper"] == {"wall_s": 2, "cpu_s": 8}


def judged(figures: ModuleType, *runs: tuple[str, str, str, str, dict[str, float]]) -> dict:
    measured = [
        figures.Measurement(figures.Case(task, data, store), program, found)
        for task, data, store, program, found in runs
    ]
    verdicts = figures.judge(figures.find_medians(measured))
    return {(one.goal.what, one.case.data): (one.value, one.met) for one in verdicts}


def test_goals_beside_the_peer_are_ratios_in_one_case(figures: ModuleType) -> None:
    found = judged(
        figures,
        ("push", "a", "file", "walkeeper", {"mib_per_s": 300, "cpu_s_per_gib": 1}),
        ("push", "a", "file", "pgbackrest", {"mib_per_s": 100, "cpu_s_per_gib": 1}),
        ("push", "b", "file", "walkeeper", {"mib_per_s": 300, "cpu_s_per_gib": 1}),
    )
    assert found[("WAL push, throughput", "a")] == (3.0, True)
    assert found[("WAL push, CPU seconds a GiB", "a")] == (1.0, False)
    assert {data for _, data in found} == {"a"}


def test_a_far_store_asks_for_more_than_a_near_one(figures: ModuleType) -> None:
    runs = [
        ("push", "a", store, program, {"mib_per_s": rate})
        for store in ("rgw-tls", "rgw-20ms")
        for program, rate in (("walkeeper", 180.0), ("pgbackrest", 100.0))
    ]
    cases = [
        figures.Measurement(figures.Case(task, data, store), program, found)
        for task, data, store, program, found in runs
    ]
    met = {one.case.store: one.met for one in figures.judge(figures.find_medians(cases))}
    assert met == {"rgw-tls": True, "rgw-20ms": False}


def test_small_relations_are_held_against_large_files(figures: ModuleType) -> None:
    found = judged(
        figures,
        ("backup", "1 GiB", "file", "walkeeper", {"s_per_gib": 4}),
        ("backup", "100,000 small relations", "file", "walkeeper", {"s_per_gib": 10}),
    )
    what = "small relations, backup a GiB"
    assert found == {(what, "100,000 small relations"): (2.5, False)}


def test_growth_of_push_is_held_against_the_smallest_archive(figures: ModuleType) -> None:
    found = judged(
        figures,
        ("growth", "100,000 segments", "file", "walkeeper", {"push_mib_per_s": 95}),
        ("growth", "1,000 segments", "file", "walkeeper", {"push_mib_per_s": 100}),
    )
    assert found == {("growth: push", "100,000 segments"): (0.95, True)}


def test_requests_to_the_bucket_are_counted_by_their_method(scripts: None) -> None:
    count_lines = importlib.import_module("rgw").count_lines
    start = "2026-11-21T04:00:00.000+0000 7f 1 beast: 0x7f: 127.0.0.1 - bench [21/Nov/2026] "
    lines = [
        start + '"PUT /bench/walkeeper/1/wal/x HTTP/1.1" 200 0 - "x" - latency=0.1s',
        start + '"GET /bench?list-type=2&prefix=a HTTP/1.1" 200 9 - "x" - latency=0.1s',
        start + '"GET /bench2/y HTTP/1.1" 200 9 - "x" - latency=0.1s',
        "2026-11-21T04:00:00.000+0000 7f 1 ====== starting new request req=0x7f =====",
    ]
    assert count_lines(lines, "bench") == {"PUT": 1, "GET": 1}


def make_report(report: ModuleType, figures: ModuleType) -> object:
    results = figures.Results()
    case = figures.Case("backup", "1 GiB", "file")
    results.add(case, "walkeeper", {"wall_s": 3.0, "cpu_s": 2.0})
    results.add(case, "pgbackrest", {"wall_s": 6.0, "cpu_s": 2.0})
    results.leave_out("wal-g", "it is not here")
    return report.Report({"cpus": 2}, {"seed": 1}, results)


def test_what_was_written_as_json_is_read_back(
    report: ModuleType, figures: ModuleType, tmp_path: Path
) -> None:
    made = make_report(report, figures)
    report.write_report(tmp_path / "figures.json", made)
    assert report.read_report(tmp_path / "figures.json") == made


def test_runs_on_one_machine_are_shown_together(report: ModuleType, figures: ModuleType) -> None:
    one, other = make_report(report, figures), make_report(report, figures)
    other.settings["seed"] = 2  # type: ignore[attr-defined]
    other.machine["load_before"] = 0.3  # type: ignore[attr-defined]
    joined = report.join_reports([one, other])
    assert joined.settings == {"seed": "1; 2"}
    assert len(joined.results.runs) == 4
    assert len(joined.results.not_compared) == 1


def test_runs_on_different_machines_are_not_shown_together(
    report: ModuleType, figures: ModuleType
) -> None:
    one, other = make_report(report, figures), make_report(report, figures)
    other.machine["cpus"] = 64  # type: ignore[attr-defined]
    with pytest.raises(report.ScriptError, match="different machines"):
        report.join_reports([one, other])


def test_only_what_stands_between_the_marks_of_a_page_is_replaced(
    report: ModuleType, figures: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_markdown(page, make_report(report, figures))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| base backup, wall time | 1 GiB, file | at most 0.8x | 0.50x | reached |" in text
    assert "| 1 GiB, file | walkeeper / pgbackrest | 0.50 | 1.00 |" in text
    assert "* wal-g: it is not here" in text


def test_the_page_has_the_marks(report: ModuleType) -> None:
    text = (ROOT / "BENCHMARKS.md").read_text()
    assert text.index(report.BEGIN) < text.index(report.END)


def test_waiting_in_a_replay_is_shared_out_among_start_hooks_late_segments_and_end(
    replay: ModuleType,
) -> None:
    edge = replay.EDGE
    waits = [0.5, *[0.1] * (edge - 1), *[0.004] * 20, 0.104, *[0.2] * edge]
    shares = replay.share_out(waits)
    assert shares["hook_ms"] == pytest.approx(4)
    assert shares["late_s"] == pytest.approx(0.1)
    assert shares["start_s"] == pytest.approx(0.5 + 0.1 * (edge - 1))
    assert sum(value for name, value in shares.items() if name != "hook_ms") == pytest.approx(
        sum(waits)
    )
