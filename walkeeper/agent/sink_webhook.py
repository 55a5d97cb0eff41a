"""Alerts to an address that takes a POST: JSON, Slack and its like, or what a template makes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template
from typing import Final, Literal

from walkeeper.agent.alert_text import Origin, document_of, fields_of
from walkeeper.agent.web_request import request
from walkeeper.config_alerts import is_json
from walkeeper.core.alerts import Notice
from walkeeper.storage.settings import Secret

DEADLINE_S: Final = 20.0

_JSON: Final = "application/json"
_SLACK_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""https://docs.slack.dev/messaging/formatting-message-text: else ``<!channel>`` has a meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSink:
    """Tells one address; ``template`` goes before ``format``."""

    name: str
    url: Secret
    format: Literal["json", "slack"] = "json"
    template: str | None = None
    deadline_s: float = DEADLINE_S

    async def tell(self, notice: Notice, origin: Origin) -> None:
        """Send it; raises `NotifyError` unless the answer is 2xx and in time."""
        body, content_type = self._body(notice, origin)
        await request(
            "POST", self.url, deadline_s=self.deadline_s, body=body, content_type=content_type
        )

    def _body(self, notice: Notice, origin: Origin) -> tuple[bytes, str]:
        if self.template is not None:
            return _fill(self.template, fields_of(notice, origin))
        if self.format == "slack":
            text = fields_of(notice, origin)["text"].translate(_SLACK_ESCAPES)
            return json.dumps({"text": text}).encode(), _JSON
        return document_of(notice, origin), _JSON


def _fill(template: str, fields: dict[str, str]) -> tuple[bytes, str]:
    """The body and its type; the values stand in the strings of JSON, or in plain text."""
    if is_json(template):
        escaped = {name: json.dumps(value)[1:-1] for name, value in fields.items()}
        return Template(template).substitute(escaped).encode(), _JSON
    return Template(template).substitute(fields).encode(), "text/plain; charset=utf-8"
