"""Bech32, the text form of age's keys (BIP 173, without its limit of 90 characters).

The C2SP age specification encodes recipients in lower case and identities in upper case; the
checksum is always that of the lower-case form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUE: Final = {char: value for value, char in enumerate(_CHARSET)}
# BIP 173, "Checksum": the generator of the BCH code.
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH: Final = 6


def encode(prefix: str, data: bytes) -> str:
    """The Bech32 form of ``data`` under a human-readable prefix, in the case of the prefix.

    Raises ValueError for a prefix that Bech32 cannot carry.
    """
    _check_prefix(prefix)
    lower = prefix.lower()
    values = _regroup(data, 8, 5)
    checksum = _polymod([*_expand(lower), *values, *[0] * _CHECKSUM_LENGTH]) ^ 1
    values += [checksum >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)]
    text = f"{lower}1{''.join(_CHARSET[value] for value in values)}"
    return text.upper() if prefix != lower else text


def decode(text: str) -> tuple[str, bytes]:
    """The prefix, in the case it is written in, and the bytes.

    Raises ValueError, which never quotes the text: it may be a secret.
    """
    if text not in (text.lower(), text.upper()):
        raise ValueError("upper and lower case are mixed")
    prefix, separator, coded = text.rpartition("1")
    if not separator or len(coded) < _CHECKSUM_LENGTH:
        raise ValueError("not a Bech32 string")
    _check_prefix(prefix)
    try:
        values = [_VALUE[char] for char in coded.lower()]
    except KeyError:
        raise ValueError("a character that Bech32 does not use") from None
    if _polymod([*_expand(prefix.lower()), *values]) != 1:
        raise ValueError("the checksum is wrong: mistyped or cut")
    return prefix, _pack(values[:-_CHECKSUM_LENGTH])


def _check_prefix(prefix: str) -> None:
    if not prefix or any(not 33 <= ord(char) <= 126 for char in prefix):
        raise ValueError("not a Bech32 prefix")
    if prefix not in (prefix.lower(), prefix.upper()):
        raise ValueError("upper and lower case are mixed")


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            if top >> place & 1:
                check ^= generator
    return check


def _expand(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _regroup(values: Iterable[int], width: int, new_width: int) -> list[int]:
    """The same bits in groups of another width; the last group is padded with zeros."""
    groups: list[int] = []
    held, bits = 0, 0
    for value in values:
        held, bits = held << width | value, bits + width
        while bits >= new_width:
            bits -= new_width
            groups.append(held >> bits)
            held &= (1 << bits) - 1
    if bits:
        groups.append(held << (new_width - bits))
    return groups


def _pack(values: list[int]) -> bytes:
    """Whole bytes of five-bit values; BIP 173 allows less than five bits of padding, all zero."""
    groups = _regroup(values, 5, 8)
    spare = len(values) * 5 % 8
    if spare >= 5 or (spare and groups.pop() != 0):
        raise ValueError("the padding is wrong")
    return bytes(groups)
