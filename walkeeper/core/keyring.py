"""Keys as values: who may read (recipient, identity) and who may write (writer key, writer).

Recipients and writers are public. Identities and writer keys are secrets: their ``str`` and
``repr`` hide them, and only ``reveal()`` gives the text that belongs into a key file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from walkeeper.core import bech32

KEY_BYTES: Final = 32
"""Length of every key: X25519 (RFC 7748), Ed25519 (RFC 8032), and the writer key's chance."""


@dataclass(frozen=True, slots=True)
class _PublicKey:
    """32 public bytes under a Bech32 prefix."""

    key: bytes

    PREFIX: ClassVar[str]
    KIND: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"{self.KIND} has {KEY_BYTES} bytes, not {len(self.key)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the Bech32 form; raises ValueError that says what is wrong with it."""
        return cls(_decode(text, cls.PREFIX, cls.KIND))

    def __str__(self) -> str:
        return bech32.encode(self.PREFIX, self.key)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the key in messages and names: of its SHA-256."""
        return hashlib.sha256(self.key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _SecretKey:
    """32 secret bytes under a Bech32 prefix; never shown unless asked by name."""

    secret: bytes = field(repr=False)

    PREFIX: ClassVar[str]
    KIND: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"{self.KIND} has {KEY_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the Bech32 form; raises ValueError, which never quotes the text."""
        return cls(_decode(text, cls.PREFIX, cls.KIND))

    def reveal(self) -> str:
        """The secret as text, for a key file and nothing else."""
        return bech32.encode(self.PREFIX, self.secret)

    def __str__(self) -> str:
        return f"<{self.KIND}, hidden>"

    def __repr__(self) -> str:
        return str(self)


class Recipient(_PublicKey):
    """Whom objects are encrypted to: an X25519 public key, ``age1...`` (C2SP age)."""

    __slots__ = ()
    PREFIX = "age"
    KIND = "an age recipient"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``age1...``; raises ValueError, also for age's other kinds of recipients."""
        if text.startswith(("age1pq1", "age1tag1", "age1tagpq1")):
            raise ValueError("only X25519 recipients can be used: age1 and 58 more characters")
        return cls(_decode(text, cls.PREFIX, cls.KIND))


class Writer(_PublicKey):
    """Whose objects are believed: an Ed25519 public key, ``walkeeper-writer1...``."""

    __slots__ = ()
    PREFIX = "walkeeper-writer"
    KIND = "a writer"


class Identity(_SecretKey):
    """What opens objects: an X25519 secret, ``AGE-SECRET-KEY-1...`` (C2SP age)."""

    __slots__ = ()
    PREFIX = "AGE-SECRET-KEY-"
    KIND = "an age identity"


class WriterKey(_SecretKey):
    """What makes objects authentic: 32 bytes of chance, ``WALKEEPER-WRITER-KEY-1...``."""

    __slots__ = ()
    PREFIX = "WALKEEPER-WRITER-KEY-"
    KIND = "a writer key"


def _decode(text: str, prefix: str, kind: str) -> bytes:
    """The 32 bytes of a key of this kind; raises ValueError without quoting the text."""
    try:
        found, data = bech32.decode(text)
    except ValueError as error:
        raise ValueError(f"not {kind}: {error}") from None
    if found != prefix:
        raise ValueError(f"not {kind}: it does not begin with {prefix}1")
    if len(data) != KEY_BYTES:
        raise ValueError(f"not {kind}: {len(data)} bytes instead of {KEY_BYTES}")
    return data
