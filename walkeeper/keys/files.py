"""Key files as text: what ``age-keygen`` writes, and the writer key beside it.

An identity file holds one identity a line; lines that begin with ``#`` are comments, of which
``# public key:`` and ``# writer:`` are read. The line ``# writer:`` pins whose objects are
believed, so that the identity file alone is enough to restore. Messages name file and line, never
what stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.core.keyring import Identity, Recipient, Writer, WriterKey
from walkeeper.errors import KeyUnavailable

_RECIPIENT: Final = "public key:"
_WRITER: Final = "writer:"
_ENCRYPTED: Final = ("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """What an identity file says; recipients and writers are those of its comments."""

    identities: tuple[Identity, ...]
    recipients: tuple[Recipient, ...]
    writers: tuple[Writer, ...]


@dataclass(frozen=True, slots=True)
class WriterKeyFile:
    """What a writer key file says; ``writer`` is that of its comment, if there is one."""

    key: WriterKey
    writer: Writer | None


def parse_identity_file(text: str, source: str) -> IdentityFile:
    """Read the text of an identity file; ``source`` names it in messages.

    Raises `KeyUnavailable` when it is encrypted, malformed, or holds no identity.
    """
    if text.lstrip().startswith(_ENCRYPTED):
        raise KeyUnavailable(
            f"{source}: the identity is protected by a passphrase",
            hint="decrypt it with 'age -d' into a file that only its user can read,"
            " or set [encryption] identity_command to a command that prints it",
        )
    identities: list[Identity] = []
    recipients: list[Recipient] = []
    writers: list[Writer] = []
    for place, line in _lines(text, source):
        try:
            if not line.startswith("#"):
                identities.append(Identity.parse(line))
            elif (value := _comment(line, _RECIPIENT)) is not None:
                recipients.append(Recipient.parse(value))
            elif (value := _comment(line, _WRITER)) is not None:
                writers.append(Writer.parse(value))
        except ValueError as error:
            raise KeyUnavailable(f"{place}: {error}") from None
    if not identities:
        raise KeyUnavailable(f"{source}: it holds no identity")
    return IdentityFile(tuple(identities), tuple(recipients), tuple(writers))


def parse_writer_key_file(text: str, source: str) -> WriterKeyFile:
    """Read the text of a writer key file; ``source`` names it in messages.

    Raises `KeyUnavailable` unless it holds exactly one writer key.
    """
    keys: list[WriterKey] = []
    writer: Writer | None = None
    for place, line in _lines(text, source):
        try:
            if not line.startswith("#"):
                keys.append(WriterKey.parse(line))
            elif (value := _comment(line, _WRITER)) is not None:
                writer = Writer.parse(value)
        except ValueError as error:
            raise KeyUnavailable(f"{place}: {error}") from None
    if len(keys) != 1:
        raise KeyUnavailable(f"{source}: it holds {len(keys)} writer keys instead of one")
    return WriterKeyFile(keys[0], writer)


def format_identity_file(
    identity: Identity, recipient: Recipient, writer: Writer, created_at: datetime
) -> str:
    """The text of a new identity file, as ``age -d -i`` accepts it."""
    return (
        f"# created: {created_at.isoformat(timespec='seconds')}\n"
        f"# {_RECIPIENT} {recipient}\n"
        f"# {_WRITER} {writer}\n"
        f"{identity.reveal()}\n"
    )


def format_writer_key_file(key: WriterKey, writer: Writer, created_at: datetime) -> str:
    """The text of a new writer key file."""
    return (
        f"# created: {created_at.isoformat(timespec='seconds')}\n"
        f"# {_WRITER} {writer}\n"
        f"{key.reveal()}\n"
    )


def _lines(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Every line that says something, with the words that name its place."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{source}, line {number}", line.strip()


def _comment(line: str, label: str) -> str | None:
    comment = line.removeprefix("#").strip()
    return comment.removeprefix(label).strip() if comment.startswith(label) else None
