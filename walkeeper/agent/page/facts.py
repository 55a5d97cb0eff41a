"""The agent, the server that it archives, and the store."""

from __future__ import annotations

from walkeeper.agent.page.markup import Content, Markup, tag
from walkeeper.core.wording import counted, size_text, span_text
from walkeeper.services.agent_status import AgentStatus


def show_facts(agent: AgentStatus) -> Markup:
    """The agent, its server and its store."""
    source, store, fetch, tail = agent.source, agent.store, agent.fetch, agent.tail
    yes = {True: "yes", False: "no", None: "not known"}
    facts: list[tuple[str, Content]] = [
        (
            "Agent",
            (
                f"walkeeper {agent.version}, process {agent.pid}, running for "
                f"{span_text(agent.uptime_s)}"
            ),
        ),
        (
            "Server",
            f"PostgreSQL {_version(source.server_version)}, timeline {source.timeline}"
            if source.verified
            else f"not recognised: {source.reason}",
        ),
        ("Data directory", source.data_directory),
        ("System identifier", source.system_identifier),
        ("Flushed up to", source.flush_lsn),
        ("Repository", agent.repository),
        ("Archive", agent.folder),
        (
            "Store",
            (
                f"{counted(store.requests, 'request')}, {counted(store.errors, 'error')}, "
                f"{size_text(store.bytes_written)} written, {size_text(store.bytes_read)} read"
            ),
        ),
        (
            "Creates are conditional",
            f"{yes[store.conditional_put]}; of large objects {yes[store.conditional_multipart]}",
        ),
    ]
    if agent.archiving is not None:
        archiving = agent.archiving
        facts.append(
            (
                "Archived",
                (
                    f"{counted(archiving.archived, 'file')}, "
                    f"{counted(archiving.failed, 'failed attempt')}; last "
                    f"{archiving.last_archived or 'none'}"
                ),
            )
        )
    if tail is not None:
        reason = f": {tail.reason}" if tail.reason else ""
        facts.append(
            (
                "Tail",
                (
                    f"{tail.state}{reason}, every {span_text(tail.interval_s)}; stored "
                    f"up to {tail.shipped_lsn or 'nothing'}, {counted(tail.links, 'link')}"
                ),
            )
        )
    if fetch.fetched or fetch.errors or fetch.absent:
        facts.append(
            (
                "Fetched",
                (
                    f"{counted(fetch.fetched, 'file')}, {fetch.absent} absent, "
                    f"{counted(fetch.errors, 'error')}"
                ),
            )
        )
    return tag(
        "dl",
        [tag("div", tag("dt", name), tag("dd", text)) for name, text in facts if text],
        class_="facts",
    )


def _version(number: int | None) -> str:
    return "?" if number is None else f"{number // 10000}.{number % 10000}"
