"""WAL that was lost while nobody archived: noticed, never passed over, and a way on from it."""

from __future__ import annotations

from collections.abc import Callable

from tests.fix_archiving import FileShelf, fingerprint
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until
from tests.fix_shipping import (
    FAST,
    ask_agent,
    copy_running,
    make_beside,
    tail_objects,
    wait_shipped,
)


def set_archive_mode(cluster: Cluster, mode: str) -> None:
    cluster.sql(f"ALTER SYSTEM SET archive_mode = {mode}")
    cluster.restart()


def write_and_recycle(cluster: Cluster, segments: int = 3) -> None:
    """Fill segments, and let checkpoints remove or recycle what need not be kept."""
    for _ in range(segments):
        cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("CHECKPOINT")


def wait_said(installation: Installation, part: str) -> str:
    """Wait until the agent refuses its server for this reason; the hint that it gives."""
    hint = None

    def is_said() -> bool:
        nonlocal hint
        source = ask_agent(installation).source
        hint = source.hint
        return part in str(source.reason)

    wait_until(is_said, f"{part!r}; the agent:\n{installation.agent_log[-3000:]}", 60)
    return str(hint)


def test_a_server_that_recycles_what_is_archived_is_recognised_after_every_restart(
    shipping: Installation,
) -> None:
    cluster = shipping.cluster
    for restart in ("agent", "server", "server killed", "both"):
        newest = shipping.archive_now()
        if restart != "agent":  # else it is idle, at the begin of a segment
            write_and_recycle(cluster)
            newest = shipping.archive_now()
            cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
            cluster.sql("CHECKPOINT")
            cluster.sql("CHECKPOINT")
            assert not (cluster.wal_dir / newest).exists()
        if restart.startswith("server"):
            cluster.stop("immediate" if restart == "server killed" else "fast")
            shipping.kill_agent()
            cluster.start()
        elif restart == "both":
            cluster.restart()
            shipping.stop_agent()
        else:
            shipping.stop_agent()
        shipping.start_agent()
        shipping.wait_recognised()
        assert "source_refused" not in shipping.agent_log
        wait_shipped(shipping, timeout_s=60)


def test_wal_that_was_lost_while_archiving_was_off_is_named_and_accepted_once(
    shipping: Installation,
) -> None:
    cluster = shipping.cluster
    newest = shipping.archive_now()
    write_and_recycle(cluster, 1)
    name, _ = wait_shipped(shipping)
    assert name > newest
    shipping.kill_agent()
    set_archive_mode(cluster, "off")
    write_and_recycle(cluster)
    set_archive_mode(cluster, "on")
    before = fingerprint(FileShelf(shipping.repository))

    shipping.start_agent()
    hint = wait_said(shipping, "cannot be shown to go on where the archive ends")
    assert f'accept_gap = "{name}"' in hint
    write_and_recycle(cluster)
    cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", "t", timeout_s=60)
    shipping.kill_agent()
    assert "accept_gap" in shipping.run("backup", code=15).stderr
    assert fingerprint(FileShelf(shipping.repository)) == before

    shipping.configure(f'accept_gap = "{name}"\n{FAST}')
    shipping.start_agent()
    shipping.wait_recognised()
    shipping.archive_now()
    shipping.run("backup")
    shipping.run("restore", "--target-dir", shipping.root / "restored", "--plan")

    # The next time is another gap, which nobody has accepted.
    shipping.kill_agent()
    set_archive_mode(cluster, "off")
    write_and_recycle(cluster)
    set_archive_mode(cluster, "on")
    shipping.start_agent()
    assert f'accept_gap = "{name}"' not in wait_said(shipping, "cannot be shown to go on")


def test_a_copy_that_lived_without_archiving_and_recycled_its_wal_is_refused(
    shipping: Installation,
    adopt_cluster: Callable[..., Cluster],
    make_installation: MakeInstallation,
) -> None:
    clone = adopt_cluster(copy_running(shipping, "copy"))
    copy = make_beside(make_installation, shipping, clone)
    newest = shipping.archive_now()

    clone.start()
    set_archive_mode(clone, "off")
    while clone.value("SELECT pg_walfile_name(pg_current_wal_lsn())") <= newest:
        write_and_recycle(clone, 1)
    write_and_recycle(clone)
    assert not (clone.wal_dir / newest).exists()
    set_archive_mode(clone, "on")
    name, _ = wait_shipped(shipping)
    wait_until(
        lambda: all(f"tail/{name}/" in one for one in tail_objects(shipping)),
        "the tails of whole segments to be deleted",
    )
    before = fingerprint(FileShelf(shipping.repository))
    copy.start_agent()
    hint = wait_said(copy, "pg_wal begins with")
    assert "is this a copy? give it an archive of its own ([cluster] archive)" in hint
    write_and_recycle(clone)
    clone.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", "t", timeout_s=60)
    tail = f"/tail/{wait_shipped(shipping)[0]}/"
    after = fingerprint(FileShelf(shipping.repository))
    assert {name for name in after if tail not in name} == {n for n in before if tail not in n}


def test_an_archive_that_has_lost_its_newest_segments_is_told_of_and_archiving_goes_on(
    shipping: Installation,
) -> None:
    cluster = shipping.cluster
    shipping.run("backup")
    names = [shipping.archive_now() for _ in range(3)]
    write_and_recycle(cluster)
    lost = [*names, shipping.archive_now()]
    cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
    cluster.sql("CHECKPOINT")
    cluster.sql("CHECKPOINT")
    shipping.stop_agent()
    for name in lost:
        (path,) = shipping.repository.rglob(f"wal/*/*/{name}.zst.age")
        path.unlink()
        assert not (cluster.wal_dir / name).exists()

    shipping.start_agent()
    shipping.wait_recognised()
    assert f"{lost[-1]}.zst.age" in str(ask_agent(shipping).archiving.lost)
    findings = shipping.run("status", code=3).stdout
    assert "the archive has lost WAL that was acknowledged" in findings

    shipping.archive_now()
    assert ask_agent(shipping).archiving.lost is None
    assert lost[0] in shipping.run("status", code=3).stdout  # now a gap
    shipping.run("backup")
    shipping.run("restore", "--target-dir", shipping.root / "restored", "--plan")
