"""Disasters follow each other: every branch of the cluster's history can be had again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.fix_postgres import Cluster
from tests.fix_restore import RestoreBed, rows


@dataclass
class Line:
    """One primary after the other, all archiving into the same archive."""

    bed: RestoreBed

    def lose(self, primary: Cluster) -> None:
        """The server is gone, all that it archived is there."""
        primary.stop()
        self.bed.installation.stop_agent()

    def replace(self, name: str, *options: str) -> Cluster:
        """Restore into the place of the primary that was lost, and go on archiving."""
        installation = self.bed.installation
        self.bed.restore(name, *options, "--resume-archiving")
        heir = self.bed.started(name)
        installation.cluster = heir
        installation.configure()
        installation.start_agent()
        installation.wait_recognised()
        return heir

    def write(self, primary: Cluster, row: int) -> str:
        """Commit a row and archive it; the moment just after it."""
        primary.sql(f"INSERT INTO t VALUES ({row})")
        moment = primary.value("SELECT clock_timestamp()")
        self.bed.installation.archive_now()
        return moment


@pytest.mark.slow
def test_every_branch_can_be_restored_and_none_brings_back_rows_of_another(
    bed: RestoreBed,
) -> None:
    line, source = Line(bed), bed.source
    one = line.write(source, 1)
    two = line.write(source, 2)
    line.lose(source)
    second = line.replace("second", "--target-time", one)  # without row 2
    assert rows(second) == [1]
    three = line.write(second, 3)
    line.lose(second)
    third = line.replace("third", "--target-timeline", "1")  # with it
    assert rows(third) == [1, 2]
    assert third.value("SELECT timeline_id FROM pg_control_checkpoint()") == "3"
    line.write(third, 4)
    line.lose(third)

    plan = bed.restore("pg", "--plan")["plan"]
    assert [leg["timeline"] for leg in plan["path"]] == [1, 3]
    assert [branch["timeline"] for branch in plan["branches"]] == [2]
    found = {}
    for number, (case, options) in enumerate(
        {
            "latest": (),
            "the other branch": ("--target-timeline", "2"),
            "that of the backup": ("--target-timeline", "current"),
            "before the forks": ("--target-time", one),
            "behind the fork, on the branch left": ("--target-time", two, "--target-timeline", "1"),
            "behind the fork, not yet on the branch": (
                *("--target-time", two, "--target-timeline", "2"),
            ),
            "on the branch": ("--target-time", three, "--target-timeline", "2"),
        }.items()
    ):
        with bed.running(f"pg{number}", *options) as (copy, _):
            found[case] = rows(copy)

    assert found == {
        "latest": [1, 2, 4],
        "the other branch": [1, 3],
        "that of the backup": [1, 2],
        "before the forks": [1],
        "behind the fork, on the branch left": [1, 2],
        "behind the fork, not yet on the branch": [1],
        "on the branch": [1, 3],
    }
