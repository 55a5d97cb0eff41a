"""X25519 stanzas: the file key wrapped to a recipient (C2SP age, "X25519 recipient stanza")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from walkeeper.codec.age_header import (
    FILE_KEY_BYTES,
    Stanza,
    decode_base64,
    derive,
    encode_base64,
    encode_stanza,
)
from walkeeper.core.keyring import KEY_BYTES, Identity, Recipient
from walkeeper.errors import IntegrityError, KeyUnavailable

_KIND: Final = "X25519"
_SCRYPT: Final = "scrypt"
_INFO: Final = b"age-encryption.org/v1/X25519"
# The wrap key is used once, so the specification fixes the nonce.
_NONCE: Final = bytes(12)
_WRAPPED_BYTES: Final = FILE_KEY_BYTES + 16


def recipient_of(identity: Identity) -> Recipient:
    """The public part of an identity."""
    key = X25519PrivateKey.from_private_bytes(identity.secret)
    return Recipient(key.public_key().public_bytes_raw())


def wrap(file_key: bytes, recipient: Recipient) -> bytes:
    """An encoded stanza that gives the file key to a recipient, with a fresh ephemeral share.

    Raises `KeyUnavailable` for a recipient that is a point of low order: nobody holds its key.
    """
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    try:
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.key))
    except ValueError:
        raise KeyUnavailable(f"the recipient {recipient} is not a usable public key") from None
    key = derive(shared, salt=share + recipient.key, info=_INFO)
    body = ChaCha20Poly1305(key).encrypt(_NONCE, file_key, None)
    return encode_stanza((_KIND, encode_base64(share)), body)


class Unwrapper:
    """Finds the file key of a header with the identities at hand."""

    def __init__(self, identities: Iterable[Identity]) -> None:
        keys = [X25519PrivateKey.from_private_bytes(identity.secret) for identity in identities]
        self._keys = [(key, key.public_key().public_bytes_raw()) for key in keys]

    def find_file_key(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """The file key, or None when no stanza is for one of the identities.

        Stanzas of unknown kinds are skipped. Raises `IntegrityError` for a malformed X25519
        stanza, and for a passphrase stanza, which has no place in an object.
        """
        if any(stanza.args[0] == _SCRYPT for stanza in stanzas):
            raise IntegrityError("the age header holds a passphrase stanza, which is refused")
        wrapped = [_parse(stanza) for stanza in stanzas if stanza.args[0] == _KIND]
        for key, public in self._keys:
            for share, body in wrapped:
                file_key = _unwrap(key, public, share, body)
                if file_key is not None:
                    return file_key
        return None


def _parse(stanza: Stanza) -> tuple[bytes, bytes]:
    """Ephemeral share and wrapped file key of an X25519 stanza."""
    if len(stanza.args) != 2:
        raise _malformed("it needs exactly one share")
    try:
        share = decode_base64(stanza.args[1])
    except ValueError as error:
        raise _malformed(f"its share is {error}") from None
    if len(share) != KEY_BYTES:
        raise _malformed("its share has the wrong length")
    # Checked before decryption: a longer body would make a partitioning oracle.
    if len(stanza.body) != _WRAPPED_BYTES:
        raise _malformed("its body has the wrong length")
    return share, stanza.body


def _unwrap(key: X25519PrivateKey, public: bytes, share: bytes, body: bytes) -> bytes | None:
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:
        # cryptography refuses an all-zero shared secret, as the specification demands.
        raise _malformed("its share is a point of low order") from None
    wrap_key = derive(shared, salt=share + public, info=_INFO)
    try:
        return ChaCha20Poly1305(wrap_key).decrypt(_NONCE, body, None)
    except InvalidTag:
        return None


def _malformed(reason: str) -> IntegrityError:
    return IntegrityError(f"an X25519 stanza is malformed: {reason}")
