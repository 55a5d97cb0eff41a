"""kill -9 at any moment of a write: what is visible is whole, and writing again works."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from walkeeper.errors import ObjectExists
from walkeeper.storage.filesystem import FilesystemStorage

# Forks a writer for each round and kills it after a random time, or at its n-th system call of the
# kinds that change anything: before the call, and for a write also in the middle of it.
_ZYGOTE = """
import asyncio, hashlib, json, os, random, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from walkeeper.storage.filesystem import FilesystemStorage

root, mode, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
CALLS = ["open", "write", "fsync", "link", "unlink", "mkdir", "close", "fchmod"]

def content(name, size):
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // 32 + 1))[:size]

async def chunks(data):
    for begin in range(0, len(data), 700_001):
        yield data[begin:begin + 700_001]

async def write(number, tell):
    with ThreadPoolExecutor(2) as executor:
        storage = FilesystemStorage(root, executor)
        for turn in range(1 if mode == "steps" else 1000):
            for kind, size in (("put", 300_000), ("stream", 2_500_000)):
                name = f"{number % 5}/{number}-{turn}/{kind}-{size}"
                if kind == "put":
                    await storage.put(name, content(name, size))
                else:
                    await storage.put_stream(name, chunks(content(name, size)))
                if mode == "times":
                    os.write(tell, b".")

def kill_at(step):
    left = [step]
    def wrap(name, real):
        def call(*arguments, **keywords):
            left[0] -= 1
            if left[0] == 0 and name == "write":
                real(arguments[0], arguments[1][:len(arguments[1]) // 2])
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)
        return call
    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))

killed = 0
for number in range(rounds):
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        if mode == "steps":
            kill_at(number + 1)
        try:
            asyncio.run(write(number, tell))
        finally:
            os._exit(0)
    os.close(tell)
    if mode == "times":
        if number % 2:
            os.read(heard, 1)  # however slow the disk is: one object is whole
        time.sleep(random.random() * 0.03)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(heard)
    killed += os.WIFSIGNALED(status)
    if mode == "steps" and not os.WIFSIGNALED(status):
        break
print(json.dumps({"killed": killed, "rounds": number + 1}))
"""


def _content(name: str, size: int) -> bytes:
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


@pytest.mark.parametrize(("mode", "rounds"), [("steps", 1000), ("times", 250)])
def test_a_killed_writer_leaves_nothing_half_written_visible(
    tmp_path: Path, mode: str, rounds: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ZYGOTE, str(tmp_path), mode, str(rounds)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=280,  # a disk may take long over a thousand syncs
    )
    outcome = json.loads(done.stdout)
    if mode == "steps":
        assert outcome["killed"] == outcome["rounds"] - 1
        assert outcome["killed"] > 20, "every step of both kinds of write was interrupted"
    else:
        assert outcome["killed"] == rounds
    found = asyncio.run(_check(tmp_path))
    assert found["whole"] > 10
    assert found["abandoned"] >= 5, "writers were killed in the middle of their work"


async def _check(root: Path) -> dict[str, int]:
    whole = 0
    with ThreadPoolExecutor(2) as executor:
        storage = FilesystemStorage(root, executor)
        async for info in storage.list_objects(""):
            size = int(info.name.rpartition("-")[2])
            assert info.size_bytes == size
            assert (root / info.name).read_bytes() == _content(info.name, size)
            with pytest.raises(ObjectExists):
                await storage.put(info.name, b"other")
            whole += 1
        temporary = list(root.rglob(".walkeeper-*.tmp"))
        for path in temporary:
            # Whatever was being written there can be written now.
            for kind, size in (("put", 300_000), ("stream", 2_500_000)):
                name = f"{path.parent.relative_to(root)}/{kind}-{size}"
                try:
                    await storage.put(name, _content(name, size))
                except ObjectExists:
                    assert (root / name).stat().st_size == size
    return {"whole": whole, "abandoned": len(temporary)}


def test_a_writer_that_dies_in_one_folder_does_not_hold_up_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f".walkeeper-{'f' * 16}.tmp").write_bytes(b"half")

    async def scenario() -> list[str]:
        with ThreadPoolExecutor(1) as executor:
            storage = FilesystemStorage(tmp_path, executor)
            assert [info.name async for info in storage.list_objects("")] == []
            assert await storage.folders("") == []
            await storage.put("a/b", b"1")
            await storage.delete("a/b")
            return sorted(path.name for path in (tmp_path / "a").iterdir())

    assert asyncio.run(scenario()) == [f".walkeeper-{'f' * 16}.tmp"]
