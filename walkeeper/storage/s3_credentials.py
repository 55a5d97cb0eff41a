"""When the credentials end with which the store is asked, where they cannot be renewed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import botocore.exceptions as boto
from aiobotocore.credentials import get_credentials
from botocore.credentials import Credentials, EnvProvider, RefreshableCredentials

from walkeeper.errors import WalkeeperError
from walkeeper.storage.s3_client import load_credentials, new_session
from walkeeper.storage.s3_errors import s3_errors
from walkeeper.storage.settings import StorageSettings

_LONG_S: Final = 100 * 366 * 86_400
_ASKED: Final = "ask", "for the credentials of the store"


@dataclass(frozen=True, slots=True)
class CredentialsEnd:
    """Credentials that end; ``source`` is botocore's word for where they come from.

    ``problem`` says why they could not be renewed, None for those that nobody ever renews.
    """

    source: str
    ends_at: datetime
    problem: str | None = None

    @property
    def from_environment(self) -> bool:
        """Whether they are those of the process's environment, which nobody can change."""
        return self.source == EnvProvider.METHOD


class CredentialsWatch:
    """Asks the usual AWS chain, beside the client and from the same sources.

    Keys without a date have no end that is known. Those of a role, a credential process and the
    like renew themselves: they are asked for again when they have less than a quarter of an hour
    to live, and end only where nobody gives out new ones then.
    """

    def __init__(
        self,
        settings: StorageSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = new_session(settings)
        self._now = now
        self._held: Credentials | None = None

    async def find_end(self) -> CredentialsEnd | None:
        """What is known now; raises StorageError or ConfigError where nobody gave out any yet."""
        if self._held is None:
            self._held = await self._load()
        held = self._held
        if not isinstance(held, RefreshableCredentials):
            return None
        if held.method == EnvProvider.METHOD:
            return CredentialsEnd(held.method, self._end_of(held))
        if not held.refresh_needed():
            return None
        try:
            self._held = await self._load()
        except WalkeeperError as error:
            return CredentialsEnd(held.method, self._end_of(held), error.message)
        return None

    async def _load(self) -> Credentials:
        with s3_errors(*_ASKED):
            found = await load_credentials(get_credentials(self._session))
            if found is None:
                raise boto.NoCredentialsError
            if found.method != EnvProvider.METHOD:
                await found.get_frozen_credentials()  # some are fetched only when they are used
        assert isinstance(found, Credentials)
        return found

    def _end_of(self, held: RefreshableCredentials) -> datetime:
        """To the second; botocore tells only whether there are less than so many seconds left."""
        left = bisect_left(range(-_LONG_S, _LONG_S), True, key=held.refresh_needed)
        return self._now() + timedelta(seconds=left - _LONG_S)
