"""What `expire` would do to an archive, and why: reads everything, changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from walkeeper.core import layout_holds
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import WalHoldings
from walkeeper.core.layout import ObjectName
from walkeeper.core.retention import Retention, decide
from walkeeper.core.retention_policy import Catalog, Decision, RetentionPolicy, Rule
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal_needs import WalNeeds, wal_needs
from walkeeper.repository.backups import BackupStore, UnfinishedBackup
from walkeeper.repository.holds import Holds, StoredLease, latest_leases
from walkeeper.repository.removal import BackupRemoval
from walkeeper.services.expire_ancestry import read_histories, require_ancestry
from walkeeper.services.expire_backups import BackupInspector, FoundBackups
from walkeeper.services.expire_inventory import (
    SAFE_AGE,
    DoomedObject,
    Inventory,
    take_inventory,
)


@dataclass(frozen=True, slots=True)
class ExpirePlan:
    """What becomes of everything in an archive.

    ``begun`` are deletions that an earlier run did not finish; ``stale_marks`` are marks of backups
    that stay. ``orphans`` are what aborted backups left, ``leftovers`` leases that have ended and
    questions for the clock. ``findings`` are what an operator should look at.
    """

    catalog: Catalog
    decisions: tuple[Decision, ...]
    needs: WalNeeds
    inventory: Inventory
    tails: tuple[DoomedObject, ...]
    begun: tuple[BackupId, ...]
    stale_marks: tuple[BackupId, ...]
    orphans: tuple[UnfinishedBackup, ...]
    leftovers: tuple[ObjectName, ...]
    findings: tuple[str, ...]

    @property
    def doomed(self) -> tuple[BackupId, ...]:
        """The backups that go."""
        return tuple(one.backup.facts.backup for one in self.decisions if not one.kept)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read, before it is judged."""

    backups: FoundBackups
    inventory: Inventory
    histories: dict[int, TimelineHistory]
    leases: list[StoredLease]


class ExpirePlanner:
    """Makes plans for one archive."""

    def __init__(
        self, store: BackupStore, pool: ThreadPoolExecutor, policy: RetentionPolicy
    ) -> None:
        self._archive = store.archive
        self._policy = policy
        self._inspector = BackupInspector(store, pool)
        self._holds = Holds(store.archive)
        self._removal = BackupRemoval(store.archive)

    async def plan(self, now: datetime) -> ExpirePlan:
        """What is to be done at a moment of the store's clock.

        Raises IntegrityError where the ancestry of timelines in use cannot be told, KeyUnavailable
        where reading it needs an identity, and what storage raises: then nothing may be deleted.
        """
        # Marks first: a backup that is marked later is another run's business.
        marks = await self._removal.marks()
        found = await self._inspector.inspect()
        # WAL after the backups: what is committed meanwhile has all of its own behind the others'.
        inventory = await take_inventory(self._archive)
        findings = _said_of(found)
        histories = await read_histories(self._archive, inventory, findings)
        leases = await self._holds.leases()
        catalog = await self._catalog(now, _Seen(found, inventory, histories, leases), findings)
        await require_ancestry(self._archive, catalog, inventory, findings)
        retention = decide(self._policy, catalog)
        decisions = retention.decisions
        findings += _said_of_decisions(decisions)
        needs = self._needs(catalog, retention, found)
        doomed = {one.backup.facts.backup for one in decisions if not one.kept}
        committed = {one.facts.backup for one in catalog.backups}
        committed |= {one.backup for one in found.unbelieved}
        begun = tuple(one for one in marks.backups if one not in committed)
        return ExpirePlan(
            catalog=catalog,
            decisions=decisions,
            needs=needs,
            inventory=inventory,
            tails=tuple(await inventory.unneeded_tails(needs, self._archive, now)),
            begun=begun,
            stale_marks=tuple(one for one in marks.backups if one in committed - doomed),
            orphans=tuple(
                one
                for one in found.unfinished
                if one.objects and one.backup not in begun
                if now - one.youngest.modified_at > SAFE_AGE
            ),
            leftovers=(
                *(
                    layout_holds.lease_object(one.lease)
                    for one in leases
                    if now - one.ends_at > SAFE_AGE
                ),
                *(ObjectName(q.name) for q in marks.questions if now - q.modified_at > SAFE_AGE),
            ),
            findings=tuple(findings),
        )

    async def look_again(self, plan: ExpirePlan) -> ExpirePlan:
        """The plan after the wait: leases and pins made meanwhile count, nothing else does.

        What was to stay stays.
        """
        pins = await self._holds.pins()
        in_use = latest_leases(await self._holds.leases(plan.doomed))
        doomed = set(plan.doomed)
        catalog = replace(
            plan.catalog,
            backups=tuple(
                replace(
                    one,
                    pinned=pins.reasons.get(one.facts.backup),
                    leased_until=in_use.get(one.facts.backup),
                )
                if one.facts.backup in doomed
                else one
                for one in plan.catalog.backups
            ),
        )
        retention = decide(self._policy, catalog)
        again = {one.backup.facts.id: one for one in retention.decisions}
        decisions = tuple(
            again[one.backup.facts.id] if not one.kept else one for one in plan.decisions
        )
        if all(
            one.kept == before.kept for one, before in zip(decisions, plan.decisions, strict=True)
        ):
            return plan
        needs = plan.needs
        if needs.ranges:
            needs = wal_needs(self._policy, catalog, replace(retention, decisions=decisions))
        tails = await plan.inventory.unneeded_tails(needs, self._archive, catalog.now)
        return replace(plan, catalog=catalog, decisions=decisions, needs=needs, tails=tuple(tails))

    def _needs(self, catalog: Catalog, retention: Retention, found: FoundBackups) -> WalNeeds:
        # A real backup whose facts are lost may be mended, and nobody knows what it needs.
        if any(one.ours for one in found.unbelieved):
            return WalNeeds({})
        return wal_needs(self._policy, catalog, retention)

    async def _catalog(self, now: datetime, seen: _Seen, findings: list[str]) -> Catalog:
        pins = await self._holds.pins()
        findings += [f"{name} was not signed by a known writer: ignored" for name in pins.ignored]
        proven = await self._holds.last_proven(one.facts.backup for one in seen.backups.known)
        in_use = latest_leases(seen.leases)
        inventory = seen.inventory
        return Catalog(
            now=now,
            backups=tuple(
                replace(
                    one,
                    pinned=pins.reasons.get(one.facts.backup),
                    leased_until=in_use.get(one.facts.backup),
                    proven_at=proven[1] if proven and proven[0] == one.facts.backup else None,
                )
                for one in seen.backups.known
            ),
            wal=WalHoldings(inventory.size, inventory.complete()),
            fragments=inventory.fragments(),
            wal_stored_at=inventory.stored_at,
            histories=seen.histories,
        )


def _said_of(found: FoundBackups) -> list[str]:
    return [
        f"backup {one.backup} cannot be believed and does not count: {one.problem}"
        + ("; as long as it is there no WAL is deleted" if one.ours else "")
        for one in found.unbelieved
    ]


def _said_of_decisions(decisions: tuple[Decision, ...]) -> list[str]:
    said = [
        f"backup {one.backup.facts.id} is not whole and does not count: {one.problem}"
        for one in decisions
        if one.problem is not None
    ]
    odd = {Rule.FUTURE, Rule.ASTRAY}
    return said + [
        f"backup {one.backup.facts.id} does not count: {hold.text}"
        for one in decisions
        for hold in one.holds
        if hold.rule in odd
    ]
