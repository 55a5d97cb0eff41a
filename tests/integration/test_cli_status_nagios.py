"""``walkeeper status --nagios``, read as Nagios reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import wait_until

_NUMBER = re.compile(r"([a-z_]+)=(-?[0-9.]+)(s|B)?;;;0")


@dataclass
class Check:
    """What a monitoring system makes of the output of a plugin."""

    state: str
    text: str
    numbers: dict[str, float]
    more: list[str]


def check(installation: Installation, code: int) -> Check:
    first, *more = installation.run("status", "--nagios", code=code).stdout.splitlines()
    said, _, numbers = first.partition(" | ")
    found = re.fullmatch(r"WALKEEPER ([A-Z]+) - (.*)", said)
    assert found is not None, first
    pairs = [_NUMBER.fullmatch(part) for part in numbers.split()]
    assert None not in pairs
    return Check(found[1], found[2], {m[1]: float(m[2]) for m in pairs if m is not None}, more)


def test_all_is_well(archiving: Installation) -> None:
    archiving.run("backup")
    archiving.archive_now()
    wait_until(lambda: archiving.json("status", code=None)["healthy"], "all to be well", 60)
    found = check(archiving, 0)
    assert found.state == "OK"
    assert "1 backup, the last " in found.text
    assert found.more == []
    assert found.numbers["backups"] == 1
    assert found.numbers["findings"] == 0
    assert found.numbers["gaps"] == 0
    assert found.numbers["rpo"] < 60
    assert found.numbers["backup_age"] < 600


def test_an_archive_in_danger_is_critical_and_each_finding_has_its_line(
    archiving: Installation,
) -> None:
    archiving.stop_agent()
    found = check(archiving, 2)
    assert found.state == "CRITICAL"
    assert found.text.startswith("2 findings: nothing is archived from here: ")
    assert [line.partition(":")[0] for line in found.more] == [
        "nothing is archived from here",
        "there is no base backup",
    ]


def test_what_can_wait_is_a_warning(archiving: Installation) -> None:
    archiving.run("backup")
    archiving.stop_agent()
    archiving.configure(
        '[verify]\nsample = "100%"\n[schedule]\nverify = "* * * * *"\n[tail]\ninterval = "0s"'
    )
    (part,) = archiving.archive_dir.glob("backups/*/data/00001.tar.zst.age")
    content = bytearray(part.read_bytes())
    content[-100] ^= 1
    part.write_bytes(bytes(content))
    archiving.start_agent()
    archiving.wait_recognised()

    def is_found() -> bool:
        findings = archiving.json("status", code=None)["findings"]
        return any("the last scheduled verify" in one["what"] for one in findings)

    wait_until(is_found, "verify to find it", 100)
    found = check(archiving, 1)
    assert found.state == "WARNING"
    assert "the last scheduled verify" in found.text


@pytest.mark.parametrize("how", ["gone", "no configuration"])
def test_what_cannot_be_found_out_is_unknown(archiving: Installation, how: str) -> None:
    if how == "gone":
        archiving.repository.rename(archiving.repository.with_name("away"))
    else:
        archiving.config_file.write_text("[")
    assert check(archiving, 3).state == "UNKNOWN"


def test_one_document_at_a_time(archiving: Installation) -> None:
    assert "exclude each other" in archiving.run("status", "--nagios", "--json", code=2).stderr
