"""Whether files of keys and secrets could be read again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from walkeeper.agent.key_files import KeyFile, check_key_files, key_files
from walkeeper.agent.keyring import load_keyring
from walkeeper.codec.writer import SigningKey
from walkeeper.config import AgentConfig, Config, EncryptionConfig, RepositoryConfig
from walkeeper.config_alerts import AlertsConfig, MailConfig, WebhookConfig
from walkeeper.core.keyring import Identity, WriterKey
from walkeeper.keys.files import format_identity_file, format_writer_key_file

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TEXTS = {
    "secret": "s3-secret",
    "id": "s3-id",
    "token": "a-token-of-twenty-four-signs",
    "password": "smtp-password",
    "hook": "https://hooks.example.org/secret",
}


@pytest.fixture
def files(tmp_path: Path, keys: TestKeys) -> dict[str, KeyFile]:
    """All that a configuration can name, with good texts in them; by the names of the options."""
    identity, writer_key = keys.identity, keys.writer_key
    writer = SigningKey.derive(writer_key).writer
    at = {name: tmp_path / name for name in (*TEXTS, "identity", "writer")}
    for name, text in TEXTS.items():
        at[name].write_text(text + "\n")
    at["identity"].write_text(format_identity_file(identity, keys.recipient, writer, NOW))
    at["writer"].write_text(format_writer_key_file(writer_key, writer, NOW))
    config = Config(
        repositories=(
            RepositoryConfig(
                url="s3://b", access_key_id_file=at["id"], secret_access_key_file=at["secret"]
            ),
        ),
        encryption=EncryptionConfig(
            recipients=(str(keys.recipient),),
            identity_file=at["identity"],
            writer_key_file=at["writer"],
        ),
        agent=AgentConfig(http_token_file=at["token"]),
        alerts=AlertsConfig(
            webhook=(WebhookConfig(url_file=at["hook"]),),
            mail=MailConfig(
                server="s", sender="a@b", to=("c@d",), user="u", password_file=at["password"]
            ),
        ),
    )
    return {one.name: one for one in key_files(config, load_keyring(config.encryption))}


def problem_of(file: KeyFile) -> str | None:
    (status,) = check_key_files((file,))
    assert status.name == file.name
    return status.problem


def test_files_as_they_were_have_no_problem(files: dict[str, KeyFile]) -> None:
    assert len(files) == 7
    assert [one.problem for one in check_key_files((*files.values(),))] == [None] * 7


def test_every_file_that_is_gone_is_a_problem_that_names_it(files: dict[str, KeyFile]) -> None:
    for file in files.values():
        file.path.unlink()
        assert str(file.path) in (problem_of(file) or "")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_bytes(b"\xff\xfe" * 20),
        lambda path: path.write_bytes(b"x" * 100_000),
    ],
    ids=["empty", "no text", "too long"],
)
def test_every_file_that_holds_nothing_of_use_is_a_problem(
    files: dict[str, KeyFile], spoil: Callable[[Path], object]
) -> None:
    for file in files.values():
        spoil(file.path)
        assert problem_of(file), file.name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("encryption.writer_key_file", "c4n4ry-Zq8W"),
        ("encryption.identity_file", "c4n4ry-Zq8W"),
        ("agent.http_token_file", "c4n4ry-Zq8W"),
        ("alerts.mail.password_file", "c4n4ry-Zq8W-\xe4"),
        ("alerts.webhook.1.url_file", "ftp://c4n4ry-Zq8W"),
    ],
)
def test_a_text_of_another_kind_is_a_problem_that_does_not_quote_it(
    files: dict[str, KeyFile], name: str, text: str
) -> None:
    files[name].path.write_text(text)
    problem = problem_of(files[name])
    assert problem is not None
    assert "c4n4ry" not in problem


def test_a_key_of_somebody_else_is_a_problem(files: dict[str, KeyFile], keys: TestKeys) -> None:
    other = WriterKey(bytes(32))
    writer = SigningKey.derive(other).writer
    files["encryption.writer_key_file"].path.write_text(format_writer_key_file(other, writer, NOW))
    assert "do not believe" in (problem_of(files["encryption.writer_key_file"]) or "")
    identity = files["encryption.identity_file"]
    strange = format_identity_file(Identity(b"\1" * 32), keys.recipient, writer, NOW)
    own = identity.path.read_text()
    identity.path.write_text(strange)
    assert "lacks an identity" in (problem_of(identity) or "")
    identity.path.write_text(own + strange)
    assert problem_of(identity) is None, "one more is no less"
