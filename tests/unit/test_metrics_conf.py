"""The alerts and the dashboard ask only for what the agent exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from walkeeper import metrics

CONF = Path(__file__).parents[2] / "conf"
LABELS = {name: metric.labels for metric in metrics.ALL for name in metric.series}
NAMES = {*LABELS, *metrics.PROCESS}
FROM_SCRAPE = {"job", "instance", "le"}
_NAME = re.compile(r"\b(?:walkeeper|process)_[a-z0-9_]+")
_SELECTED = re.compile(r"\b((?:walkeeper|process)_[a-z0-9_]+)\{([^}]*)\}")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((CONF / "prometheus-alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found = json.loads((CONF / "grafana-dashboard.json").read_text())["panels"]
    assert isinstance(found, list)
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    dashboard = json.loads((CONF / "grafana-dashboard.json").read_text())
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


@pytest.mark.parametrize("expression", [*expressions()])
def test_an_expression_asks_for_what_is_exported(expression: str) -> None:
    names = set(_NAME.findall(expression))
    assert names
    assert names <= NAMES
    for name, selected in _SELECTED.findall(expression):
        assert set(_LABEL.findall(selected)) <= FROM_SCRAPE | {*LABELS.get(name, ())}
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("Walkeeper")
    assert rule["labels"]["severity"] in {"urgent", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    asked = [LABELS[name] for name in _NAME.findall(rule["expr"]) if name in LABELS]
    known = FROM_SCRAPE.union(*asked)
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.([a-z_]+)", text)) <= known


def test_no_two_alerts_have_one_name_and_no_two_panels_one_place() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in panels()}) == len(places)


def test_no_label_of_ours_is_one_that_prometheus_sets_itself() -> None:
    for metric in metrics.ALL:
        assert not FROM_SCRAPE & {*metric.labels}, metric.name
