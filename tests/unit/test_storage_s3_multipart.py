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
from walkeeper.storage.s3_multipart import PieceCutter


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
            cutter = PieceCutter(source(), piece_bytes, executor)
            pieces = [await cutter.next_piece()]
            while not cutter.is_done:
                pieces.append(await cutter.next_piece())
        for piece in pieces:
            assert piece.md5 == hashlib.md5(piece.data).digest()
            assert base64.b64decode(piece.md5_base64) == piece.md5
        return [piece.data for piece in pieces]

    pieces = asyncio.run(cut())
    content = b"".join(chunks)
    assert b"".join(pieces) == content
    assert all(len(piece) == piece_bytes for piece in pieces[:-1])
    assert pieces[-1] or not content
    assert len(pieces) == max(1, -(-len(content) // piece_bytes))
