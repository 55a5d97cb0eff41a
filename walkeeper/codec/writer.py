"""The writer key at work: signatures, and codes of content that cannot be guessed.

Two keys derive from it by HKDF-SHA-256: an Ed25519 seed (RFC 8032) that signs, and the content
key, with which the digest of a plaintext becomes a code that says nothing to others.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from walkeeper.codec.age_header import derive
from walkeeper.core.keyring import Writer, WriterKey
from walkeeper.errors import KeyUnavailable

SIGNATURE_BYTES: Final = 64
_SIGNING: Final = b"walkeeper.writer/1 signing"
_CONTENT: Final = b"walkeeper.writer/1 content"


class SigningKey:
    """Signs objects and codes content; made of a writer key by `derive`."""

    def __init__(self, signing: Ed25519PrivateKey, content_key: bytes) -> None:
        self._signing = signing
        self._content_key = content_key
        self._writer = Writer(signing.public_key().public_bytes_raw())

    @classmethod
    def derive(cls, key: WriterKey) -> SigningKey:
        """The signing key and content key of a writer key: the same on every host."""
        seed = derive(key.secret, info=_SIGNING)
        return cls(Ed25519PrivateKey.from_private_bytes(seed), derive(key.secret, info=_CONTENT))

    @property
    def writer(self) -> Writer:
        """The public part, which readers pin."""
        return self._writer

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes, the same each time."""
        return self._signing.sign(message)

    def content_code(self, sha256: bytes) -> bytes:
        """HMAC-SHA-256 of a plaintext's digest: equal for equal content, else meaningless."""
        return hmac.digest(self._content_key, sha256, "sha256")

    def __repr__(self) -> str:
        return f"SigningKey({self._writer})"


def find_signer(writers: Iterable[Writer], message: bytes, signature: bytes) -> Writer | None:
    """Which of the writers signed the message, or None."""
    for writer in writers:
        try:
            Ed25519PublicKey.from_public_bytes(writer.key).verify(signature, message)
        except InvalidSignature:
            continue
        return writer
    return None


def check_writers(writers: Sequence[Writer], *, allow_unsigned: bool) -> None:
    """Raise `KeyUnavailable` when signatures matter and no writer is pinned."""
    if not writers and not allow_unsigned:
        raise KeyUnavailable(
            "no writer is known, so nothing that is stored can be believed",
            hint="set [encryption] writers, or keep the line '# writer:' in the identity file",
        )
