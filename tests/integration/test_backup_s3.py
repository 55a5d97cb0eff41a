"""Base backups into a bucket: in pieces, complete, and nothing left of those that fail."""

import os

import pytest

from tests.fix_backup import committed

PARTS = '[backup]\npart_size = "16MiB"\n[tail]\ninterval = "0s"'
MIB = 1 << 20


@pytest.fixture
def bucket(make_s3_archiving):
    """An archiving cluster of some 60 MiB that do not compress, its repository behind a proxy."""
    one = make_s3_archiving(more=PARTS)
    data = one.installation.cluster.data_dir
    owner = one.installation.workspace.owner
    for number in range(3):
        path = data / f"noise{number}"
        path.write_bytes(os.urandom(20 * MIB))
        os.chown(path, owner.uid, owner.gid)
    one.installation.start_agent()
    one.installation.wait_recognised()
    one.proxy.forget()
    return one


def backup_names(bucket):
    return [name for name in bucket.shelf.names() if "/backups/" in name]


def test_parts_go_up_in_pieces_and_all_is_listed(bucket):
    one = bucket.installation
    report = one.json("backup")
    assert committed(one) == [report["backup"]]
    assert report["parts"] >= 3
    names = {name.rpartition(f"{report['backup']}/")[2] for name in backup_names(bucket)}
    numbers = range(1, report["parts"] + 1)
    assert names == {
        "start.json",
        "summary.json",
        "manifest.json.zst.age",
        *(f"data/{number:05d}.tar.zst.age" for number in numbers),
        *(f"data/{number:05d}.tar.files.jsonl.zst.age" for number in numbers),
    }
    pieces = [seen for seen in bucket.proxy.requests if "partNumber=" in seen.path]
    assert len(pieces) >= 6
    assert max(seen.size_bytes for seen in pieces) == 8 * MIB
    sizes = [len(bucket.shelf.read(name)) for name in backup_names(bucket) if "/data/" in name]
    assert sum(sizes) == report["stored_bytes"]
    assert bucket.shelf.server.uploads_under_way(bucket.shelf.bucket) == []


def test_a_store_that_fails_in_the_middle_leaves_nothing(bucket):
    one = bucket.installation
    bucket.proxy.add(
        times=1000, kind="PUT", path_contains="partNumber=2", status=403, code="AccessDenied"
    )
    done = one.run("backup", code=22)
    assert "denied" in done.stderr.lower()
    assert bucket.shelf.server.uploads_under_way(bucket.shelf.bucket) == []
    assert backup_names(bucket) == []
    assert committed(one) == []
    bucket.proxy.forget()
    report = one.json("backup")
    assert committed(one) == [report["backup"]]


def test_a_store_that_keeps_what_it_has_leaves_a_warning(bucket):
    """Under object lock, or with credentials that cannot delete, remains stay: no backup either."""
    one = bucket.installation
    denied = {"times": 1000, "status": 403, "code": "AccessDenied"}
    bucket.proxy.add(kind="DELETE", path_contains="/start.json", **denied)
    bucket.proxy.add(kind="PUT", path_contains="/summary.json", **denied)
    one.run("backup", code=22)
    assert [name.rpartition("/")[2] for name in backup_names(bucket)] == ["start.json"]
    assert committed(one) == []
    assert "backup_remains_left" in one.agent_log


def test_a_stutter_of_the_store_costs_nothing(bucket):
    one = bucket.installation
    bucket.proxy.add(times=2, kind="PUT", path_contains="partNumber=", status=503)
    bucket.proxy.add(times=1, kind="PUT", path_contains=".files.jsonl", after=True, status=500)
    bucket.proxy.add(times=1, kind="PUT", path_contains="summary.json", after=True, status=500)
    bucket.proxy.add(times=1, kind="PUT", path_contains="manifest.json", after=True, status=500)
    report = one.json("backup")
    assert committed(one) == [report["backup"]]
