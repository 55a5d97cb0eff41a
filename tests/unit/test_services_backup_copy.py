"""Who reads what, so that nobody waits for anybody else."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.postgres.data_dir import DataEntry, EntryKind
from walkeeper.services.backup_copy import SpareThreads
from walkeeper.services.backup_source import EntrySource

PATIENCE_S = 60


def entry(kind, path, size=0):
    return DataEntry(kind, path, f"/data/{path}", None, 0o600, 0, 0, size, 0)


def file(path, size):
    return entry(EntryKind.FILE, path, size)


def taken(*entries):
    source = EntrySource(None, iter(entries))
    return [one.path for one in iter(source.take, None)], source


def test_large_files_are_read_first_and_equal_ones_in_their_order():
    order, _ = taken(file("a", 1), file("b", 9), file("c", 1), file("d", 5), file("e", 9))
    assert order == ["b", "e", "d", "a", "c"]


def test_a_directory_comes_before_what_is_in_it():
    folder = entry(EntryKind.DIRECTORY, "base")
    order, _ = taken(file("PG_VERSION", 3), folder, file("base/1", 8192))
    assert order.index("base") < order.index("base/1")


@given(st.lists(st.integers(0, 1 << 30), max_size=3000))
def test_every_file_is_read_once(sizes):
    files = [file(str(number), size) for number, size in enumerate(sizes)]
    skipped = entry(EntryKind.SKIPPED, "link")
    order, source = taken(*files, skipped)
    assert sorted(order, key=int) == [one.path for one in files]
    assert len(source.skipped) == 1


def test_while_all_readers_work_each_does_its_own_work():
    seen = []
    with ThreadPoolExecutor(1) as pool:
        SpareThreads(pool).begin(lambda: seen.append(threading.get_ident()))()
    assert seen == [threading.get_ident()]


def test_an_idle_readers_thread_does_some_of_it():
    seen = []
    with ThreadPoolExecutor(1) as pool:
        spare = SpareThreads(pool)
        spare.idle = 1
        begun, go_on = threading.Event(), threading.Event()

        def work():
            begun.set()
            go_on.wait(PATIENCE_S)
            seen.append(threading.get_ident())

        finish = spare.begin(work)
        assert begun.wait(PATIENCE_S)
        go_on.set()
        finish()
    assert len(seen) == 1
    assert seen != [threading.get_ident()]


def test_nobody_waits_for_a_thread_that_never_comes_free():
    seen = []
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, PATIENCE_S)
        spare = SpareThreads(pool)
        spare.idle = 1
        spare.begin(lambda: seen.append(threading.get_ident()))()
        assert seen == [threading.get_ident()]
        release.set()
