"""The payload of one object: decrypted, decompressed and held against its header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from walkeeper.codec.age_header import decode_base64
from walkeeper.codec.age_stream import StreamDecryptor
from walkeeper.codec.compress import STEP_BYTES, Decompressor
from walkeeper.codec.stanza import ObjectFacts
from walkeeper.codec.writer import SigningKey
from walkeeper.core.layout import ObjectName
from walkeeper.errors import FormatTooNew, IntegrityError

Buffer = bytes | bytearray | memoryview


@contextmanager
def named(name: ObjectName) -> Iterator[None]:
    """Put the object's name before what the layers below say of it."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", hint=error.hint) from error
    except FormatTooNew as error:
        raise FormatTooNew(f"{name}: {error.message}", hint=error.hint) from error


class ObjectReader:
    """Reads one payload; made by `Opener.open`.

    Ciphertext goes in by ``feed`` in pieces of any size (best 256 KiB to 1 MiB), plaintext comes
    out in blocks of at most ``step_bytes``. What came out is authentic, but that it is *all* is
    known only when ``finish`` has been iterated to its end: ``complete`` is then true. Errors are
    `IntegrityError` and name the object; the reader is of no use afterwards.
    """

    def __init__(
        self,
        name: ObjectName,
        facts: ObjectFacts,
        file_key: bytes,
        signing: SigningKey | None,
        *,
        step_bytes: int = STEP_BYTES,
    ) -> None:
        self._name = name
        self._facts = facts
        self._decryptor = StreamDecryptor(file_key)
        self._decompressor = Decompressor(facts.size, step_bytes=step_bytes)
        self._signing = signing if facts.content is not None else None
        self._digest = hashlib.sha256()
        self._stored = 0
        self.complete = False
        self.frames: tuple[bytes, ...] = ()
        """Payloads of the skippable frames behind the content, once ``complete``."""

    @property
    def plain_size(self) -> int:
        """Bytes of plaintext given out."""
        return self._decompressor.plain_size

    def feed(self, ciphertext: Buffer) -> Iterator[bytes]:
        """Take ciphertext in at once, then give out what it makes readable as it is iterated.

        What is left over comes out of the next call.
        """
        with named(self._name):
            self._take(self._decryptor.decrypt(ciphertext))
        return self._blocks()

    def finish(self) -> Iterator[bytes]:
        """Give out the rest, and check that it is all; to be iterated to its end."""
        with named(self._name):
            self._take(self._decryptor.finish())
        yield from self._blocks()
        with named(self._name):
            self.frames = self._decompressor.finish()
            self._check_totals()
        self.complete = True

    def _take(self, compressed: Buffer) -> None:
        self._stored += len(compressed)
        if self._facts.stored is not None and self._stored > self._facts.stored:
            raise IntegrityError("more is stored than its header says")
        self._decompressor.feed(compressed)

    def _blocks(self) -> Iterator[bytes]:
        with named(self._name):
            for block in self._decompressor.drain():
                if self._signing is not None:
                    self._digest.update(block)
                yield block

    def _check_totals(self) -> None:
        if self._facts.stored is not None and self._stored != self._facts.stored:
            raise IntegrityError("less is stored than its header says")
        if self._facts.size is not None and self.plain_size != self._facts.size:
            raise IntegrityError(f"it holds {self.plain_size} bytes, not {self._facts.size}")
        if self._signing is not None and self._facts.content is not None:
            content = self._signing.content_code(self._digest.digest())
            if content != decode_base64(self._facts.content):
                raise IntegrityError("its content is not what its header says")
