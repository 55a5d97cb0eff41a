"""Headers made without tarfile are those that it makes."""

import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walkeeper.services.tar_header import directory_header, file_header

NAMES = st.one_of(
    st.from_regex(r"base/[1-9][0-9]{0,9}/[1-9][0-9]{0,9}(_fsm|_vm)?(\.[0-9]+)?", fullmatch=True),
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=120
    ),
)


def tarfile_header(path, mode, mtime_ns, size):
    info = tarfile.TarInfo(path)
    info.mode, info.mtime, info.size = mode, mtime_ns // 1_000_000_000, size
    info.uname, info.gname = "root", "root"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@given(NAMES, st.integers(0, 0o7777), st.integers(-(10**18), 10**19 * 9), st.integers(0, 1 << 42))
@example("a" * 100, 0o600, 0, 8**11 - 1)
@example("a" * 101, 0o600, 0, 8**11)
@example("base/5/caf\udce9", 0o600, 8**11 * 10**9, 1)
def test_a_files_header_is_tarfiles(path, mode, mtime_ns, size):
    expected = tarfile_header(path, mode, mtime_ns, size)
    assert file_header(path, mode, mtime_ns, (0, 0), size) == expected


@pytest.mark.parametrize("path", ["base/5", "deep/" * 40])
def test_a_directorys_header_says_so(path):
    header = directory_header(path, 0o700, 10**18, (0, 0))
    with_end = header + bytes(2 * tarfile.BLOCKSIZE)
    member = tarfile.TarInfo.frombuf(with_end[-3 * 512 : -2 * 512], "utf-8", "strict")
    assert (member.isdir(), member.mode, member.mtime) == (True, 0o700, 10**9)
