"""What a store needs to know to be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

AddressingStyle = Literal["auto", "path", "virtual"]

MIB: Final = 1024 * 1024


class Secret:
    """A text that shows itself only when asked for by `reveal`; never in a log, repr or message."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('...')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """One repository's URL and how to speak to it.

    ``url`` is ``s3://bucket[/prefix]`` or ``file:///path``. What is None comes from the usual AWS
    chain (environment, profile, web identity, container, instance). ``addressing_style`` "auto"
    puts the bucket into the path when there is an ``endpoint_url``, else into the host name.
    ``ca_file`` replaces the system's trusted authorities.

    ``piece_size_bytes`` is one piece of a multipart upload: at least 5 MiB on most stores; an
    object has at most 10,000 pieces, so 8 MiB allow 78 GiB. ``max_concurrent`` bounds the
    operations under way, ``attempt_timeout_s`` one attempt and ``deadline_s`` all attempts of one
    operation; both grow by the time that the body takes at 256 KiB/s.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle = "auto"
    ca_file: Path | None = None
    profile: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    attempt_timeout_s: float = 30.0
    deadline_s: float = 120.0
    piece_size_bytes: int = 8 * MIB
    max_concurrent: int = 8
