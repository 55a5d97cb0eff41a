"""The keys of this host, as the configuration names them."""

from __future__ import annotations

from pathlib import Path

import structlog

from walkeeper.codec.writer import SigningKey
from walkeeper.config import EncryptionConfig
from walkeeper.core.keyring import Recipient, Writer
from walkeeper.errors import ConfigError
from walkeeper.keys.command import run_identity_command
from walkeeper.keys.files import IdentityFile, parse_identity_file, parse_writer_key_file
from walkeeper.keys.keyring import Keyring
from walkeeper.keys.load import read_key_file

_COMMAND_TIMEOUT_S = 30.0

log = structlog.get_logger(__name__)


def load_keyring(config: EncryptionConfig) -> Keyring:
    """Read every key that is configured; blocks. A host may lack any of them.

    The writers that are believed are those configured, else those of the identity file's comment,
    else that of the writer key at hand. Raises ConfigError and KeyUnavailable.
    """
    identity = _load_identity(config)
    key = None
    if config.writer_key_file is not None:
        key = parse_writer_key_file(_read(config.writer_key_file), str(config.writer_key_file)).key
    writers = tuple(_parse_writer(text) for text in config.writers)
    if not writers and identity is not None:
        writers = identity.writers
    if not writers and key is not None:
        writers = (SigningKey.derive(key).writer,)
    return Keyring(
        recipients=tuple(_parse_recipient(text) for text in config.recipients),
        identities=identity.identities if identity else (),
        writers=writers,
        writer_key=key,
    )


def _load_identity(config: EncryptionConfig) -> IdentityFile | None:
    if config.identity_file is not None:
        return parse_identity_file(_read(config.identity_file), str(config.identity_file))
    if config.identity_command:
        text = run_identity_command(config.identity_command, timeout_s=_COMMAND_TIMEOUT_S)
        return parse_identity_file(text, "[encryption] identity_command")
    return None


def _read(path: Path) -> str:
    found = read_key_file(path)
    if found.exposed:
        log.warning("key_file_exposed", path=str(path), hint="chmod 600 it")
    return found.text


def _parse_recipient(text: str) -> Recipient:
    try:
        return Recipient.parse(text)
    except ValueError as error:
        raise ConfigError(f"[encryption] recipients: {error}") from error


def _parse_writer(text: str) -> Writer:
    try:
        return Writer.parse(text)
    except ValueError as error:
        raise ConfigError(f"[encryption] writers: {error}") from error
