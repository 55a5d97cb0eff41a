"""Free the shared memory that PostgreSQL servers leave behind when they get SIGKILL.

Such a server leaves a small System V segment, by which the next start in its data directory sees
whether anybody of it is left, and files in /dev/shm. The next start takes them along. Where the
directory is gone nobody ever does, and a kernel has room for 4,096 segments (shmmni): then no
server starts any more on the whole machine, whoever it belongs to.
"""

import contextlib
import ctypes
import struct
from pathlib import Path

_SEGMENTS = Path("/proc/sysvipc/shm")
_FILES = Path("/dev/shm")
# PGShmemHeader begins with magic, creatorPID, totalsize, freeoffset and dsm_control
# (src/include/storage/pg_shmem.h, the same from PostgreSQL 13 to 18).
_HEADER = struct.Struct("=iiQQI")
_MAGIC = 679834894  # PGShmemMagic
_SHM_RDONLY = 0o10000
_IPC_RMID = 0
_LIBC = ctypes.CDLL(None)
_LIBC.shmat.restype = ctypes.c_void_p


def free_of_killed(uid: int) -> int:
    """Free what killed servers of this user have left; returns of how many servers.

    A segment that anybody is attached to stays, one whose server is alive (it may be about to
    attach itself), and one that is not PostgreSQL's.
    """
    freed = 0
    for segment in _find_abandoned(uid):
        header = _read(segment)
        if header is None:
            continue
        magic, creator, _, _, control = header
        if magic == _MAGIC and not Path(f"/proc/{creator}").exists():
            _remove_files(control)
            freed += _LIBC.shmctl(segment, _IPC_RMID, None) == 0
    return freed


def segments_of(uid: int) -> set[int]:
    """The identifiers of all System V segments that belong to this user."""
    return {int(row["shmid"]) for row in _rows(uid)}


def _find_abandoned(uid: int) -> list[int]:
    rows = [row for row in _rows(uid) if row["nattch"] == "0"]
    return [int(row["shmid"]) for row in rows if int(row["size"]) >= _HEADER.size]


def _rows(uid: int) -> list[dict[str, str]]:
    if not _SEGMENTS.exists():
        return []  # a kernel or a sandbox that does not tell
    head, *lines = _SEGMENTS.read_text().splitlines()
    rows = [dict(zip(head.split(), line.split(), strict=True)) for line in lines]
    return [row for row in rows if row["uid"] == str(uid)]


def _read(segment: int) -> tuple[int, ...] | None:
    """The first fields of a segment's header; None where it went meanwhile."""
    address = _LIBC.shmat(segment, None, _SHM_RDONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    try:
        return _HEADER.unpack(ctypes.string_at(address, _HEADER.size))
    finally:
        _LIBC.shmdt(ctypes.c_void_p(address))


def _remove_files(handle: int) -> None:
    """Remove the control file of dynamic shared memory and the files that it lists.

    How it lists them differs between versions (src/backend/storage/ipc/dsm.c); a handle is a random
    number of 32 bits in any of them, so those are taken of which there is a file.
    """
    control = _FILES / f"PostgreSQL.{handle}"
    with contextlib.suppress(FileNotFoundError):
        text = control.read_bytes()
        numbers = {number for (number,) in struct.iter_unpack("=I", text[: len(text) & ~3])}
        for number in numbers - {0}:
            (_FILES / f"PostgreSQL.{number}").unlink(missing_ok=True)
        control.unlink()
