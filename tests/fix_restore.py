"""A source with a backup behind it, and clusters restored from it by the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import Cluster, find_bin_dir, free_port


@dataclass
class RestoreBed:
    """``restore`` runs as the owner of the clusters; targets lie where that user may write."""

    installation: Installation
    adopt: Callable[..., Cluster]
    targets: list[Path] = field(default_factory=list)

    @property
    def source(self) -> Cluster:
        return self.installation.cluster

    def target(self, name: str) -> Path:
        """A directory that does not exist yet."""
        return self.installation.root / name

    def restore(self, name: str, *options: str | Path, code: int = 0) -> dict[str, Any]:
        """Run the command; its document, with what it said besides under ``stderr``."""
        self.targets.append(self.target(name))
        result = self.installation.run(
            "restore", "--target-dir", self.target(name), *options, "--json", code=code
        )
        found: dict[str, Any] = json.loads(result.stdout) if result.stdout else {}
        return found | {"stderr": result.stderr}

    def stop_started(self) -> None:
        """Stop every server that ``restore --start`` has left running."""
        for target in self.targets:
            if (target / "postmaster.pid").exists():
                argv = [find_bin_dir(self.source.version) / "pg_ctl", "-D", target, "-w"]
                self.source.workspace.run([*argv, "-m", "immediate", "stop"], check=False)

    def verify(self, name: str) -> None:
        """``pg_verifybackup -n`` accepts the directory as it stands."""
        program = find_bin_dir(self.source.version) / "pg_verifybackup"
        self.source.workspace.run([program, "-n", self.target(name)])

    @contextmanager
    def running(self, name: str, *options: str | Path) -> Iterator[tuple[Cluster, dict[str, Any]]]:
        """A cluster that ``restore --start`` has left running, and the report; then stopped."""
        port = free_port()
        report = self.restore(name, *options, "--start", "--port", str(port))
        assert report["recovery"]["problem"] is None, report["recovery"]
        assert report["recovery"]["running"], report["recovery"]
        # A server that nobody has told otherwise also listens on loopback.
        host = Path("127.0.0.1")
        yield (
            Cluster(self.source.workspace, self.target(name), host, self.source.version, port),
            report,
        )
        self.stop_started()

    def started(self, name: str, *, recovered: bool = True) -> Cluster:
        """A restored cluster, started as anybody starts one."""
        cluster = self.adopt(self.target(name), self.source.version)
        cluster.start()
        if recovered:
            cluster.wait_for("SELECT pg_is_in_recovery()", "f")
        return cluster


@pytest.fixture
def make_bed(adopt_cluster: Callable[..., Cluster]) -> Iterator[Callable[..., RestoreBed]]:
    """Make a bed of an installation; what it started is stopped in the end."""
    made: list[RestoreBed] = []

    def make(installation: Installation) -> RestoreBed:
        made.append(RestoreBed(installation, adopt_cluster))
        return made[-1]

    yield make
    for bed in made:
        bed.stop_started()


@pytest.fixture
def bed(archiving: Installation, make_bed: Callable[..., RestoreBed]) -> RestoreBed:
    """An empty table t, a backup, and an agent that archives."""
    archiving.cluster.sql("CREATE TABLE t (n int)")
    archiving.run("backup")
    return make_bed(archiving)


def rows(cluster: Cluster) -> list[int]:
    """What is in the table."""
    return [int(row) for (row,) in cluster.sql("SELECT n FROM t ORDER BY n")]
