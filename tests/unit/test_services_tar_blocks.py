"""A tar in blocks: the same members and bytes, however it is cut, and never less than all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.services.tar_blocks import TarBlocks

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=130)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=6)


def tar_of(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(tar: TarBlocks, unread: frozenset[int] = frozenset()) -> list[tuple[str, bytes]]:
    return [
        (member.name, b"" if number in unread else b"".join(map(bytes, tar.content(member))))
        for number, member in enumerate(tar.members())
    ]


@given(FILES, st.lists(st.integers(1, 20_000)), st.frozensets(st.integers(0, 5)))
def test_members_come_as_they_were_put_in(
    files: list[tuple[str, bytes]], cuts: list[int], unread: frozenset[int]
) -> None:
    whole = tar_of(files)
    edges = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]
    tar = TarBlocks(whole[begin:end] for begin, end in pairwise(edges))
    assert read(tar, unread) == [
        (name, b"" if number in unread else content) for number, (name, content) in enumerate(files)
    ]


def by_tarfile(whole: bytes) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(
        fileobj=io.BytesIO(whole), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as tar:
        yield from tar


def facts(members: Iterable[tarfile.TarInfo]) -> object:
    try:
        return [(one.name, one.size, one.mode, one.isreg(), one.isdir()) for one in members]
    except tarfile.TarError:
        return "refused"


@given(
    NAMES | st.from_regex(r"[a-z]{1,9}(/[0-9]{1,5}){1,3}", fullmatch=True),
    st.integers(0, 1000),
    st.sampled_from((tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)),
    st.sampled_from((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)),
    st.tuples(st.integers(0, 511), st.integers(0, 255)) | st.none(),
    st.booleans(),
)
def test_a_header_is_read_as_tarfile_reads_it_however_it_is_spoilt(
    name: str,
    size: int,
    form: int,
    kind: bytes,
    spoilt: tuple[int, int] | None,
    summed: bool,
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, 0o640, kind
    try:
        header = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    except ValueError:  # too long a name for the old format
        return
    if spoilt is not None:
        header[spoilt[0]] = spoilt[1]
        if summed:
            header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    whole = bytes(header) + bytes(4096)
    expected, found = facts(by_tarfile(whole)), facts(TarBlocks([whole]).members())
    # Fields that nobody asks for may hold anything, if only the sum is right.
    assert found == expected or (expected == "refused" and summed)


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("length", [512, 700, 1511, 1520])
def test_a_tar_that_ends_within_a_member_is_refused(length: int, taken: bool) -> None:
    tar = TarBlocks([tar_of([("a", b"x" * 1000), ("b", b"y")])[:length]])
    with pytest.raises(tarfile.TarError):
        read(tar, frozenset() if taken else frozenset({0}))


def test_an_error_behind_the_end_of_the_tar_is_met() -> None:
    def blocks():
        yield tar_of([("a", b"x")])
        raise RuntimeError("the digest is wrong")

    tar = TarBlocks(blocks())
    assert read(tar) == [("a", b"x")]
    with pytest.raises(RuntimeError, match="the digest is wrong"):
        tar.drain()
