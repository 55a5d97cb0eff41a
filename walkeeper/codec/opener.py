"""Stored objects to plaintext: what is not exactly what was written is refused.

Reading a header needs no identity: signature, name, archive and everything the header says are
checked with the writers' public keys. Every error names the object.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from walkeeper.codec.age_header import MAX_HEADER_BYTES, AgeHeader, decode_base64, parse_header
from walkeeper.codec.age_stream import payload_size
from walkeeper.codec.compress import STEP_BYTES
from walkeeper.codec.reader import Buffer, ObjectReader, named
from walkeeper.codec.stanza import ObjectFacts, commitment, decode_object_stanza
from walkeeper.codec.writer import SigningKey, check_writers
from walkeeper.codec.x25519 import Unwrapper
from walkeeper.core.keyring import Identity, Writer
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError, KeyUnavailable, WrongKey


@dataclass(frozen=True, slots=True)
class ObjectHeader:
    """The header of an object, checked as far as that goes without an identity."""

    name: ObjectName
    facts: ObjectFacts
    age: AgeHeader
    signer: Writer | None = None
    """Which of the believed writers signed it; None where everybody is believed."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the header itself; the payload follows."""
        return len(self.age.text)

    @property
    def content(self) -> bytes | None:
        """Content code, or None when the content was not known when the header was written."""
        return None if self.facts.content is None else decode_base64(self.facts.content)

    def implied_size(self) -> int | None:
        """Bytes that the whole object must have, or None when the header does not tell."""
        if self.facts.stored is None:
            return None
        return self.size_bytes + payload_size(self.facts.stored)


@dataclass(frozen=True, slots=True)
class OpenedObject:
    """A small object that was read whole."""

    facts: ObjectFacts
    plaintext: bytes
    frames: tuple[bytes, ...]
    """Payloads of the skippable frames behind the content."""


class Opener:
    """Opens objects of one archive. Safe to share between threads."""

    def __init__(
        self,
        *,
        archive: str,
        system_identifier: str,
        writers: Sequence[Writer],
        identities: Sequence[Identity] = (),
        signing: SigningKey | None = None,
        allow_unsigned: bool = False,
    ) -> None:
        """With ``signing`` the content codes of opened objects are checked too.

        Raises `KeyUnavailable` when no writer is given and signatures matter.
        """
        check_writers(writers, allow_unsigned=allow_unsigned)
        self._archive = archive
        self._system_identifier = system_identifier
        self._writers = None if allow_unsigned else tuple(writers)
        self._unwrapper = Unwrapper(identities) if identities else None
        self._signing = signing

    @property
    def writers(self) -> tuple[Writer, ...]:
        """Whose signatures are believed; of no meaning with ``allow_unsigned``."""
        return self._writers or ()

    @property
    def allow_unsigned(self) -> bool:
        """Whether signatures are passed over."""
        return self._writers is None

    @property
    def can_open(self) -> bool:
        """Whether an identity is at hand."""
        return self._unwrapper is not None

    def read_header(
        self, name: ObjectName, data: Buffer, *, complete: bool = False
    ) -> ObjectHeader | None:
        """Read the header at the beginning of an object, or None when more bytes are needed.

        ``complete`` says that no more bytes follow. Raises `IntegrityError` for anything that a
        known writer did not write under this name in this archive, and `FormatTooNew`.
        """
        with named(name):
            age = parse_header(bytes(memoryview(data)[:MAX_HEADER_BYTES]))
            if age is None:
                if complete:
                    raise IntegrityError("the age header is cut")
                return None
            facts, signer = decode_object_stanza(age, self._writers)
            self._check(name, facts, age)
            return ObjectHeader(name, facts, age, signer)

    def open(self, header: ObjectHeader, *, step_bytes: int = STEP_BYTES) -> ObjectReader:
        """A reader for the payload behind this header, whose blocks have ``step_bytes`` at most.

        Raises `KeyUnavailable` without an identity, `WrongKey` when none of them fits, and
        `IntegrityError` when the header was changed.
        """
        if self._unwrapper is None:
            raise KeyUnavailable(
                f"{header.name}: an identity is needed to open it",
                hint="set [encryption] identity_file",
            )
        with named(header.name):
            file_key = self._unwrapper.find_file_key(header.age.stanzas)
            if file_key is None:
                raise WrongKey(
                    f"{header.name}: none of the identities at hand opens it",
                    hint="use the identity of one of the recipients it was written for",
                )
            header.age.check_mac(file_key)
            if not hmac.compare_digest(commitment(file_key), decode_base64(header.facts.commit)):
                raise IntegrityError("the file key is not the one it was written with")
        # A content code can be checked only with the key that made it.
        own = self._signing if self._signing and self._signing.writer == header.signer else None
        return ObjectReader(header.name, header.facts, file_key, own, step_bytes=step_bytes)

    def open_whole(self, name: ObjectName, data: Buffer, *, limit_bytes: int) -> OpenedObject:
        """Open a small object that is in memory; refuses more than ``limit_bytes`` of content."""
        header = self.read_header(name, data, complete=True)
        assert header is not None
        reader = self.open(header)
        plain = bytearray()
        for step in (reader.feed(memoryview(data)[header.size_bytes :]), reader.finish()):
            for block in step:
                plain += block
                if len(plain) > limit_bytes:
                    raise IntegrityError(f"{name}: it holds more than {limit_bytes} bytes")
        return OpenedObject(header.facts, bytes(plain), reader.frames)

    def _check(self, name: ObjectName, facts: ObjectFacts, age: AgeHeader) -> None:
        if facts.name != name:
            raise IntegrityError(f"it was written as {facts.name}: moved or swapped")
        if facts.archive != self._archive:
            raise IntegrityError(f"it belongs to another archive, {facts.archive}")
        if facts.system_identifier != self._system_identifier:
            raise IntegrityError(f"it belongs to another cluster, {facts.system_identifier}")
        recipients = hashlib.sha256(age.recipients).digest()
        if recipients != decode_base64(facts.recipients):
            raise IntegrityError("the recipients in the age header were changed")
