"""The object stanza: what an object is, in clear but signed, first in its age header.

``-> walkeeper.object 1 <signature>``, the body JSON of at most 2 KiB. Other readers of age files
skip it. Errors are `IntegrityError` without the object's name; `walkeeper.codec.opener` adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from walkeeper.codec.age_header import (
    AgeHeader,
    Stanza,
    decode_base64,
    derive,
    encode_base64,
    encode_stanza,
)
from walkeeper.codec.writer import SIGNATURE_BYTES, SigningKey, find_signer
from walkeeper.core.keyring import Writer
from walkeeper.errors import FormatTooNew, IntegrityError

MAX_BODY_BYTES: Final = 2048
KNOWN_FEATURES: Final[frozenset[str]] = frozenset()
"""What ``requires`` may name; format 1 needs nothing."""

_KIND: Final = "walkeeper.object"
_VERSION: Final = "1"
_SIGNED_PREFIX: Final = b"walkeeper.object 1\n"
_COMMIT_INFO: Final = b"walkeeper.object/1"
_DIGEST_BYTES: Final = 32


class ObjectContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all objects of one run of a program share."""

    archive: str
    """The archive's random id."""
    system_identifier: str
    writer: str
    """Random for each start of a program."""


class ObjectFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of the stanza. Binary values are unpadded base64; unknown fields are ignored."""

    name: str
    """Relative to the archive: an object that was moved is refused."""
    archive: str
    system_identifier: str
    requires: tuple[str, ...]
    """Features without which a reader cannot understand the object."""
    written: Annotated[datetime, msgspec.Meta(tz=True)]
    writer: str
    commit: str
    """HKDF of the file key: no other key can open the object to other content."""
    recipients: str
    """SHA-256 of the stanzas behind this one: tells a damaged header from a wrong key."""
    size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Bytes of plaintext, where known beforehand; so are the next two, or none of them."""
    stored: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Bytes of the compressed stream."""
    content: str | None = None
    """Content code of the plaintext, see `SigningKey.content_code`."""


def commitment(file_key: bytes) -> bytes:
    """What `ObjectFacts.commit` holds for this file key, 32 bytes."""
    return derive(file_key, info=_COMMIT_INFO)


def encode_object_stanza(facts: ObjectFacts, signing: SigningKey) -> bytes:
    """The signed stanza; raises ValueError when the facts do not fit into 2 KiB."""
    body = msgspec.json.encode(facts)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the facts of an object take more than {MAX_BODY_BYTES} bytes")
    signature = signing.sign(_SIGNED_PREFIX + body)
    return encode_stanza((_KIND, _VERSION, encode_base64(signature)), body)


def decode_object_stanza(
    header: AgeHeader, writers: Sequence[Writer] | None
) -> tuple[ObjectFacts, Writer | None]:
    """The facts of an object, believed only when one of the writers signed them, and which one.

    ``writers`` None believes everybody and names nobody. Raises `IntegrityError`, or `FormatTooNew`
    when the object requires a feature that this program does not know.
    """
    stanza = _object_stanza(header.stanzas)
    signer = None if writers is None else _find_signer(stanza, writers)
    try:
        facts = msgspec.json.decode(stanza.body, type=ObjectFacts)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"the object stanza is malformed: {error}") from None
    unknown = sorted(set(facts.requires) - KNOWN_FEATURES)
    if unknown:
        raise FormatTooNew(
            f"it needs features that this program does not know: {', '.join(unknown)}",
            hint="upgrade walkeeper to at least the version that wrote the archive",
        )
    _check_facts(facts)
    return facts, signer


def _object_stanza(stanzas: Sequence[Stanza]) -> Stanza:
    first, *others = stanzas
    if first.args[:2] != (_KIND, _VERSION):
        raise IntegrityError("the object stanza is not first in the age header")
    if any(stanza.args[0] == _KIND for stanza in others):
        raise IntegrityError("the object stanza is repeated")
    if not others:
        raise IntegrityError("the age header names no recipient")
    if len(first.body) > MAX_BODY_BYTES:
        raise IntegrityError(f"the object stanza takes more than {MAX_BODY_BYTES} bytes")
    return first


def _find_signer(stanza: Stanza, writers: Sequence[Writer]) -> Writer:
    if len(stanza.args) != 3:
        raise IntegrityError("it is not signed")
    try:
        signature = decode_base64(stanza.args[2])
    except ValueError as error:
        raise IntegrityError(f"its signature is {error}") from None
    if len(signature) != SIGNATURE_BYTES:
        raise IntegrityError("its signature has the wrong length")
    signer = find_signer(writers, _SIGNED_PREFIX + stanza.body, signature)
    if signer is None:
        raise IntegrityError(
            "it is not signed by a known writer: damaged or forged",
            hint="compare [encryption] writers with the writer of the host that archives",
        )
    return signer


def _check_facts(facts: ObjectFacts) -> None:
    known = [value is not None for value in (facts.size, facts.stored, facts.content)]
    if any(known) and not all(known):
        raise IntegrityError("the object stanza is malformed: size, stored and content go together")
    codes = [
        facts.commit,
        facts.recipients,
        *([facts.content] if facts.content is not None else []),
    ]
    try:
        lengths = {len(decode_base64(code)) for code in codes}
    except ValueError as error:
        raise IntegrityError(f"the object stanza is malformed: a code is {error}") from None
    if lengths != {_DIGEST_BYTES}:
        raise IntegrityError("the object stanza is malformed: a code has the wrong length")
