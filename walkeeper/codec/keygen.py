"""New keys, from the operating system's chance."""

from __future__ import annotations

import os

from walkeeper.codec.writer import SigningKey
from walkeeper.codec.x25519 import recipient_of
from walkeeper.core.keyring import KEY_BYTES, Identity, Recipient, Writer, WriterKey


def generate_identity() -> tuple[Identity, Recipient]:
    """A new identity and its recipient."""
    identity = Identity(os.urandom(KEY_BYTES))
    return identity, recipient_of(identity)


def generate_writer_key() -> tuple[WriterKey, Writer]:
    """A new writer key and its public part."""
    key = WriterKey(os.urandom(KEY_BYTES))
    return key, SigningKey.derive(key).writer
