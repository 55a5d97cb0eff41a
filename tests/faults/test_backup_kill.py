"""Base backups and kill -9: a complete backup or none, whoever dies and whenever."""

import os
import time

import pytest

from tests.fix_backup import GIB, alone, backup_files, committed, make_long, wait_copying

# Runs walkeeper and kills it with SIGKILL at the step that KILL_AT names.
DRIVER = """#!{python}
import os, signal, sys
from walkeeper.storage.filesystem import FilesystemStorage

step, put, put_stream = os.environ["KILL_AT"], FilesystemStorage.put, FilesystemStorage.put_stream

def die_if(here):
    if here == step:
        os.kill(os.getpid(), signal.SIGKILL)

async def dying_put(self, name, body):
    die_if("before " + name.rpartition("/")[2])
    await put(self, name, body)
    die_if("after " + name.rpartition("/")[2])

async def dying_put_stream(self, name, chunks):
    async def cut():
        async for chunk in chunks:
            yield chunk
            die_if("in " + name.rpartition("/data/")[2])
    size = await put_stream(self, name, cut())
    die_if("after " + name.rpartition("/data/")[2])
    return size

FilesystemStorage.put, FilesystemStorage.put_stream = dying_put, dying_put_stream
from walkeeper.cli.main import main
sys.exit(main())
"""
MANIFEST = "manifest.json.zst.age"
STEPS = [
    "after start.json",
    "in 00001.tar.zst.age",
    "after 00001.tar.zst.age",
    "after 00001.tar.files.jsonl.zst.age",
    "before summary.json",
    f"before {MANIFEST}",  # between summary and manifest
    f"after {MANIFEST}",
]


@pytest.fixture
def driver(archiving):
    program = archiving.root / "driver"
    program.write_text(DRIVER.format(python=archiving.program.parent / "python"))
    program.chmod(0o755)
    return program


def check_after_a_kill(one, step, before):
    """Nothing is listed that is not complete; what is complete is listed."""
    done = set(committed(one)) - set(before)
    folders = {path.name for path in one.archive_dir.glob("backups/*")} - set(before)
    assert len(folders) == 1, step
    assert done == (folders if step == f"after {MANIFEST}" else set()), step
    summaries = list(one.archive_dir.glob(f"backups/{folders.pop()}/summary.json"))
    assert bool(summaries) == (MANIFEST in step), step
    return done


def remove_all_backups(one):
    """By hand, so that each step begins with an empty list."""
    one.workspace.run(["rm", "-r", one.archive_dir / "backups"])


def test_a_command_killed_at_any_step_leaves_all_or_nothing(archiving, driver):
    config = alone(archiving)
    for step in STEPS:
        archiving.environment["KILL_AT"] = step
        env = {"PATH": "/usr/bin:/bin", "KILL_AT": step}
        done = archiving.workspace.run([driver, "--config", config, "backup"], check=False, env=env)
        assert done.returncode == -9, (step, done.stderr)
        check_after_a_kill(archiving, step, [])
        remove_all_backups(archiving)


def test_an_agent_killed_at_any_step_leaves_all_or_nothing(archiving, driver):
    archiving.stop_agent()
    program = archiving.program
    for step in STEPS:
        archiving.environment["KILL_AT"] = step
        archiving.program = driver
        archiving.start_agent()
        archiving.wait_recognised()  # or it may refuse the backup
        archiving.program = program
        done = archiving.run("backup", code=1)
        assert "the agent on" in done.stderr
        archiving.agent.wait(60)
        check_after_a_kill(archiving, step, [])
        remove_all_backups(archiving)


def test_the_next_backup_removes_what_was_left_a_day_ago(archiving, driver):
    config = alone(archiving)
    env = {"PATH": "/usr/bin:/bin"}
    argv = [driver, "--config", config, "backup"]
    for step in ("in 00002.tar.zst.age", f"before {MANIFEST}", f"after {MANIFEST}"):
        archiving.workspace.run(argv, check=False, env=env | {"KILL_AT": step})
    folders = sorted(archiving.archive_dir.glob("backups/*"))
    assert len(folders) == 3
    complete = committed(archiving)
    young = next(folder for folder in folders if folder.name not in complete)
    long_ago = time.time() - 25 * 3600
    for path in backup_files(archiving):
        os.utime(path, (long_ago, long_ago))
    newest = max(young.rglob("*"), key=lambda path: path.name)
    os.utime(newest, None)  # somebody still works on this one

    report = archiving.json("backup")

    left = {path.name for path in archiving.archive_dir.glob("backups/*")}
    assert left == {*complete, young.name, report["backup"]}
    assert committed(archiving) == [*complete, report["backup"]]


@pytest.mark.parametrize("how", ["kill9", "stop"])
@pytest.mark.parametrize("through", ["agent", "alone"])
def test_a_server_that_dies_takes_the_backup_with_it(archiving, start_command, how, through):
    make_long(archiving.cluster, GIB)
    config = alone(archiving) if through == "alone" else None
    running = start_command(archiving, "backup", config=config)
    wait_copying(archiving)
    archiving.cluster.kill9() if how == "kill9" else archiving.cluster.stop("fast")
    assert running.wait() == 1, running.text
    assert "the backup is void" in running.text
    assert "take another one" in running.text
    assert backup_files(archiving) == []


def test_a_lost_session_voids_the_backup(archiving, start_command):
    cluster = archiving.cluster
    make_long(cluster, GIB)
    running = start_command(archiving, "backup", config=alone(archiving))
    wait_copying(archiving)
    cluster.sql(  # those of the agent too, which come back
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'walkeeper'"
    )
    assert running.wait() == 1, running.text
    assert "the backup is void" in running.text
    assert backup_files(archiving) == []
    (cluster.data_dir / "holes").unlink()
    archiving.run("backup")
