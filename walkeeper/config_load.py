"""Reads the configuration: TOML, then the environment, then checks; reports all errors at once.

An option can be overridden by ``WALKEEPER_<SECTION>_<KEY>``: WALKEEPER_CLUSTER_DSN,
WALKEEPER_REPOSITORY_URL, WALKEEPER_LOG_LEVEL and so on; lists are separated by commas, a command
is split as a shell would. WALKEEPER_SOCKET, which the hooks read, stands for [agent] socket as
well. A secret (the dsn, the heartbeat's URL) can be read from a file instead, by
``dsn_file`` and ``heartbeat_url_file``.
"""

from __future__ import annotations

import difflib
import shlex
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from walkeeper.config import Config, RepositoryConfig
from walkeeper.config_check import find_contradictions
from walkeeper.config_values import Dsn, Duration, Listen, Share, Size
from walkeeper.errors import ConfigError
from walkeeper.log import register_secret, register_secret_url
from walkeeper.storage.settings import Secret

DEFAULT_PATH: Final = Path("/etc/walkeeper/walkeeper.toml")
_REPOSITORY: Final = "repository"
_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    _REPOSITORY: RepositoryConfig,
    **{
        field.name: field.type
        for field in msgspec.structs.fields(Config)
        if field.name != "repositories"
    },
}
_FROM_FILE: Final = {
    "cluster": {"dsn_file": "dsn"},
    "alerts": {"heartbeat_url_file": "heartbeat_url"},
}
"""Keys that name a file to read another key's value from."""
_TRUTH: Final = {"true": True, "false": False}
_SECRET_VARIABLES: Final = ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_NOT_OPTIONS: Final = ("WALKEEPER_CONFIG", "WALKEEPER_SOCKET")

_Table = dict[str, object]


def find_config_path(option: Path | None, environ: Mapping[str, str]) -> Path:
    """``--config``, else $WALKEEPER_CONFIG, else /etc/walkeeper/walkeeper.toml."""
    if option is not None:
        return option
    chosen = environ.get("WALKEEPER_CONFIG")
    return Path(chosen) if chosen else DEFAULT_PATH


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in a file, overridden by the environment.

    Raises ConfigError that lists everything wrong with it. Its secrets, and those that libraries
    take from the environment, are registered with the log, which will not show them.
    """
    document = _read(path)
    problems: list[str] = []
    tables = _split(document, problems)
    _override(tables, environ, problems)
    sections = {
        name: _convert(name, kind, tables.get(name, {}), problems)
        for name, kind in _SECTIONS.items()
    }
    config = _assemble(sections) if not problems else None
    if config is not None:
        problems = find_contradictions(config)
    if config is None or problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigError(
            f"{path} cannot be used:{listed}", hint="conf/walkeeper.toml explains all"
        )
    _register_secrets(config, environ)
    return config


def _register_secrets(config: Config, environ: Mapping[str, str]) -> None:
    if config.cluster.dsn is not None:
        for password in config.cluster.dsn.passwords():
            register_secret(password)
    for url in config.alerts.secret_urls():
        register_secret_url(url)
    for variable in _SECRET_VARIABLES:
        register_secret(environ.get(variable, ""))


def _read(path: Path) -> _Table:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no configuration at {path}",
            hint="conf/minimal.toml is the smallest useful one; see walkeeper init --help",
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _split(document: _Table, problems: list[str]) -> dict[str, _Table]:
    """The tables of the document by section; problems with what is not one are noted."""
    tables: dict[str, _Table] = {}
    for name, value in document.items():
        if name not in _SECTIONS:
            problems.append(f"[{name}] is no section{_nearest(name, _SECTIONS)}")
        elif name == _REPOSITORY:
            tables[name] = _only_repository(value, problems)
        elif isinstance(value, dict):
            tables[name] = dict(value)
        else:
            problems.append(f"{name} must be a section: [{name}]")
    return tables


def _only_repository(value: object, problems: list[str]) -> _Table:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        problems.append("the repository must be written [[repository]], with two brackets")
        return {"url": ""}
    if len(value) > 1:
        problems.append(
            f"{len(value)} [[repository]] entries: only one repository is supported so far"
        )
    return dict(value[0]) if value else {}


def _override(tables: dict[str, _Table], environ: Mapping[str, str], problems: list[str]) -> None:
    """Puts what the environment says in place of what the file says."""
    known = {
        f"WALKEEPER_{section}_{key}".upper(): (section, key)
        for section, kind in _SECTIONS.items()
        for key in _keys(section, kind)
    }
    socket = environ.get("WALKEEPER_SOCKET")
    if socket:
        tables.setdefault("agent", {})["socket"] = socket
    for variable in sorted(environ):
        if not variable.startswith("WALKEEPER_") or variable in _NOT_OPTIONS:
            continue
        found = known.get(variable)
        if found is not None:
            section, key = found
            table = tables.setdefault(section, {})
            for other in _rivals(section, key):
                table.pop(other, None)
            table[key] = _from_environment(_SECTIONS[section], key, environ[variable])
        elif any(variable.startswith(f"WALKEEPER_{name}_".upper()) for name in _SECTIONS):
            problems.append(f"${variable} is no option{_nearest(variable, known)}")


def _rivals(section: str, key: str) -> list[str]:
    """The keys that give the same value in another way."""
    pairs = _FROM_FILE.get(section, {}).items()
    return [b if a == key else a for a, b in pairs if key in (a, b)]


def _from_environment(kind: type[msgspec.Struct], key: str, text: str) -> object:
    if key == "identity_command":
        try:
            return shlex.split(text)
        except ValueError:  # an open quote: left as it is, and refused as not being a list
            return text
    wanted = typing.get_type_hints(kind).get(key)
    if typing.get_origin(wanted) is tuple:
        return [part for part in text.replace(",", " ").split() if part]
    if wanted is bool and text in _TRUTH:
        return _TRUTH[text]
    return int(text) if wanted is int and text.isdecimal() else text


def _convert(
    section: str, kind: type[msgspec.Struct], table: _Table, problems: list[str]
) -> dict[str, object]:
    """The section's values, converted one by one so that every problem is found."""
    shown = f"[[{section}]]" if section == _REPOSITORY else f"[{section}]"
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, object] = {}
    for key, value in table.items():
        if key in _FROM_FILE.get(section, {}):
            key, value = _FROM_FILE[section][key], _read_secret(f"{shown} {key}", value, problems)
            if value is None:
                continue
            if key in table:
                problems.append(f"{shown} has both {key} and {key}_file")
        if key not in fields:
            problems.append(f"{shown} {key} is no option{_nearest(key, _keys(section, kind))}")
            continue
        try:
            values[key] = msgspec.convert(value, fields[key].type, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{shown} {key}: {error}")
    problems.extend(
        f"{shown} {field.name} is missing"
        for field in fields.values()
        if field.required and field.name not in table
    )
    return values


def _read_secret(shown: str, value: object, problems: list[str]) -> str | None:
    try:
        return Path(str(value)).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{shown}: cannot read {value}: {reason}")
        return None


def _decode(kind: type, value: object) -> object:
    """Msgspec's hook for the types it does not know."""
    if not isinstance(value, str):
        raise ValueError(f"expected text in quotes, got {type(value).__name__}")  # noqa: TRY004
    if kind is Path:
        if not value.startswith("/"):
            raise ValueError("expected an absolute path")
        return Path(value)
    if kind is Duration or kind is Size or kind is Share or kind is Listen:
        return kind.parse(value)
    if kind is Dsn or kind is Secret:
        return kind(value)
    raise NotImplementedError(kind)


def _assemble(sections: dict[str, dict[str, object]]) -> Config:
    built = {name: _SECTIONS[name](**values) for name, values in sections.items()}
    repository = typing.cast(RepositoryConfig, built.pop(_REPOSITORY))
    return Config(repositories=(repository,), **typing.cast(dict[str, typing.Any], built))


def _keys(section: str, kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)] + list(
        _FROM_FILE.get(section, {})
    )


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
