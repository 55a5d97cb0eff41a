"""Packages from npm that tests read, kept in the user's cache and never committed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest


def npm_file(package: str, sha512: str, member: str) -> str:
    """The text of a file in a package, "name@version", which is fetched where it is not at hand.

    Fails the test when it cannot be fetched or is another one than that of the digest.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "walkeeper-tests"
    archive = cache / f"{package.replace('@', '-')}.tgz"
    if not archive.exists():
        _fetch(package, cache)
    if hashlib.sha512(archive.read_bytes()).hexdigest() != sha512:
        pytest.fail(f"{archive} is not {package}: delete it")
    with tarfile.open(archive) as packed:
        found = packed.extractfile(f"package/{member}")
        assert found is not None, f"{package} has no {member}"
        return found.read().decode()


def _fetch(package: str, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        pytest.fail(f"npm is missing: it fetches {package}")
    done = subprocess.run(
        [npm, "pack", package, "--pack-destination", str(cache)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cache,
    )
    if done.returncode:
        pytest.fail(f"{package} cannot be fetched: {done.stderr}")
