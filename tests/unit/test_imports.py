"""The house stands: imports flow one way."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_contracts_between_the_layers_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    assert command.exists(), "import-linter is missing: install the extra [test]"
    ended = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_hook_is_dispatched_before_anything_heavy_is_imported() -> None:
    program = (
        "import os, sys; sys.argv[1:] = ['wal-push', '/nowhere']\n"
        "def end(code): print(code, *sys.modules, flush=True); os.kill(os.getpid(), 9)\n"
        "import posix; posix._exit = end\n"
        "from walkeeper.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    code, *loaded = ended.stdout.split()
    assert code == "1"
    assert "walkeeper.hooks.client" in loaded
    assert not set(loaded) & {"click", "asyncio", "structlog", "msgspec", "walkeeper.cli.main"}


def test_the_agent_starts_without_what_draws_reports() -> None:
    program = (
        "import sys, walkeeper.__main__ as program; program.import_structlog()\n"
        "import walkeeper.cli.agent, walkeeper.agent.app\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "import rich.console; print(*loaded)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ended.stdout.split())
    assert "structlog" in loaded
    assert not loaded & {"rich", "pygments", "numpy", "aiobotocore"}
