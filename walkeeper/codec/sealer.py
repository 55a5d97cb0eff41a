"""Plaintext to stored objects: hash, compress, encrypt, sign, in one pass.

`Sealer.seal` is for content that is at hand: the header is made last, so that it carries size and
content code. `Sealer.start` is for content that comes as it is read: the header goes out first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import BinaryIO, Final

from walkeeper.codec.age_header import (
    FILE_KEY_BYTES,
    MAX_STANZAS,
    encode_base64,
    encode_header,
)
from walkeeper.codec.age_stream import Output, Piece, StreamEncryptor
from walkeeper.codec.compress import Compressor, skippable_frame
from walkeeper.codec.memory import PayloadMemory
from walkeeper.codec.sealed import SealedObject, SealedPayload
from walkeeper.codec.stanza import (
    ObjectContext,
    ObjectFacts,
    commitment,
    encode_object_stanza,
)
from walkeeper.codec.writer import SigningKey
from walkeeper.codec.x25519 import wrap
from walkeeper.core.keyring import Recipient
from walkeeper.core.layout import ObjectName
from walkeeper.errors import KeyUnavailable

Buffer = bytes | bytearray | memoryview

DEFAULT_LEVEL: Final = 1


def _now() -> datetime:
    return datetime.now(UTC)


class Sealer:
    """Makes objects for these recipients, signed with this key. Safe to share between threads."""

    def __init__(
        self,
        recipients: Sequence[Recipient],
        signing: SigningKey,
        context: ObjectContext,
        *,
        level: int = DEFAULT_LEVEL,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Raises `KeyUnavailable` when there is no recipient or more than a header can hold."""
        if not 1 <= len(recipients) < MAX_STANZAS:
            raise KeyUnavailable(
                f"objects need between 1 and {MAX_STANZAS - 1} recipients, not {len(recipients)}",
                hint="set [encryption] recipients",
            )
        self._recipients = tuple(recipients)
        self._signing = signing
        self._context = context
        self._level = level
        self._clock = clock
        self._memory = PayloadMemory()

    @property
    def signing(self) -> SigningKey:
        """The key that signs, for plain JSON objects."""
        return self._signing

    def seal(
        self,
        name: ObjectName | Callable[[bytes], ObjectName],
        blocks: Iterable[Buffer],
        *,
        frames: Sequence[bytes] = (),
        on_block: Callable[[Buffer], None] | None = None,
        spool: Callable[[], BinaryIO] | None = None,
        spool_over_bytes: int = 0,
    ) -> SealedObject:
        """Seal content whose blocks (best 256 KiB to 1 MiB) are read once, in order.

        A name that depends on the content is a function of the content code, called at the end.
        ``frames`` are stored behind the content, in skippable zstd frames. ``on_block`` sees each
        block before it is taken; what it raises ends the work. With ``spool`` a payload of more
        than ``spool_over_bytes`` goes to a buffered file that ``spool`` opens, which the result
        owns (its OSErrors pass through); else it is held in memory: about the compressed size.
        """
        file_key = os.urandom(FILE_KEY_BYTES)
        stream = _Stream(file_key, self._level)
        payload = SealedPayload(self._memory, spool, spool_over_bytes)
        try:
            stream.begin(payload)
            for block in blocks:
                if on_block is not None:
                    on_block(block)
                stream.add(block, payload)
                payload.spill()
            stream.end(frames, payload)
            payload.spill()
            payload.settle()
            content = self._signing.content_code(stream.sha256)
            final_name = name(content) if callable(name) else name
            header = self._header(final_name, file_key, stream, content)
            return SealedObject(
                name=final_name,
                header=header,
                payload=payload,
                plain_size=stream.plain_size,
                stored=stream.stored,
                content=content,
            )
        except BaseException:
            payload.close()
            raise

    def start(self, name: ObjectName) -> ObjectWriter:
        """Begin an object whose content is not known beforehand."""
        file_key = os.urandom(FILE_KEY_BYTES)
        # Its header cannot carry a content code, so no digest of the plaintext is needed.
        stream = _Stream(file_key, self._level, with_digest=False)
        return ObjectWriter(self._header(name, file_key), stream)

    def _header(
        self,
        name: ObjectName,
        file_key: bytes,
        stream: _Stream | None = None,
        content: bytes | None = None,
    ) -> bytes:
        recipients = b"".join(wrap(file_key, recipient) for recipient in self._recipients)
        facts = ObjectFacts(
            name=name,
            archive=self._context.archive,
            system_identifier=self._context.system_identifier,
            requires=(),
            written=self._clock(),
            writer=self._context.writer,
            commit=encode_base64(commitment(file_key)),
            recipients=encode_base64(hashlib.sha256(recipients).digest()),
            size=stream.plain_size if stream is not None else None,
            stored=stream.stored if stream is not None else None,
            content=encode_base64(content) if content is not None else None,
        )
        return encode_header(encode_object_stanza(facts, self._signing) + recipients, file_key)


class ObjectWriter:
    """An object being written; pieces come out ready to be stored, in order.

    ``sha256`` and ``size_bytes`` are those of the stored bytes given out so far; ``plain_size``
    counts what was taken in.
    """

    def __init__(self, header: bytes, stream: _Stream) -> None:
        self._out = Piece(header)
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        stream.begin(self._out)

    def write(self, data: Buffer) -> list[bytearray]:
        """Take content in; returns what can be stored now: nothing or one piece."""
        self._stream.add(data, self._out)
        return self._give()

    def finish(self, frames: Sequence[bytes] = ()) -> list[bytearray]:
        """End the object; ``frames`` as in `Sealer.seal`. Returns the last piece."""
        self._stream.end(frames, self._out)
        return self._give()

    @property
    def plain_size(self) -> int:
        """Bytes of content taken in."""
        return self._stream.plain_size

    @property
    def sha256(self) -> bytes:
        """Digest of all pieces given out."""
        return self._digest.digest()

    def _give(self) -> list[bytearray]:
        piece, self._out = self._out.content, Piece()
        self._digest.update(piece)
        self.size_bytes += len(piece)
        return [piece] if piece else []


class _Stream:
    """SHA-256, zstd and STREAM, one behind the other, appending to the caller's buffer."""

    def __init__(self, file_key: bytes, level: int, *, with_digest: bool = True) -> None:
        self._digest = hashlib.sha256() if with_digest else None
        self._compressor = Compressor(level)
        self._encryptor = StreamEncryptor(file_key)
        self.plain_size = 0
        self.stored = 0

    @property
    def sha256(self) -> bytes:
        assert self._digest is not None, "it was begun without a digest"
        return self._digest.digest()

    def begin(self, into: Output) -> None:
        self._encryptor.begin(into)

    def add(self, block: Buffer, into: Output) -> None:
        if self._digest is not None:
            self._digest.update(block)
        self.plain_size += len(block)
        self._store(self._compressor.compress(block), into)

    def end(self, frames: Sequence[bytes], into: Output) -> None:
        self._store(self._compressor.finish(), into)
        for frame in frames:
            self._store(skippable_frame(frame), into)
        self._encryptor.finish(into)

    def _store(self, compressed: bytes, into: Output) -> None:
        if compressed:
            self.stored += len(compressed)
            self._encryptor.encrypt(compressed, into)
