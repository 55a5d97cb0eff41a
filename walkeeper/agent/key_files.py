"""Whether the files of keys and secrets, read once at the start, could be read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from walkeeper.agent.http_entry import require_token
from walkeeper.agent.sinks import require_address, require_password
from walkeeper.codec.writer import SigningKey
from walkeeper.config import Config
from walkeeper.errors import ConfigError, KeyUnavailable, WalkeeperError
from walkeeper.keys.files import parse_identity_file, parse_writer_key_file
from walkeeper.keys.keyring import Keyring
from walkeeper.keys.load import read_key_file
from walkeeper.services.agent_status import KeyFileStatus


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file that the configuration names; ``check`` raises where its text is of no use."""

    name: str
    path: Path
    check: Callable[[str], object]


def check_key_files(files: tuple[KeyFile, ...]) -> tuple[KeyFileStatus, ...]:
    """Read them all again; blocks. No problem names what is in a file."""
    return tuple(KeyFileStatus(name=one.name, problem=_find_problem(one)) for one in files)


def _find_problem(file: KeyFile) -> str | None:
    try:
        file.check(read_key_file(file.path).text)
    except WalkeeperError as error:
        return error.message
    return None


def key_files(config: Config, keyring: Keyring) -> tuple[KeyFile, ...]:
    """Those of a configuration; ``keyring`` is what was read from them."""
    return (*_own_keys(config, keyring), *_secrets(config))


def _own_keys(config: Config, keyring: Keyring) -> Iterator[KeyFile]:
    encryption = config.encryption
    if (path := encryption.writer_key_file) is not None:
        check = partial(_check_writer_key, keyring, str(path))
        yield KeyFile("encryption.writer_key_file", path, check)
    if (path := encryption.identity_file) is not None:
        check = partial(_check_identity, keyring, str(path))
        yield KeyFile("encryption.identity_file", path, check)


def _secrets(config: Config) -> Iterator[KeyFile]:
    repository, alerts = config.repository, config.alerts
    if (path := repository.access_key_id_file) is not None:
        yield KeyFile("repository.access_key_id_file", path, partial(_check_any, path))
    if (path := repository.secret_access_key_file) is not None:
        yield KeyFile("repository.secret_access_key_file", path, partial(_check_any, path))
    if (path := config.agent.http_token_file) is not None:
        yield KeyFile("agent.http_token_file", path, partial(require_token, path))
    if alerts.mail is not None and (path := alerts.mail.password_file) is not None:
        user = alerts.mail.user
        yield KeyFile("alerts.mail.password_file", path, partial(require_password, user))
    for number, webhook in enumerate(alerts.webhook, 1):
        if (path := webhook.url_file) is not None:
            check = partial(require_address, str(path))
            yield KeyFile(f"alerts.webhook.{number}.url_file", path, check)


def _check_writer_key(keyring: Keyring, source: str, text: str) -> None:
    key = parse_writer_key_file(text, source).key
    if SigningKey.derive(key).writer not in keyring.writers:
        raise KeyUnavailable(f"{source}: readers do not believe the writer key in it")


def _check_identity(keyring: Keyring, source: str, text: str) -> None:
    if not {*keyring.identities} <= {*parse_identity_file(text, source).identities}:
        raise KeyUnavailable(f"{source}: it lacks an identity that it held before")


def _check_any(path: Path, text: str) -> None:
    if not text.strip():
        raise ConfigError(f"{path} is empty")
