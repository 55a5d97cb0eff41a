"""The header of an age v1 file: stanzas and MAC (C2SP age specification, "Header").

Errors are `IntegrityError` without the object's name; `walkeeper.codec.opener` adds it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from walkeeper.errors import IntegrityError

MAX_HEADER_BYTES: Final = 64 * 1024
MAX_STANZAS: Final = 32
FILE_KEY_BYTES: Final = 16
"""Length of what the stanzas wrap (C2SP age, "File key")."""

_VERSION: Final = b"age-encryption.org/v1\n"
_COLUMNS: Final = 64
_MAC_LINE: Final = len("--- ") + 43
_ARGUMENTS: Final = re.compile(rb"-> [!-~]+(?: [!-~]+)*")


@dataclass(frozen=True, slots=True)
class Stanza:
    """One stanza; ``end`` is the offset in the header of the byte just after it."""

    args: tuple[str, ...]
    body: bytes
    end: int = 0


@dataclass(frozen=True, slots=True)
class AgeHeader:
    """A header as it stands in a file; ``text`` is all of it, MAC line and newline included."""

    stanzas: tuple[Stanza, ...]
    mac: bytes
    text: bytes

    @property
    def recipients(self) -> bytes:
        """The bytes of all stanzas after the first, as they stand in the header."""
        return self.text[self.stanzas[0].end : -_MAC_LINE - 1]

    def check_mac(self, file_key: bytes) -> None:
        """Raise `IntegrityError` unless the MAC is the one of this file key."""
        covered = self.text[: -_MAC_LINE - 1] + b"---"
        if not hmac.compare_digest(_mac(file_key, covered), self.mac):
            raise IntegrityError("the age header's MAC does not fit: the header was changed")


def derive(secret: bytes, *, info: bytes, salt: bytes = b"") -> bytes:
    """32 bytes of HKDF-SHA-256, the only key derivation of age and of walkeeper."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def encode_base64(data: bytes) -> str:
    """Unpadded standard base64, age's alphabet."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str | bytes) -> bytes:
    """Read canonical unpadded base64; raises ValueError for every other spelling."""
    raw = text.encode("ascii") if isinstance(text, str) else text
    try:
        data = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if base64.b64encode(data).rstrip(b"=") != raw:
        raise ValueError("not canonical base64")
    return data


def encode_stanza(args: tuple[str, ...], body: bytes) -> bytes:
    """A stanza's lines: arguments, then the body wrapped at 64 columns, the last line shorter."""
    text = encode_base64(body)
    lines = [text[begin : begin + _COLUMNS] for begin in range(0, len(text) + 1, _COLUMNS)]
    return "\n".join([f"-> {' '.join(args)}", *lines, ""]).encode("ascii")


def encode_header(stanzas: bytes, file_key: bytes) -> bytes:
    """A whole header of encoded stanzas, sealed with the MAC of the file key."""
    covered = _VERSION + stanzas + b"---"
    return covered + b" " + encode_base64(_mac(file_key, covered)).encode("ascii") + b"\n"


def parse_header(data: bytes) -> AgeHeader | None:
    """Read the header at the beginning of ``data``, or None when more bytes are needed.

    Nothing behind the first 64 KiB is looked at.

    Raises `IntegrityError` as soon as no further bytes could make it a header, or when it is
    larger than 64 KiB or has more than 32 stanzas.
    """
    data = data[:MAX_HEADER_BYTES]
    header = _Lines(data).read()
    if header is None and len(data) == MAX_HEADER_BYTES:
        raise _malformed(f"it is larger than {MAX_HEADER_BYTES} bytes")
    return header


class _Lines:
    """Walks over the lines of a header that may not be complete yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self) -> AgeHeader | None:
        if not self._data.startswith(_VERSION):
            if _VERSION.startswith(self._data):
                return None
            raise _malformed("it does not begin with the version line of age v1")
        self._at = len(_VERSION)
        stanzas: list[Stanza] = []
        while not self._data.startswith(b"---", self._at):
            stanza = self._stanza()
            if stanza is None:
                return None
            stanzas.append(stanza)
            if len(stanzas) > MAX_STANZAS:
                raise _malformed(f"it has more than {MAX_STANZAS} stanzas")
        return self._end(tuple(stanzas))

    def _line(self, limit: int, kind: str) -> bytes | None:
        """The next line, or None when it is not complete; refused when longer than ``limit``."""
        end = self._data.find(b"\n", self._at, self._at + limit + 1)
        if end < 0:
            if len(self._data) - self._at > limit:
                raise _malformed(f"{kind} is too long")
            return None
        line = self._data[self._at : end]
        self._at = end + 1
        return line

    def _stanza(self) -> Stanza | None:
        start = self._data[self._at : self._at + 3]
        if start in (b"", b"-", b"--"):
            return None
        if not b"-> ".startswith(start):
            raise _malformed("a stanza does not begin with an arrow")
        line = self._line(MAX_HEADER_BYTES, "a stanza's first line")
        if line is None:
            return None
        if _ARGUMENTS.fullmatch(line) is None:
            raise _malformed("a stanza's arguments are not separated words")
        body: list[bytes] = []
        while not body or len(body[-1]) == _COLUMNS:
            part = self._line(_COLUMNS, "a line of a stanza's body")
            if part is None:
                return None
            body.append(part)
        args = tuple(line.decode("ascii").split(" ")[1:])
        return Stanza(args, _decode(b"".join(body), "a stanza's body"), self._at)

    def _end(self, stanzas: tuple[Stanza, ...]) -> AgeHeader | None:
        line = self._line(_MAC_LINE, "the MAC line")
        if line is None:
            return None
        if not stanzas:
            raise _malformed("it has no stanza")
        if len(line) != _MAC_LINE or not line.startswith(b"--- "):
            raise _malformed("the MAC line has the wrong length")
        mac = _decode(line[4:], "the MAC")
        return AgeHeader(stanzas, mac, self._data[: self._at])


def _mac(file_key: bytes, covered: bytes) -> bytes:
    return hmac.digest(derive(file_key, info=b"header"), covered, "sha256")


def _decode(text: bytes, kind: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise _malformed(f"{kind} is {error}") from None


def _malformed(reason: str) -> IntegrityError:
    return IntegrityError(f"the age header is malformed: {reason}")
