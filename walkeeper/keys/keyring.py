"""All keys of one run, and what to say when one is missing."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.keyring import Identity, Recipient, Writer, WriterKey
from walkeeper.errors import KeyUnavailable


@dataclass(frozen=True, slots=True)
class Keyring:
    """Who may read, who may write, and with what; any part may be missing."""

    recipients: tuple[Recipient, ...] = ()
    identities: tuple[Identity, ...] = ()
    writers: tuple[Writer, ...] = ()
    writer_key: WriterKey | None = None

    def require_recipients(self) -> tuple[Recipient, ...]:
        """The recipients; raises `KeyUnavailable` when there is none."""
        if not self.recipients:
            raise KeyUnavailable(
                "no recipient is configured, so nothing can be encrypted",
                hint="make a key with 'walkeeper keygen' and set [encryption] recipients",
            )
        return self.recipients

    def require_identities(self) -> tuple[Identity, ...]:
        """The identities; raises `KeyUnavailable` when there is none."""
        if not self.identities:
            raise KeyUnavailable(
                "no identity is at hand, so nothing can be decrypted",
                hint="set [encryption] identity_file",
            )
        return self.identities

    def require_writer_key(self) -> WriterKey:
        """The writer key; raises `KeyUnavailable` when there is none."""
        if self.writer_key is None:
            raise KeyUnavailable(
                "no writer key is at hand, so nothing can be signed",
                hint="set [encryption] writer_key_file",
            )
        return self.writer_key
