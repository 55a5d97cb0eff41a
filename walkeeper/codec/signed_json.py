"""Signed plain JSON objects: readable by everybody, believed only when a known writer signed.

``{"body":{...},"signature":"<base64>"}``; the signature covers a prefix and the exact bytes of
the body as they stand in the file. Every body says its own name and archive, so it cannot be
moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from walkeeper.codec.age_header import decode_base64, encode_base64
from walkeeper.codec.writer import SigningKey, check_writers, find_signer
from walkeeper.core.keyring import Writer
from walkeeper.errors import IntegrityError

_SIGNED_PREFIX: Final = b"walkeeper.json 1\n"


class SignedBody(Protocol):
    """What every body carries, as a ``msgspec.Struct``."""

    @property
    def name(self) -> str:
        """The object's name, relative to the archive."""
        ...

    @property
    def archive(self) -> str:
        """The archive's id."""
        ...


_Body = TypeVar("_Body", bound=SignedBody)


class _Envelope(msgspec.Struct, frozen=True):
    body: msgspec.Raw
    signature: str


def encode(body: SignedBody, signing: SigningKey) -> bytes:
    """The stored bytes of a body."""
    raw = msgspec.json.encode(body)
    signature = encode_base64(signing.sign(_SIGNED_PREFIX + raw))
    return msgspec.json.encode(_Envelope(msgspec.Raw(raw), signature))


def decode(
    data: bytes,
    body_type: type[_Body],
    *,
    name: str,
    archive: str | None,
    writers: Sequence[Writer],
    allow_unsigned: bool = False,
) -> _Body:
    """Read a signed object; unknown fields are ignored.

    ``archive`` None takes any archive: only for the record that says which one it is. Raises
    `IntegrityError` when it is malformed, moved, or not signed by one of the writers; the last
    not with ``allow_unsigned``. Raises `KeyUnavailable` when there is no writer to compare with.
    """
    check_writers(writers, allow_unsigned=allow_unsigned)
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if not allow_unsigned:
            _check_signature(envelope, writers, name)
        body = msgspec.json.decode(envelope.body, type=body_type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{name}: not a signed object: {error}") from None
    if body.name != name:
        raise IntegrityError(f"{name}: it was written as {body.name}: moved or swapped")
    if archive is not None and body.archive != archive:
        raise IntegrityError(f"{name}: it belongs to another archive, {body.archive}")
    return body


def _check_signature(envelope: _Envelope, writers: Sequence[Writer], name: str) -> None:
    try:
        signature = decode_base64(envelope.signature)
    except ValueError as error:
        raise IntegrityError(f"{name}: its signature is {error}") from None
    if find_signer(writers, _SIGNED_PREFIX + bytes(envelope.body), signature) is None:
        raise IntegrityError(f"{name}: it is not signed by a known writer: damaged or forged")
