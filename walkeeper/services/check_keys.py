"""Whether the keys of this host fit together: tried in memory, nothing is stored."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.codec.opener import Opener
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import ObjectContext
from walkeeper.codec.writer import SigningKey
from walkeeper.core.keyring import Writer
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError, KeyUnavailable
from walkeeper.keys.keyring import Keyring
from walkeeper.services.checklist import Remark

_SAMPLE: Final = b"what is sealed here can be opened here"
_SAMPLE_NAME: Final = ObjectName("check.zst.age")


@dataclass(frozen=True, slots=True)
class KeysAtHand:
    """The keys of this host.

    ``pinned`` are the writers that whoever reads believes, by configuration or by the comment in
    the identity file; empty when neither says. ``exposed`` are key files that others than their
    owner may read.
    """

    keyring: Keyring
    pinned: tuple[Writer, ...] = ()
    exposed: tuple[Path, ...] = ()


async def check_keys(keys: KeysAtHand, pool: ThreadPoolExecutor) -> Remark:
    """What this host can seal it can also open, and readers believe its signature."""
    loop = asyncio.get_running_loop()
    text = await loop.run_in_executor(pool, _try_keys, keys)
    if keys.exposed:
        listed = " ".join(map(str, keys.exposed))
        return Remark(text, f"others can read {listed}", f"chmod 600 {listed}")
    return Remark(text)


def _try_keys(keys: KeysAtHand) -> str:
    keyring = keys.keyring
    if keyring.writer_key is None or not keyring.recipients:
        keyring.require_identities()
        return "an identity to read with; no writer key, so this host only reads"
    signing = SigningKey.derive(keyring.writer_key)
    if keys.pinned and signing.writer not in keys.pinned:
        raise KeyUnavailable(
            f"the writer key here is {signing.writer}, which is not among the writers that readers "
            "believe",
            hint="use the cluster's own writer key: one file for all of its hosts",
        )
    context = ObjectContext(archive=secrets.token_hex(16), system_identifier="1", writer="check")
    sealed = Sealer(keyring.recipients, signing, context).seal(_SAMPLE_NAME, [_SAMPLE])
    count = len(keyring.recipients)
    sealing = f"seals for {count} recipient{'' if count == 1 else 's'}"
    if not keyring.identities:
        return f"{sealing}; no identity, so this host cannot read"
    opener = Opener(
        archive=context.archive,
        system_identifier=context.system_identifier,
        writers=keyring.writers,
        identities=keyring.identities,
        signing=signing,
    )
    opened = opener.open_whole(_SAMPLE_NAME, sealed.body(), limit_bytes=len(_SAMPLE))
    if opened.plaintext != _SAMPLE:
        raise IntegrityError("what was sealed came out otherwise")
    return f"{sealing}, and the identity here opens it"
