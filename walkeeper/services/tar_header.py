"""Headers of a tar's members (POSIX pax), as tarfile makes them, at a tenth of its cost.

There may be a million files: what small relations cost is what each file costs.
"""

from __future__ import annotations

import grp
import pwd
import tarfile
from functools import lru_cache
from typing import Final

# POSIX pax, "ustar Header Block": where the fields are that differ from file to file.
_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_MTIME: Final = slice(136, 148)
_CHECKSUM: Final = slice(148, 156)
_NAME_BYTES: Final = 100
_LIMIT: Final = 8**11  # of a number in eleven octal digits


def file_header(path: str, mode: int, mtime_ns: int, owner: tuple[int, int], size: int) -> bytes:
    """The header of a file. ``owner`` is a pair of ids of this host, written as names only: ids
    mean something else on another host."""
    seconds = mtime_ns // 1_000_000_000
    if not (path.isascii() and 0 < len(path) <= _NAME_BYTES and 0 <= seconds < _LIMIT > size):
        info = _info(path, mode, owner)
        info.mtime, info.size = seconds, size
        return _encoded(info)
    header, total = _template(mode, owner)
    header = header.copy()
    name, size_field, mtime_field = path.encode("ascii"), b"%011o\0" % size, b"%011o\0" % seconds
    total += sum(name) + sum(size_field) + sum(mtime_field)
    header[: len(name)] = name
    header[_SIZE] = size_field
    header[_MTIME] = mtime_field
    header[_CHECKSUM] = b"%06o\0 " % total
    return bytes(header)


def directory_header(path: str, mode: int, mtime_ns: int, owner: tuple[int, int]) -> bytes:
    """The header of a directory, which is a member without content."""
    info = _info(path, mode, owner)
    info.type = tarfile.DIRTYPE
    info.mtime = mtime_ns // 1_000_000_000
    return _encoded(info)


def padding(size: int) -> bytes:
    """What follows a member's content up to the next header."""
    return bytes(-size % tarfile.BLOCKSIZE)


@lru_cache(maxsize=256)
def _template(mode: int, owner: tuple[int, int]) -> tuple[bytearray, int]:
    """A header without name, size and time, and the sum of its bytes; not to be changed.

    Its checksum counts as blanks, which is what it is summed up as.
    """
    header = bytearray(_encoded(_info("", mode, owner)))
    for field in (_NAME, _SIZE, _MTIME):
        header[field] = bytes(field.stop - field.start)
    header[_CHECKSUM] = b" " * 8
    return header, sum(header)


def _info(path: str, mode: int, owner: tuple[int, int]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mode = mode
    info.uname, info.gname = _user_name(owner[0]), _group_name(owner[1])
    return info


def _encoded(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@lru_cache(maxsize=64)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache(maxsize=64)
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
