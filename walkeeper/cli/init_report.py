"""What ``init`` says, on a terminal and as JSON."""

from __future__ import annotations

import msgspec

from walkeeper.cli.render import Page, moment_text, size_text
from walkeeper.repository.identity import describe
from walkeeper.services.archiving_settings import LIBRARY, NeededSetting, SettingState
from walkeeper.services.setup import SetupResult
from walkeeper.storage.base import Capabilities


class SettingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A setting in pg_settings' base unit; ``state`` is ok, restart, change or foreign."""

    name: str
    current: str | None
    needed: str
    state: str
    needs_restart: bool
    source: str


class InitReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``init --json``.

    ``changed`` names the settings written now, ``restart_needed_for`` those that count from the
    next start of PostgreSQL; ``conditional_*`` is null where the store did not tell.
    """

    repository: str
    folder: str
    archive: dict[str, object]
    created: bool
    conditional_put: bool | None
    conditional_multipart: bool | None
    settings: tuple[SettingRow, ...]
    changed: tuple[str, ...]
    restart_needed_for: tuple[str, ...]
    warnings: tuple[str, ...]


def report_of(url: str, result: SetupResult) -> InitReport:
    """The result as a document."""
    return InitReport(
        repository=url,
        folder=result.folder,
        archive=describe(result.record),
        created=result.created,
        conditional_put=result.capabilities.conditional_put,
        conditional_multipart=result.capabilities.conditional_multipart,
        settings=tuple(
            SettingRow(
                name=setting.name,
                current=setting.current,
                needed=setting.needed,
                state=setting.state.value,
                needs_restart=setting.needs_restart,
                source=setting.source,
            )
            for setting in result.settings
        ),
        changed=result.changed,
        restart_needed_for=result.waiting_for_restart,
        warnings=result.warnings,
    )


def show(page: Page, url: str, result: SetupResult) -> None:
    """The result for a reader, ending with what to do next."""
    record = result.record
    page.fact("repository", url)
    state = "created now" if result.created else f"exists since {moment_text(record.created)}"
    page.fact("archive", f"{result.folder}, {state}")
    page.more(
        f"cluster {record.system_identifier}, WAL segments of {size_text(record.segment_size)}"
    )
    page.fact("creates", creates_text(result.capabilities))
    page.heading("PostgreSQL settings")
    for setting in result.settings:
        if setting.name == LIBRARY and setting.state is SettingState.OK:
            continue  # of no interest to whoever does not use it
        _show_setting(page, setting, result)
    if result.warnings:
        page.heading("Warnings")
        for warning in result.warnings:
            page.item("warning", warning)
    page.heading("Next")
    for number, step in enumerate(_next_steps(result), 1):
        page.item(f"{number}.", step)


def creates_text(capabilities: Capabilities) -> str:
    """Whether the store's creates are conditional, for a reader."""
    answers = {True: "enforced", False: "NOT enforced", None: "unknown"}
    put, multipart = capabilities.conditional_put, capabilities.conditional_multipart
    if put == multipart:
        return f"never overwrite: {answers[put]} by the store"
    return f"never overwrite: {answers[put]} by the store, for multipart {answers[multipart]}"


def _show_setting(page: Page, setting: NeededSetting, result: SetupResult) -> None:
    value = setting.needed.replace("'", "''")
    line = f"{setting.name} = '{value}'"
    if setting.name == "archive_timeout":
        line = f"{setting.name} = {setting.needed}s"
    elif setting.name in {"wal_level", "archive_mode"}:
        line = f"{setting.name} = {setting.needed}"
    page.setting(setting.state.value, line)
    match setting.state:
        case SettingState.RESTART:
            page.item("", f"set; counts from the next start of PostgreSQL, now {setting.current}")
        case SettingState.OK if setting.name in result.changed:
            page.item("", "set now")
        case SettingState.CHANGE | SettingState.FOREIGN:
            now = "not to be seen" if setting.current is None else setting.current or "empty"
            restart = "; needs a restart" if setting.needs_restart else ""
            page.item("", f"now {now} (from: {setting.source}){restart}")


def _next_steps(result: SetupResult) -> list[str]:
    states = {setting.state for setting in result.settings}
    steps = []
    if result.changed and not result.settled:
        steps.append("see why a setting does not count: its source stands beside it")
    elif SettingState.FOREIGN in states:
        steps.append("take over from the other archiving: walkeeper init --apply --replace")
    elif SettingState.CHANGE in states:
        steps.append("set these: walkeeper init --apply, or copy the lines into postgresql.conf")
    if result.waiting_for_restart:
        steps.append(f"restart PostgreSQL, for {' and '.join(result.waiting_for_restart)}")
    steps.append("start the agent: systemctl enable --now walkeeper (or: walkeeper agent)")
    steps.append("see that WAL arrives: walkeeper check")
    steps.append("take the first base backup: walkeeper backup")
    return steps
