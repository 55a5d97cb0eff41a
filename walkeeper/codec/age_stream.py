"""The payload of an age file: STREAM in chunks of 64 KiB (C2SP age specification, "Payload").

A nonce, then ChaCha20-Poly1305 chunks whose nonces count up (11 bytes, big endian) and end in 1
for the last chunk, else in 0. cryptography's ``encrypt_into`` and ``decrypt_into`` release the
GIL from version 50 on.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from walkeeper.codec.age_header import derive
from walkeeper.errors import IntegrityError

Buffer = bytes | bytearray | memoryview

CHUNK_BYTES: Final = 64 * 1024
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 16
_SEALED_BYTES: Final = CHUNK_BYTES + TAG_BYTES
_ROOM: Final = bytes(_SEALED_BYTES)


def payload_size(plain_bytes: int) -> int:
    """Bytes of a payload that carries ``plain_bytes``: the nonce, and a tag for each chunk."""
    chunks = max(1, -(-plain_bytes // CHUNK_BYTES))
    return NONCE_BYTES + plain_bytes + TAG_BYTES * chunks


def _cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive(file_key, salt=nonce, info=b"payload"))


def _chunk_nonce(counter: int, *, last: bool) -> bytes:
    # to_bytes raises OverflowError at 2^88 chunks: a nonce is never used twice.
    return counter.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


class Output(Protocol):
    """Where ciphertext goes."""

    def room(self, size_bytes: int) -> memoryview:
        """The next bytes, to be filled and released before more of them are asked for."""
        ...


class Piece:
    """Bytes in front, and the ciphertext that is put behind them."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    def room(self, size_bytes: int) -> memoryview:
        """See `Output`; at most a chunk and its tag."""
        begin = len(self.content)
        self.content += _ROOM[:size_bytes]
        return memoryview(self.content)[begin:]


class StreamEncryptor:
    """Encrypts a stream piece by piece; holds back at most one chunk, for it may be the last."""

    def __init__(self, file_key: bytes) -> None:
        self._nonce = os.urandom(NONCE_BYTES)
        self._cipher = _cipher(file_key, self._nonce)
        self._pending = bytearray()
        self._counter = 0

    def begin(self, into: Output) -> None:
        """Append the nonce to ``into``; called once, before everything else."""
        with into.room(NONCE_BYTES) as target:
            target[:] = self._nonce

    def encrypt(self, data: Buffer, into: Output) -> None:
        """Take ``data`` in and append every chunk that is complete and not the last to ``into``."""
        with memoryview(data) as whole:
            begin = 0
            if self._pending:
                begin = CHUNK_BYTES - len(self._pending)
                self._pending += whole[:begin]
                if begin >= len(whole):
                    return
                self._seal(self._pending, into)
                self._pending.clear()
            # Straight from the caller's memory: a copy on the way holds up all other threads.
            while len(whole) - begin > CHUNK_BYTES:
                self._seal(whole[begin : begin + CHUNK_BYTES], into)
                begin += CHUNK_BYTES
            self._pending += whole[begin:]

    def finish(self, into: Output) -> None:
        """Append the last chunk; the encryptor is of no use afterwards."""
        self._seal(self._pending, into, last=True)
        self._pending.clear()

    def _seal(self, chunk: Buffer, into: Output, *, last: bool = False) -> None:
        nonce = _chunk_nonce(self._counter, last=last)
        with into.room(len(chunk) + TAG_BYTES) as target:
            self._cipher.encrypt_into(nonce, chunk, None, target)
        self._counter += 1


class StreamDecryptor:
    """Decrypts a payload piece by piece; gives out only what was authenticated.

    Errors are `IntegrityError`. Only `finish` tells a whole payload from one that was cut.
    """

    def __init__(self, file_key: bytes) -> None:
        self._file_key = file_key
        self._cipher: ChaCha20Poly1305 | None = None
        self._pending = bytearray()
        self._counter = 0
        self._ended = False

    def decrypt(self, data: Buffer) -> bytearray:
        """Take ciphertext in and return all of it that is readable: every chunk of full size."""
        self._pending += data
        if self._cipher is None:
            if len(self._pending) < NONCE_BYTES:
                return bytearray()
            self._cipher = _cipher(self._file_key, bytes(self._pending[:NONCE_BYTES]))
            del self._pending[:NONCE_BYTES]
        if self._ended and self._pending:
            raise _excess()
        return self._open_full(self._cipher)

    def finish(self) -> bytes:
        """Return the rest; raises `IntegrityError` when the payload was cut or extended."""
        if self._ended:
            if self._pending:
                raise _excess()
            return b""
        if self._cipher is None or len(self._pending) < TAG_BYTES:
            raise IntegrityError("the encrypted payload is cut")
        nonce = _chunk_nonce(self._counter, last=True)
        try:
            plain = self._cipher.decrypt(nonce, bytes(self._pending), None)
        except InvalidTag:
            raise IntegrityError("the encrypted payload is damaged or cut") from None
        if not plain and self._counter:
            raise IntegrityError("the encrypted payload ends in an empty chunk")
        self._pending.clear()
        self._ended = True
        return plain

    def _open_full(self, cipher: ChaCha20Poly1305) -> bytearray:
        chunks = len(self._pending) // _SEALED_BYTES
        plain = bytearray(chunks * CHUNK_BYTES)
        done = 0
        with memoryview(self._pending) as source, memoryview(plain) as target:
            while done < chunks and not self._ended:
                self._open(
                    cipher,
                    source[done * _SEALED_BYTES : (done + 1) * _SEALED_BYTES],
                    target[done * CHUNK_BYTES : (done + 1) * CHUNK_BYTES],
                )
                done += 1
        del plain[done * CHUNK_BYTES :]
        del self._pending[: done * _SEALED_BYTES]
        return plain

    def _open(self, cipher: ChaCha20Poly1305, sealed: memoryview, into: memoryview) -> None:
        """Decrypt a chunk of full size, which may be the last: only its nonce tells."""
        try:
            cipher.decrypt_into(_chunk_nonce(self._counter, last=False), sealed, None, into)
        except InvalidTag:
            try:
                cipher.decrypt_into(_chunk_nonce(self._counter, last=True), sealed, None, into)
            except InvalidTag:
                raise IntegrityError("the encrypted payload is damaged") from None
            self._ended = True
        self._counter += 1


def _excess() -> IntegrityError:
    return IntegrityError("bytes follow the end of the encrypted payload")
