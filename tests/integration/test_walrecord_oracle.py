"""Real WAL, read by us and by PostgreSQL's own pg_waldump."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_postgres import Cluster, MakeCluster
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walcheck import Complete, CutOff, Refused, SegmentCheck, Verdict
from walkeeper.core.walfacts import Commit, RestorePoint
from walkeeper.core.walpage import parse_long_header
from walkeeper.core.walrecord import scan_segment

SIZE = SegmentSize(1 << 20)
PAGE = 8192
LINE = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev \S+, desc: (.*)"
)
ENDED = re.compile(r"(COMMIT|ABORT)(?:_PREPARED (\d+):)? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")


@dataclass(frozen=True)
class Dumped:
    """A record as pg_waldump prints it, and where it ends."""

    begin: Lsn
    end: Lsn
    rmgr: str
    xid: int
    text: str

    @property
    def fact(self) -> Commit | RestorePoint | str | None:
        if self.rmgr == "Transaction" and (match := ENDED.match(self.text)):
            at = datetime.fromisoformat(match[3]).replace(tzinfo=UTC)
            xid = int(match[2] or self.xid)
            return Commit(self.begin, self.end, xid, at, match[1] == "ABORT")
        if self.rmgr == "XLOG" and self.text.startswith("RESTORE_POINT "):
            return self.text.removeprefix("RESTORE_POINT ")
        return None


def end_of(begin: int, total: int) -> Lsn:
    """Where a record ends, page headers counted one by one."""
    at = begin
    while total:
        if at % PAGE == 0:
            at += 40 if at % SIZE.bytes == 0 else 24
        step = min(total, PAGE - at % PAGE)
        at += step
        total -= step
    return Lsn(-(-at // 8) * 8)


def dump(cluster: Cluster, directory: Path, *words: str) -> list[Dumped]:
    """All records of a run of segments that pg_waldump accepts, checksums included."""
    argv = [cluster.bin_dir / "pg_waldump", "-p", directory, *words]
    result = cluster.run_as_owner(argv, check=False)
    records = []
    for line in result.stdout.splitlines():
        if match := LINE.fullmatch(line):
            begin = Lsn.parse(match[4])
            end = end_of(begin.value, int(match[2]))
            records.append(Dumped(begin, end, match[1], int(match[3]), match[5]))
    return records


def facts_of(records: list[Dumped]) -> list[Commit | RestorePoint | str]:
    return [record.fact for record in records if record.fact is not None]


def comparable(facts: tuple[object, ...]) -> list[object]:
    """Our facts as pg_waldump shows them: it does not print the time of a restore point."""
    return [fact.name if isinstance(fact, RestorePoint) else fact for fact in facts]


def judge(system: int, name: str, data: bytes, block: int = 1 << 17) -> Verdict:
    check = SegmentCheck(WalSegment.parse(name), SIZE, system)
    for at in range(0, len(data), block):
        check.feed(data[at : at + block])
    return check.finish()


WORKLOAD = """
CREATE TABLE t (id int PRIMARY KEY, x text);
INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 500) g;
SELECT pg_create_restore_point('before the change');
BEGIN; INSERT INTO t VALUES (1001, 'prepared'); PREPARE TRANSACTION 'one';
BEGIN; INSERT INTO t VALUES (1002, 'given up'); CREATE TABLE gone (x int);
PREPARE TRANSACTION 'two';
BEGIN; DELETE FROM t WHERE id < 10; ROLLBACK;
COMMIT PREPARED 'one';
ROLLBACK PREPARED 'two';
SELECT pg_switch_wal();
BEGIN; SAVEPOINT a; INSERT INTO t VALUES (1003); SAVEPOINT b; INSERT INTO t VALUES (1004);
CREATE TABLE u (x int); DROP TABLE u; PREPARE TRANSACTION 'three';
COMMIT PREPARED 'three';
DROP TABLE IF EXISTS v;
CREATE TABLE v AS SELECT g FROM generate_series(1, 1000) g;
DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN INSERT INTO t VALUES (2000 + i);
  EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
SELECT pg_logical_emit_message(true, 'p', repeat('m', 3000000));
SELECT pg_switch_wal();
SELECT pg_create_restore_point('naïve ✓');
"""


@pytest.fixture
def loaded(make_cluster: MakeCluster, request: pytest.FixtureRequest) -> Cluster:
    """A stopped cluster with a varied load in its WAL."""
    cluster = make_cluster(
        version=getattr(request, "param", 15),
        segment_size_mb=1,
        fsync=False,
        settings={
            "wal_keep_size": "1GB",
            "max_prepared_transactions": 10,
            "wal_level": "logical",
            "wal_recycle": "off",
        },
    )
    cluster.sql(WORKLOAD)
    cluster.pgbench("-i", "-q", "-s", "1")
    cluster.pgbench("-c", "2", "-t", "1500")
    cluster.sql("SELECT pg_switch_wal()")
    cluster.pgbench("-c", "1", "-t", "20")
    cluster.stop("immediate")
    return cluster


def system_identifier(cluster: Cluster) -> int:
    return int(cluster.control()["Database system identifier"])


def segment_files(cluster: Cluster) -> list[Path]:
    """Segments that hold WAL of their own, in order."""
    files = []
    for path in sorted(cluster.wal_dir.glob("0000000?" + "[0-9A-F]" * 16)):
        with path.open("rb") as file:
            head = file.read(40)
        if any(head) and parse_long_header(head).address == WalSegment.parse(path.name).begin(SIZE):
            files.append(path)
    return files


@pytest.mark.parametrize("loaded", [15, 16, 18], indirect=True)
def test_every_record_is_found_where_postgresql_finds_it(loaded: Cluster):
    files = segment_files(loaded)
    assert len(files) > 10
    dumped = dump(loaded, loaded.wal_dir, files[0].name, files[-1].name)
    found: list[object] = []
    carry = None
    for path in files:
        segment = WalSegment.parse(path.name)
        scan = scan_segment(segment, SIZE, path.read_bytes(), carry)
        ended = [r for r in dumped if r.end <= segment.end(SIZE)]
        assert (scan.last_record, scan.valid_end) == (ended[-1].begin, ended[-1].end)
        found += comparable(scan.facts)
        carry = scan.carry
        assert (carry is None) == (path == files[-1])
    assert found == facts_of(dumped)
    commits = [fact for fact in found if isinstance(fact, Commit)]
    assert len(commits) > 3000
    assert any(commit.aborted for commit in commits)
    assert {"before the change", "naïve ✓"} <= set(found)


def test_each_segment_alone_is_read_from_its_first_record_on(loaded: Cluster):
    for path in segment_files(loaded):
        dumped = dump(loaded, loaded.wal_dir, path.name)
        begin = WalSegment.parse(path.name).begin(SIZE)
        scan = scan_segment(WalSegment.parse(path.name), SIZE, memoryview(path.read_bytes()))
        inside = [r for r in dumped if r.end <= begin + SIZE.bytes]
        if inside:
            assert scan.last_record == inside[-1].begin
            assert scan.valid_end == inside[-1].end
        else:
            assert scan.last_record is None
        assert comparable(scan.facts) == facts_of(inside)


def test_a_restore_point_carries_its_time(loaded: Cluster):
    points = [
        fact
        for path in segment_files(loaded)
        for fact in scan_segment(WalSegment.parse(path.name), SIZE, path.read_bytes()).facts
        if isinstance(fact, RestorePoint)
    ]
    assert [point.name for point in points] == ["before the change", "naïve ✓"]
    age_s = (datetime.now(UTC) - points[0].at).total_seconds()
    assert 0 < age_s < 300


@pytest.mark.parametrize("loaded", [15, 18], indirect=True)
def test_all_finished_segments_are_complete_and_the_current_one_is_not(loaded: Cluster):
    files = segment_files(loaded)
    system = system_identifier(loaded)
    for path in files[:-1]:
        assert judge(system, path.name, path.read_bytes()) == Complete(), path.name
        for block in (PAGE, 5 * PAGE, SIZE.bytes):
            assert judge(system, path.name, path.read_bytes(), block) == Complete(), path.name
    verdict = judge(system, files[-1].name, files[-1].read_bytes())
    assert isinstance(verdict, CutOff)
    assert verdict.valid_up_to == dump(loaded, loaded.wal_dir, files[-1].name)[-1].end


def cut_points(rng: random.Random, records: list[Dumped], begin: Lsn, end: int) -> list[int]:
    """Where to cut: anywhere, near page borders, near records, often close to the end."""
    last = [record for record in records if record.end.value - begin.value <= end][-40:]
    near_records = [r.begin.value - begin.value + d for r in last for d in (-1, 0, 1, 9, 24, 25)]
    near_pages = [page * PAGE + d for page in (1, 64, 127) for d in (-9, -1, 0, 1, 16, 24, 30)]
    anywhere = [rng.randrange(1, end) for _ in range(10)]
    chosen = rng.sample(near_records, min(12, len(near_records))) + near_pages[::2] + anywhere
    return sorted({at for at in chosen if 64 <= at < end})


def test_a_copy_cut_anywhere_is_cut_off_where_postgresql_stops_reading(loaded: Cluster):
    rng = random.Random(15)
    files = segment_files(loaded)
    system = system_identifier(loaded)
    switches = [p for p in files[:-1] if not any(p.read_bytes()[-64:])]
    chosen = [*switches, *rng.sample(files[1:-1], 3)]
    assert switches
    directory = loaded.workspace.directory("cut")
    checked = 0
    for path in chosen:
        whole = path.read_bytes()
        segment = WalSegment.parse(path.name)
        begin = segment.begin(SIZE)
        records = dump(loaded, loaded.wal_dir, path.name)
        inside = [r for r in records if r.end <= begin + SIZE.bytes]
        if not inside:
            continue
        # Behind the last whole record only the beginning of one is left, or the switch's zeros.
        end = inside[-1].end.value - begin.value
        stale = files[files.index(path) - 1].read_bytes()
        for at in cut_points(rng, records, begin, end):
            for filler in (bytes(SIZE.bytes), stale):
                data = whole[:at] + filler[at:]
                if data[:end] == whole[:end]:
                    continue
                (directory / path.name).write_bytes(data)
                before = [str(r.begin) for r in inside if r.end.value <= begin.value + at][-30:]
                start = ["-s", before[0]] if before else []
                dumped = dump(loaded, directory, *start, path.name)
                accepted = [r for r in dumped if r.end <= begin + SIZE.bytes]
                scan = scan_segment(segment, SIZE, data)
                verdict = judge(system, path.name, data)
                assert isinstance(verdict, CutOff), (path.name, at, verdict)
                if accepted:
                    assert verdict.valid_up_to == accepted[-1].end, (path.name, at)
                    assert scan.valid_end == accepted[-1].end, (path.name, at)
                    assert comparable(scan.facts) == facts_of(
                        [r for r in inside if r.end <= accepted[-1].end]
                    )
                checked += 1
    shutil.rmtree(directory)
    assert checked > 100


def test_a_segment_of_another_cluster_size_or_name_is_refused(loaded: Cluster):
    system = system_identifier(loaded)
    path = segment_files(loaded)[2]
    data = path.read_bytes()
    segment = WalSegment.parse(path.name)
    following = segment.next(SIZE)
    assert isinstance(judge(system, str(following), data), Refused)
    assert isinstance(judge(system, path.name, data[:-PAGE]), Refused)
    for foreign, size, major in ((1, SIZE, 15), (0, SegmentSize(2 << 20), 15), (0, SIZE, 16)):
        name = WalSegment.at(1, segment.begin(SIZE), size)
        check = SegmentCheck(name, size, foreign or system, major)
        check.feed(data * (size.bytes // SIZE.bytes))
        assert isinstance(check.finish(), Refused)


def test_a_time_read_from_wal_is_the_commit_time_that_the_server_knows(make_cluster: MakeCluster):
    cluster = make_cluster(
        segment_size_mb=1, fsync=False, settings={"track_commit_timestamp": True}
    )
    cluster.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);")
    known = {
        (int(xid), datetime.fromisoformat(at))
        for xid, at in cluster.sql(
            "SET timezone = 'UTC'; SELECT xmin, pg_xact_commit_timestamp(xmin) FROM t;"
        )
    }
    cluster.stop("immediate")
    commits = {
        (fact.xid, fact.at)
        for path in segment_files(cluster)
        for fact in scan_segment(WalSegment.parse(path.name), SIZE, path.read_bytes()).facts
        if isinstance(fact, Commit)
    }
    assert len(known) == 2
    assert known <= commits
