"""The public age test vectors, the stock commands, and keys for tests."""

import base64
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.fix_npm import npm_file
from walkeeper.codec.keygen import generate_identity, generate_writer_key
from walkeeper.codec.opener import Opener
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import ObjectContext
from walkeeper.codec.writer import SigningKey
from walkeeper.core.keyring import Identity, Recipient, Writer, WriterKey

_PACKAGE = "cctv-age@0.2.0"
_SHA512 = (
    "d5f88601a5abfac9ea82ef3eb820bba8f780a40bae78e112113da7a4a7b41552"
    "d8f87b9ff8a9226bcf51c9bc7fba818d0a6977d528008e2408785398e0adcd7b"
)
_ENTRY = re.compile(r'^// \.\./testdata/(\w+)\nvar \w+ = __toBinary\("([^"]*)"\)', re.MULTILINE)


@dataclass(frozen=True)
class AgeVector:
    """One file of the suite: its facts, and the age file itself."""

    name: str
    expect: str
    payload_sha256: str | None
    identities: tuple[str, ...]
    armored: bool
    file: bytes


def _vector(name: str, data: bytes) -> AgeVector:
    head, _, file = data.partition(b"\n\n")
    facts = [line.split(": ", 1) for line in head.decode().split("\n")]
    one = dict(facts)
    if "compressed" in one:
        assert one["compressed"] == "zlib"
        file = zlib.decompress(file)
    return AgeVector(
        name=name,
        expect=one["expect"],
        payload_sha256=one.get("payload"),
        identities=tuple(value for key, value in facts if key == "identity"),
        armored=one.get("armored") == "yes",
        file=file,
    )


@pytest.fixture(scope="session")
def age_vectors() -> tuple[AgeVector, ...]:
    """The C2SP/CCTV age vectors, from npm, kept in the user's cache."""
    script = npm_file(_PACKAGE, _SHA512, "index.js")
    entries = [(match[1], base64.b64decode(match[2])) for match in _ENTRY.finditer(script)]
    return tuple(_vector(name, data) for name, data in entries)


Tool = Callable[..., bytes]


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Runs a stock command (age, age-keygen, zstd) on bytes; it must be installed and succeed."""

    def run(*argv: str, stdin: bytes = b"") -> bytes:
        if shutil.which(argv[0]) is None:
            pytest.fail(f"{argv[0]} is missing: install Debian's age and zstd")
        done = subprocess.run(argv, input=stdin, check=False, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@dataclass(frozen=True)
class Keys:
    """One of each kind, and what is made of them."""

    identity: Identity
    recipient: Recipient
    writer_key: WriterKey
    writer: Writer
    signing: SigningKey
    context: ObjectContext

    def sealer(self, *more: Recipient, level: int = 1) -> Sealer:
        return Sealer([self.recipient, *more], self.signing, self.context, level=level)

    def opener(self, **changes: object) -> Opener:
        facts: dict[str, object] = {
            "archive": self.context.archive,
            "system_identifier": self.context.system_identifier,
            "writers": [self.writer],
            "identities": [self.identity],
        }
        return Opener(**(facts | changes))  # type: ignore[arg-type]


def make_keys() -> Keys:
    """New keys of an archive."""
    identity, recipient = generate_identity()
    writer_key, writer = generate_writer_key()
    context = ObjectContext(
        archive=os.urandom(8).hex(), system_identifier="7423847238472384723", writer="run-1"
    )
    signing = SigningKey.derive(writer_key)
    return Keys(identity, recipient, writer_key, writer, signing, context)


@pytest.fixture(scope="session")
def codec_keys() -> Keys:
    """Keys that a whole run shares."""
    return make_keys()
