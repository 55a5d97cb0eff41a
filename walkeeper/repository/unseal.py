"""Stored objects to content in the caller's own thread, without a hop for each block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from walkeeper.codec.compress import SMALL_STEP_BYTES
from walkeeper.codec.opener import Opener
from walkeeper.codec.reader import ObjectReader
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError
from walkeeper.repository.archive import StoredDigest
from walkeeper.storage.base import Buffer

_SLICE_BYTES: Final = 32 << 10
"""What is decrypted at once: with a chunk held back it stays below malloc's threshold as well."""


def unseal(
    opener: Opener, name: ObjectName, chunks: Iterable[bytes], *, expected: StoredDigest
) -> Iterator[bytes]:
    """The content of an object whose stored bytes come in ``chunks``, as it is iterated.

    The same checks as `Archive.open`: the stored bytes must have the size and digest of
    ``expected``, and the content is whole only when the iteration has come to its end. Raises
    IntegrityError, WrongKey, and what ``chunks`` raises. A block is to be let go before the next
    one is asked for: then all of them use the same memory.
    """
    reader = None
    head = b""
    for chunk in _digested(name, chunks, expected):
        rest: Buffer = chunk
        if reader is None:
            head += chunk
            header = opener.read_header(name, head)
            if header is None:
                continue
            reader = opener.open(header, step_bytes=SMALL_STEP_BYTES)
            rest = memoryview(head)[header.size_bytes :]
        yield from feed_in_slices(reader, rest)
    if reader is None:
        raise IntegrityError(f"{name}: the age header is cut")
    yield from reader.finish()


def feed_in_slices(reader: ObjectReader, chunk: Buffer) -> Iterator[bytes]:
    """The blocks that a chunk of stored bytes makes readable, little by little."""
    view = memoryview(chunk)
    for begin in range(0, len(view), _SLICE_BYTES):
        yield from reader.feed(view[begin : begin + _SLICE_BYTES])


def _digested(name: ObjectName, chunks: Iterable[bytes], expected: StoredDigest) -> Iterator[bytes]:
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
        yield chunk
    if StoredDigest(size, digest.hexdigest()) != expected:
        raise IntegrityError(f"{name} is not the object that the backup's manifest names")
