"""Key files: what age-keygen writes is read, what we write age reads."""

import os
import resource
import stat
import subprocess
import time
from datetime import UTC, datetime

import pytest

from walkeeper.core.keyring import Identity, WriterKey
from walkeeper.errors import KeyUnavailable, UsageError
from walkeeper.keys.command import run_identity_command
from walkeeper.keys.files import (
    format_identity_file,
    format_writer_key_file,
    parse_identity_file,
    parse_writer_key_file,
)
from walkeeper.keys.keyring import Keyring
from walkeeper.keys.load import (
    MAX_KEY_FILE_BYTES,
    KeyText,
    create_key_file,
    decode_key_text,
    read_key_file,
)

CREATED = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)


@pytest.fixture
def identity_text(codec_keys):
    return format_identity_file(
        codec_keys.identity, codec_keys.recipient, codec_keys.writer, CREATED
    )


def test_what_age_keygen_writes_is_read(tool):
    text = tool("age-keygen").decode()
    found = parse_identity_file(text, "key.txt")
    public = tool("age-keygen", "-y", stdin=text.encode()).decode().strip()
    assert [str(recipient) for recipient in found.recipients] == [public]
    assert [identity.reveal() for identity in found.identities] == [text.split("\n")[2]]
    assert found.writers == ()


def test_what_we_write_the_age_command_uses(identity_text, codec_keys, tool, tmp_path):
    path = tmp_path / "key.txt"
    create_key_file(path, identity_text)
    stored = tool("age", "-r", str(codec_keys.recipient), stdin=b"secret")
    assert tool("age", "-d", "-i", str(path), stdin=stored) == b"secret"
    assert tool("age-keygen", "-y", str(path)).decode().strip() == str(codec_keys.recipient)


def test_what_we_write_is_read_back(identity_text, codec_keys):
    found = parse_identity_file(identity_text, "key.txt")
    assert found.identities == (codec_keys.identity,)
    assert found.recipients == (codec_keys.recipient,)
    assert found.writers == (codec_keys.writer,)
    text = format_writer_key_file(codec_keys.writer_key, codec_keys.writer, CREATED)
    writer = parse_writer_key_file(text, "key.txt.writer")
    assert (writer.key, writer.writer) == (codec_keys.writer_key, codec_keys.writer)
    assert text.startswith("# created: 2026-11-20T10:15:00+00:00\n")


def test_several_identities_and_loose_lines_are_read(codec_keys):
    one, two = codec_keys.identity, Identity(os.urandom(32))
    text = f"\n  # my keys\r\n{one.reveal()}\r\n\n#writer: {codec_keys.writer}\n {two.reveal()} "
    found = parse_identity_file(text, "key.txt")
    assert found.identities == (one, two)
    assert found.writers == (codec_keys.writer,)


def test_a_line_that_is_no_key_is_named_by_its_place_and_never_quoted(codec_keys):
    secret = codec_keys.identity.reveal()
    mistyped = secret[:-3] + ("QQQ" if secret[-3:] != "QQQ" else "PPP")
    for bad in (mistyped, "hunter2", codec_keys.writer_key.reveal()):
        with pytest.raises(KeyUnavailable, match=r"key\.txt, line 2: not an age") as caught:
            parse_identity_file(f"# x\n{bad}\n", "key.txt")
        assert bad not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(KeyUnavailable, match="line 1: not a writer"):
        parse_identity_file(f"# writer: {codec_keys.recipient}\n{secret}", "key.txt")


def test_a_file_without_a_key_is_refused(codec_keys):
    with pytest.raises(KeyUnavailable, match="it holds no identity"):
        parse_identity_file("# writer key\n", "key.txt")
    with pytest.raises(KeyUnavailable, match="it holds 0 writer keys"):
        parse_writer_key_file("", "w")
    line = codec_keys.writer_key.reveal()
    with pytest.raises(KeyUnavailable, match="it holds 2 writer keys"):
        parse_writer_key_file(f"{line}\n{line}\n", "w")
    with pytest.raises(KeyUnavailable, match="w, line 1: not a writer key"):
        parse_writer_key_file(codec_keys.identity.reveal(), "w")


@pytest.mark.parametrize("armor", [[], ["-a"]])
def test_an_identity_behind_a_passphrase_says_what_to_do(armor, codec_keys, tool, tmp_path):
    # The age command asks a terminal for passphrases: an encrypted file begins the same way.
    path = tmp_path / "key.age"
    path.write_bytes(
        tool("age", "-r", str(codec_keys.recipient), *armor, stdin=b"AGE-SECRET-KEY-1...")
    )
    with pytest.raises(KeyUnavailable, match="protected by a passphrase") as caught:
        parse_identity_file(read_key_file(path).text, str(path))
    assert str(path) in str(caught.value)
    assert "identity_command" in caught.value.hint


def test_a_key_file_is_private_and_never_overwritten(identity_text, tmp_path):
    path = tmp_path / "key.txt"
    before = os.umask(0)
    try:
        create_key_file(path, identity_text)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="never overwritten"):
        create_key_file(path, "other")
    assert path.read_text() == identity_text
    assert not read_key_file(path).exposed


@pytest.mark.parametrize("umask", [0o277, 0o077])
def test_the_mode_does_not_hang_on_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        create_key_file(tmp_path / "key.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.txt").stat().st_mode) == 0o600


def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "key.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        create_key_file(tmp_path / "key.txt", "x")
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(KeyUnavailable, match="cannot be created"):
        create_key_file(tmp_path / "missing" / "key.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_that_was_cut_by_a_full_disk_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(KeyUnavailable, match="cannot be written: File too large"):
            create_key_file(tmp_path / "key.txt", "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_file_that_others_can_read_is_told(mode, exposed, tmp_path):
    path = tmp_path / "key.txt"
    path.write_text("x")
    path.chmod(mode)
    assert read_key_file(path).exposed is exposed


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(KeyUnavailable, match="there is no such key file") as caught:
        read_key_file(tmp_path / "missing.txt")
    assert "keygen" in caught.value.hint
    with pytest.raises(KeyUnavailable, match="cannot be read: Is a directory"):
        read_key_file(tmp_path)


def test_what_is_no_text_or_too_long_is_refused():
    with pytest.raises(KeyUnavailable, match="not a key file"):
        decode_key_text(b"\xff\xfe", "k")
    with pytest.raises(KeyUnavailable, match="not a key file"):
        decode_key_text(bytes(MAX_KEY_FILE_BYTES + 1), "k")
    assert decode_key_text(bytes(MAX_KEY_FILE_BYTES), "k")


def test_key_text_hides_what_it_holds():
    assert "SECRET" not in repr(KeyText("AGE-SECRET-KEY-1", exposed=False))


def test_an_identity_comes_from_a_command(identity_text, codec_keys, tmp_path):
    (tmp_path / "key.txt").write_text(identity_text)
    text = run_identity_command(["cat", str(tmp_path / "key.txt")], timeout_s=10)
    assert parse_identity_file(text, "command").identities == (codec_keys.identity,)


def test_a_command_runs_without_a_shell_and_without_input():
    assert run_identity_command(["echo", "$HOME; echo 'x'"], timeout_s=10) == "$HOME; echo 'x'\n"
    assert run_identity_command(["cat"], timeout_s=10) == ""


def test_a_command_that_fails_is_named_and_its_output_kept_back():
    with pytest.raises(KeyUnavailable, match="identity command sh failed with exit code 3") as it:
        run_identity_command(["sh", "-c", "echo AGE-SECRET; exit 3"], timeout_s=10)
    assert "AGE-SECRET" not in str(it.value)
    with pytest.raises(KeyUnavailable, match="cannot be started: No such file"):
        run_identity_command(["/nowhere/command"], timeout_s=10)


def test_a_command_that_hangs_is_killed_with_its_children():
    began = time.monotonic()
    with pytest.raises(KeyUnavailable, match=r"took longer than 0.3 s"):
        run_identity_command(["sh", "-c", "sleep 98.7 & sleep 98.7"], timeout_s=0.3)
    assert time.monotonic() - began < 30
    time.sleep(0.1)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 98.7" not in left.stdout


def test_a_keyring_says_which_key_is_missing(codec_keys):
    empty = Keyring()
    with pytest.raises(KeyUnavailable, match="no recipient"):
        empty.require_recipients()
    with pytest.raises(KeyUnavailable, match="no identity"):
        empty.require_identities()
    with pytest.raises(KeyUnavailable, match="no writer key"):
        empty.require_writer_key()
    full = Keyring(
        (codec_keys.recipient,),
        (codec_keys.identity,),
        (codec_keys.writer,),
        codec_keys.writer_key,
    )
    assert full.require_recipients() == (codec_keys.recipient,)
    assert full.require_identities() == (codec_keys.identity,)
    assert isinstance(full.require_writer_key(), WriterKey)
    assert codec_keys.identity.reveal() not in repr(full)
    assert repr(codec_keys.writer_key.secret) not in repr(full)
