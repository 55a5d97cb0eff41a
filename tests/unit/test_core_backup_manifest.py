"""PostgreSQL's backup_manifest, checked by PostgreSQL's own program."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_postgres import MakeCluster, find_bin_dir
from walkeeper.core.backup_manifest import ManifestFile, WalRange, rewrite, write
from walkeeper.core.lsn import Lsn
from walkeeper.errors import IntegrityError

WAL = (WalRange(3, Lsn(0x2000028), Lsn(0x1_0300_0100)),)
CHANGED = datetime(2026, 11, 20, 12, 0, 1, 999, tzinfo=UTC)
ODD_NAMES = {
    b"PG_VERSION": b"15\n",
    b"base/1/1259": b"x" * 8192,
    b'quote"back\\slash\nnew\x01\t\x7f': b"control",
    "größe/日本".encode(): b"utf-8",
    b"latin-\xe9": b"not utf-8",
    b"empty": b"",
}


def entry(path: bytes, content: bytes) -> ManifestFile:
    return ManifestFile(path, len(content), CHANGED, hashlib.sha256(content).digest())


def written(tree: Mapping[bytes, bytes], *, major: int = 15) -> list[bytes]:
    files = (entry(path, content) for path, content in tree.items())
    return list(write(files, WAL, server_major=major, system_identifier=7301234567890123456))


def plant(root: Path, tree: Mapping[bytes, bytes], manifest: Iterable[bytes]) -> None:
    for path, content in tree.items():
        place = root / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (root / "backup_manifest").write_bytes(b"".join(manifest))


def verify(root: Path, *options: str, version: int = 15) -> subprocess.CompletedProcess[str]:
    program = find_bin_dir(version) / "pg_verifybackup"
    return subprocess.run(
        [program, "-n", *options, root],
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("options", [(), ("-s",)])
def test_postgresql_accepts_what_we_write(root: Path, options: tuple[str, ...]) -> None:
    plant(root, ODD_NAMES, written(ODD_NAMES))
    result = verify(root, *options)
    assert result.returncode == 0, result.stderr


def test_postgresql_finds_a_changed_a_missing_and_an_extra_file(root: Path) -> None:
    changed = {**ODD_NAMES, b"PG_VERSION": b"16\n", b"extra": b""}
    del changed[b"latin-\xe9"]
    plant(root, changed, written(ODD_NAMES))
    result = verify(root)
    assert result.returncode == 1
    assert 'checksum mismatch for file "PG_VERSION"' in result.stderr
    assert '"extra" is present on disk but not in the manifest' in result.stderr
    assert "is present in the manifest but not on disk" in result.stderr


def test_postgresql_accepts_a_manifest_after_a_restore_changed_files(root: Path) -> None:
    before = {**ODD_NAMES, b"tablespace_map": b"16400 /old\n", b"stale": b"x"}
    after = {**ODD_NAMES, b"tablespace_map": b"16400 /new/place\n", b"walkeeper.detached": b""}
    lines = rewrite(
        written(before),
        replace={b"tablespace_map": entry(b"tablespace_map", after[b"tablespace_map"])},
        add=[entry(b"walkeeper.detached", b"")],
        remove=[b"stale"],
    )
    plant(root, after, lines)
    result = verify(root)
    assert result.returncode == 0, result.stderr


def test_version_1_reads_as_postgresql_15_writes_it() -> None:
    digest = hashlib.sha256(b"15\n").hexdigest()
    unsigned = (
        '{ "PostgreSQL-Backup-Manifest-Version": 1,\n'
        '"Files": [\n'
        '{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-20 12:00:01 GMT", '
        f'"Checksum-Algorithm": "SHA256", "Checksum": "{digest}" }}\n'
        "],\n"
        '"WAL-Ranges": [\n'
        '{ "Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "1/3000100" }\n'
        "],\n"
    ).encode()
    last = b'"Manifest-Checksum": "%s"}\n' % hashlib.sha256(unsigned).hexdigest().encode()
    assert b"".join(written({b"PG_VERSION": b"15\n"})) == unsigned + last


@pytest.mark.parametrize("major", [17, 18])
def test_version_2_carries_the_system_identifier(major: int) -> None:
    lines = written(ODD_NAMES, major=major)
    assert lines[0] == b'{ "PostgreSQL-Backup-Manifest-Version": 2,\n'
    assert lines[1] == b'"System-Identifier": 7301234567890123456,\n'
    assert json.loads(b"".join(lines))["System-Identifier"] == 7301234567890123456
    assert b"".join(rewrite(lines)) == b"".join(lines)


def test_postgresql_18_accepts_version_2_for_its_own_cluster(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(version=18, start=False)
    # The tool passes over these two by itself.
    tree = {
        os.fsencode(file.relative_to(cluster.data_dir)): file.read_bytes()
        for file in cluster.data_dir.rglob("*")
        if file.is_file() and "pg_wal" not in file.parts and file.name != "postgresql.auto.conf"
    }
    identifier = int(cluster.control()["Database system identifier"])

    def check(system_identifier: int) -> subprocess.CompletedProcess[str]:
        files = (entry(path, content) for path, content in tree.items())
        lines = write(files, WAL, server_major=18, system_identifier=system_identifier)
        (cluster.data_dir / "backup_manifest").write_bytes(b"".join(rewrite(lines)))
        return verify(cluster.data_dir, version=18)

    assert check(identifier).returncode == 0, check(identifier).stderr
    assert "system identifier" in check(identifier + 1).stderr


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name)


@given(st.dictionaries(NAMES, st.binary(max_size=4), max_size=6), st.integers(13, 19))
def test_a_manifest_is_json_that_names_every_file(tree: dict[bytes, bytes], major: int) -> None:
    document = json.loads(b"".join(written(tree, major=major)))
    names = [
        bytes.fromhex(file["Encoded-Path"]) if "Encoded-Path" in file else file["Path"].encode()
        for file in document["Files"]
    ]
    assert names == list(tree)


@given(st.data())
def test_rewriting_equals_writing_the_changed_tree(data: st.DataObject) -> None:
    tree = data.draw(st.dictionaries(NAMES, st.binary(max_size=4), max_size=6))
    known = sorted(tree)
    removed = data.draw(st.sets(st.sampled_from(known)) if known else st.just(set()))
    rest = sorted(set(known) - removed)
    replaced = data.draw(
        st.dictionaries(st.sampled_from(rest), st.binary()) if rest else st.just({})
    )
    added = data.draw(st.dictionaries(NAMES.filter(lambda name: name not in tree), st.binary()))
    changed = {path: replaced.get(path, old) for path, old in tree.items() if path not in removed}
    lines = rewrite(
        written(tree),
        replace={path: entry(path, content) for path, content in replaced.items()},
        add=[entry(path, content) for path, content in added.items()],
        remove=removed,
    )
    assert list(lines) == written({**changed, **added})


@given(st.integers(0), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    whole = bytearray(b"".join(written(ODD_NAMES)))
    whole[place % len(whole)] ^= change
    with pytest.raises(IntegrityError):
        list(rewrite(bytes(whole).splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no end"),
        (written(ODD_NAMES)[:-1], "no end"),
        (written(ODD_NAMES)[:4], "no end"),
        ([*written(ODD_NAMES), b"more\n"], "goes on"),
    ],
)
def test_a_manifest_that_is_cut_or_goes_on_is_refused(lines: list[bytes], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        list(rewrite(lines))


def signed(*lines: bytes) -> list[bytes]:
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return [*lines, b'"Manifest-Checksum": "%s"}\n' % digest.encode()]


def test_a_manifest_of_another_layout_is_refused_even_with_a_right_checksum() -> None:
    with pytest.raises(IntegrityError, match="lists no files"):
        list(rewrite(signed(b'{"PostgreSQL-Backup-Manifest-Version":1,"Files":[],\n')))
    with pytest.raises(IntegrityError, match="has no end"):
        list(rewrite(signed(*written(ODD_NAMES)[:5])))


@pytest.mark.parametrize("line", [b"{,\n", b'{ "Encoded-Path": "x" },\n', b'{ "Size": 1 },\n'])
def test_a_line_that_is_no_file_is_refused(line: bytes) -> None:
    with pytest.raises(IntegrityError, match="line"):
        list(rewrite([b'"Files": [\n', line]))


def test_a_file_to_replace_that_is_not_listed_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="tablespace_map"):
        list(rewrite(written(ODD_NAMES), remove=[b"tablespace_map"]))
    with pytest.raises(IntegrityError, match="tablespace_map"):
        list(rewrite(written({}), replace={b"tablespace_map": entry(b"tablespace_map", b"")}))


def test_a_manifest_streams_without_being_held() -> None:
    taken = 0

    def files() -> Iterator[ManifestFile]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield entry(b"%d" % number, b"")

    source = write(files(), WAL, server_major=15, system_identifier=1)
    lines = rewrite(source)
    for _ in range(10):
        next(lines)
    assert taken < 20
