"""Cutting a stream into pieces."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.storage.base import Buffer
from walkeeper.storage.s3_piece import PieceCutter, with_md5


@given(
    chunks=st.lists(st.binary(max_size=12), max_size=12),
    piece_bytes=st.integers(1, 20),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_pieces_are_the_stream_and_full_but_for_the_last(
    chunks: list[bytes], piece_bytes: int, kind: type
) -> None:
    async def source() -> AsyncIterator[Buffer]:
        for chunk in chunks:
            yield kind(chunk)

    async def cut() -> list[bytes]:
        with ThreadPoolExecutor(1) as executor:
            cutter = PieceCutter(source(), piece_bytes, with_md5, executor)
            pieces = [await cutter.next_piece()]
            while not cutter.is_done:
                pieces.append(await cutter.next_piece())
        for piece in pieces:
            assert base64.b64decode(piece.md5) == hashlib.md5(piece.data).digest()
            assert not piece.sha256
        return [bytes(piece.data) for piece in pieces]

    pieces = asyncio.run(cut())
    content = b"".join(chunks)
    assert b"".join(pieces) == content
    assert all(len(piece) == piece_bytes for piece in pieces[:-1])
    assert pieces[-1] or not content
    assert len(pieces) == max(1, -(-len(content) // piece_bytes))


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=12),
    piece_bytes=st.integers(1, 20),
)
def test_memory_that_was_given_back_holds_the_next_piece_and_the_caller_keeps_his_own(
    chunks: list[bytes], piece_bytes: int
) -> None:
    async def source() -> AsyncIterator[Buffer]:
        room = bytearray()
        for chunk in chunks:
            room[:] = chunk  # refused while somebody still holds a view of it
            yield room

    async def cut() -> tuple[bytes, set[int]]:
        stream, rooms = b"", set()
        with ThreadPoolExecutor(1) as executor:
            cutter = PieceCutter(source(), piece_bytes, with_md5, executor)
            while not cutter.is_done:
                piece = await cutter.next_piece()
                assert isinstance(piece.data, memoryview)
                stream += piece.data
                rooms.add(id(piece.data.obj))
                cutter.reuse(piece)
        return stream, rooms

    stream, rooms = asyncio.run(cut())
    assert stream == b"".join(chunks)
    assert len(rooms) == 1
