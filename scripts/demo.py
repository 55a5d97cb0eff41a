"""The main job on a private cluster: a table is dropped, the server lost, every row is back."""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scratch import ScriptError, Workplace, find_postgres, find_version, open_workplace

CONFIG = """\
[cluster]
dsn = "postgresql://postgres@/postgres?host={root}"

[[repository]]
url = "file://{root}/repository"

[encryption]
recipients = ["{recipient}"]
writer_key_file = "{root}/key.txt.writer"
identity_file = "{root}/key.txt"

[agent]
socket = "{root}/agent.sock"
http = ""
state_dir = "{root}/state"
"""
POSTGRES = """
listen_addresses = ''
unix_socket_directories = '{root}'
"""
PROOF = "SELECT count(*), md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o"
AGENT_READY_S = 20.0
# The tail is shipped every second; a promise of two seconds, and one for a slow machine.
TAIL_S = 3.0


@dataclass
class Demo:
    """The story's teller: runs what it shows, shows what it runs."""

    place: Workplace
    console: Console
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One chapter, with its time in the table at the end."""
        self.console.print(f"\n[bold cyan]{len(self.steps) + 1}. {escape(title)}[/]")
        began = time.monotonic()
        yield
        self.steps.append((title, time.monotonic() - began))

    def type(self, command: str) -> str:
        """Run a command as a user would type it, and show what it says."""
        self.console.print(f"[green]$[/] [bold]{escape(command)}[/]", soft_wrap=True)
        began = time.monotonic()
        output = self.place.run(shlex.split(command))
        for line in output.rstrip().splitlines():
            self.console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
        self.console.print(f"  [blue]{time.monotonic() - began:.2f} s[/]")
        return output

    def say(self, words: str) -> None:
        self.console.print(f"  {words}", soft_wrap=True)

    def ask(self, query: str) -> tuple[str, ...]:
        """The only row of a query, without showing it."""
        output = self.place.run(["psql", "-XAtq", "-F", "|", "-c", query])
        return tuple(output.strip().split("|"))


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    try:
        with open_workplace(
            "walkeeper-demo-", arguments.run_user, Path("/tmp"), keep=arguments.keep
        ) as place:
            place.environment["WALKEEPER_CONFIG"] = str(place.root / "walkeeper.toml")
            return tell(Demo(place, console), keep=arguments.keep)
    except ScriptError as error:
        console.print(f"\n[bold red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\n[bold]interrupted; everything is cleaned up[/]")
        return 130


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the files (servers are stopped)")
    parser.add_argument("--run-user", default="", help=argparse.SUPPRESS)  # scripts/demo knows
    return parser.parse_args()


def tell(demo: Demo, *, keep: bool) -> int:
    """Everything from an empty directory to the proof."""
    try:
        with demo.step("A PostgreSQL cluster"):
            make_cluster(demo)
        with demo.step("A key, an encrypted repository, an agent"):
            agent = start_archiving(demo)
        with demo.step("Orders come in, and a base backup is taken"):
            add_orders(demo, 1, 10_000)
            demo.type("walkeeper backup")
            demo.type("walkeeper backups")
        with demo.step("More orders, and then a mistake"):
            add_orders(demo, 10_001, 15_000)
            before, moment = demo.ask(PROOF), note_time(demo)
            after = drop_table(demo)
        with demo.step("It gets worse: the whole server is lost"):
            lose_server(demo, agent)
        with demo.step("The rescue: the second before the mistake, in a new directory"):
            rescue = f"walkeeper restore --target-dir rescued --target-time '{moment}'"
            demo.type(f"{rescue} --plan")
            demo.type(f"{rescue} --target-action promote --start")
            rescued = demo.ask(PROOF)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            show_logs(demo)
        raise
    show_proof(demo, before, after, rescued)
    if keep:
        demo.say(f"kept: {demo.place.root}")
    return 0 if rescued == before else 1


def make_cluster(demo: Demo) -> None:
    bin_dir = find_postgres()
    demo.say(f"PostgreSQL {find_version(bin_dir)} from {bin_dir}, in {demo.place.root}")
    demo.type("pg_ctl -s initdb -D live -o '-U postgres -A trust -k -E UTF8 --locale=C'")
    with (demo.place.root / "live/postgresql.conf").open("a") as conf:
        conf.write(POSTGRES.format(root=demo.place.root))
    demo.type("pg_ctl -s -D live -l live.log start")
    columns = "id bigint PRIMARY KEY, customer text NOT NULL, amount numeric NOT NULL"
    demo.type(f"psql -Xqc 'CREATE TABLE orders ({columns})'")


def start_archiving(demo: Demo) -> "subprocess.Popen[str]":
    """From nothing to a healthy agent; the server is restarted once, for archive_mode."""
    recipient = re.search(r"age1[0-9a-z]+", demo.type("walkeeper keygen -o key.txt"))
    if recipient is None:
        raise ScriptError("walkeeper keygen printed no recipient")
    demo.place.directory("repository")
    demo.place.directory("state")
    config = CONFIG.format(root=demo.place.root, recipient=recipient.group())
    demo.place.write("walkeeper.toml", config)
    demo.type("cat walkeeper.toml")
    demo.type("walkeeper init --apply")
    demo.type("pg_ctl -s -D live -l live.log restart")
    return start_agent(demo)


def start_agent(demo: Demo) -> "subprocess.Popen[str]":
    """Start the agent in the background and wait until it answers."""
    demo.console.print("[green]$[/] [bold]walkeeper agent &[/]")
    with (demo.place.root / "agent.log").open("w") as log:
        agent = demo.place.spawn(["walkeeper", "agent"], stdout=log, stderr=log)
    deadline = time.monotonic() + AGENT_READY_S
    while not (demo.place.root / "agent.sock").exists():
        if agent.poll() is not None:
            raise ScriptError(f"the agent ended with {agent.returncode}")
        if time.monotonic() > deadline:
            raise ScriptError(f"the agent was not ready in {AGENT_READY_S:.0f} s")
        time.sleep(0.05)
    return agent


def add_orders(demo: Demo, first: int, last: int) -> None:
    rows = f"SELECT i, 'customer ' || i % 97, i * 1.25 FROM generate_series({first}, {last}) i"
    demo.type(f'psql -Xc "INSERT INTO orders {rows}"')


def note_time(demo: Demo) -> str:
    """The server's own time, as it will be typed into the restore, a second before the mistake."""
    (moment,) = demo.ask("SELECT clock_timestamp() AT TIME ZONE 'UTC' || '+00'")
    demo.say(f"it is {moment}")
    time.sleep(1)
    return moment


def drop_table(demo: Demo) -> str:
    """The mistake, and the number of rows that are left of it."""
    demo.type("psql -Xc 'DROP TABLE orders'")
    (left,) = demo.ask("SELECT coalesce(to_regclass('orders')::text, 'no such table')")
    demo.say(f"[bold red]orders: {left}[/]")
    return left


def lose_server(demo: Demo, agent: "subprocess.Popen[str]") -> None:
    """Only the repository survives; its last segment never got full, the tail brought its bytes."""
    time.sleep(TAIL_S)
    demo.type("walkeeper status")
    demo.type("pg_ctl -s -D live -m immediate stop")
    demo.type("rm -rf live")
    agent.terminate()
    agent.wait(30)


def show_proof(demo: Demo, before: tuple[str, ...], after: str, rescued: tuple[str, ...]) -> None:
    proof = Table("", "rows", "MD5 of all rows", title="The proof", title_style="bold")
    proof.add_row("before the mistake", *before)
    proof.add_row("after it", f"[red]{after}[/]", "")
    colour = "green" if rescued == before else "red"
    proof.add_row("after the rescue", *(f"[{colour}]{value}[/]" for value in rescued))
    times = Table("step", "seconds", title="The time", title_style="bold")
    times.columns[1].justify = "right"
    for title, seconds in demo.steps:
        times.add_row(title, f"{seconds:.1f}")
    began = float(os.environ.get("WALKEEPER_DEMO_BEGAN", time.time()))
    times.add_row("everything, installation included", f"{time.time() - began:.1f}")
    demo.console.print("", times, "", proof, "")
    verdict = "every row is back" if rescued == before else "the rows differ"
    demo.console.print(f"[bold {colour}]{verdict}[/]")


def show_logs(demo: Demo) -> None:
    """What the programs said last, for whoever has to find out what went wrong."""
    for log in [*demo.place.root.glob("*.log"), *demo.place.root.glob("*/*.log")]:
        demo.console.rule(str(log.relative_to(demo.place.root)))
        for line in log.read_text(errors="replace").splitlines()[-25:]:
            demo.console.print(escape(line), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
