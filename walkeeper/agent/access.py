"""Keeps an eye on what lets the agent in; see `walkeeper.services.access`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from walkeeper.agent.certificates import find_expiring
from walkeeper.agent.cluster import ClusterService
from walkeeper.agent.compose import Workshop, storage_settings
from walkeeper.agent.key_files import check_key_files, key_files
from walkeeper.errors import WalkeeperError
from walkeeper.postgres.role import ask_validity
from walkeeper.services.access import Expiring, expiry_status
from walkeeper.services.agent_status import ExpiryStatus, KeyFileStatus
from walkeeper.services.source_guard import SourceGuard

if TYPE_CHECKING:
    from walkeeper.storage.s3_credentials import CredentialsWatch

FindExpiring = Callable[[], Awaitable[Sequence[Expiring] | None]]
"""What ends, as far as it is known now; None where it could not be asked."""

_CERTIFICATES_EVERY_S: Final = 6 * 3600.0
_CERTIFICATES_AGAIN_S: Final = 600.0
_AGAIN_S: Final = 15.0
_DEADLINE_S: Final = 60.0
_ROLE_HINT: Final = (
    'ALTER ROLE "{name}" VALID UNTIL ..., or no end: logins with a password fail after it, others'
    " (peer, a certificate) go on"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Somebody to ask ``every_s``, and after ``again_s`` where that failed."""

    find: FindExpiring
    every_s: float
    again_s: float


class AccessWatch:
    """Asks its sources in turn, each at its own pace, and reads the files again.

    What could not be asked is as it was when it last could. ``within_s`` is how long before an end
    somebody should know of it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        check_files: Callable[[], Awaitable[tuple[KeyFileStatus, ...]]],
        *,
        every_s: float,
        within_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sources = sources
        self._check_files = check_files
        self._every_s = every_s
        self._within_s = within_s
        self._now = now
        self._found: list[Sequence[Expiring] | None] = [None] * len(sources)
        self.key_files: tuple[KeyFileStatus, ...] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every source could be asked at least once."""
        return None not in self._found

    def expiring(self) -> tuple[ExpiryStatus, ...]:
        """All whose end is known."""
        known = (one for found in self._found for one in found or ())
        now = self._now()
        return tuple(expiry_status(one, now, self._within_s) for one in known)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, source in enumerate(self._sources):
                group.create_task(self._ask_on(number, source))
            group.create_task(self._check_on())

    async def _ask_on(self, number: int, source: Source) -> None:
        while True:
            found = await source.find()
            if found is not None:
                self._found[number] = found
            await asyncio.sleep(source.again_s if found is None else source.every_s)

    async def _check_on(self) -> None:
        while True:
            self.key_files = await self._check_files()
            await asyncio.sleep(self._every_s)


def watch_access(shop: Workshop, cluster: ClusterService) -> AccessWatch:
    """That of an agent."""
    config, every_s = shop.config, float(shop.config.agent.look_every)
    certificates = partial(find_expiring, config.repository, shop.pool)
    again_s = min(_AGAIN_S, every_s)
    sources = [
        Source(certificates, _CERTIFICATES_EVERY_S, _CERTIFICATES_AGAIN_S),
        Source(partial(find_role_end, cluster.guard), every_s, again_s),
    ]
    if config.repository.url.startswith("s3:") and config.repository.access_key_id_file is None:
        from walkeeper.storage.s3_credentials import CredentialsWatch

        watch = CredentialsWatch(storage_settings(config))
        sources.append(Source(partial(find_credentials_end, watch), every_s, again_s))
    files = key_files(config, shop.keyring)

    async def check_files() -> tuple[KeyFileStatus, ...]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(shop.pool, check_key_files, files)

    within_s = float(config.alerts.expiry_within)
    return AccessWatch(sources, check_files, every_s=every_s, within_s=within_s)


async def find_role_end(guard: SourceGuard) -> tuple[Expiring, ...] | None:
    """The end of the role that is logged in to the server; None where there is no session."""
    if guard.session is None:
        return None
    try:
        role = await ask_validity(guard.session)
    except WalkeeperError:  # the guard meets it too and tells
        return None
    if role.ends_at is None:
        return ()
    what = f"the password of the database role {role.name}"
    return (Expiring("role", what, role.ends_at, _ROLE_HINT.format(name=role.name)),)


async def find_credentials_end(watch: CredentialsWatch) -> tuple[Expiring, ...] | None:
    """The end of the credentials of the store; None where there are none to be had."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            found = await watch.find_end()
    except (WalkeeperError, TimeoutError):  # the look at the repository tells of the reason
        return None
    if found is None:
        return ()
    if found.from_environment:
        what = "access to the store with keys from the environment"
        hint = "give the agent new keys (AWS_ACCESS_KEY_ID and the like), and restart it"
    else:
        what = f"access to the store with keys from {found.source}"
        hint = f"they could not be renewed: {found.problem}"
    return (Expiring("credentials", what, found.ends_at, hint),)
