"""Posts a report to a webhook, whose address is a secret: it is never shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import requests

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from gpucost.advice.report.document import Report

_SECONDS = 30.0


def post(variable: str, text: str, report: Report) -> None:
    """POST `{"text": ..., "report": {...}}` to the address in an environment variable.

    Slack, Mattermost and others show `text`. Raises SourceError.
    """
    body = msgspec.json.encode({"text": text, "report": report})
    try:
        response = requests.post(
            os.environ[variable],
            data=body,
            headers={"Content-Type": "application/json", "User-Agent": "gpucost"},
            timeout=_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise SourceError(
            "unreachable",
            f"--webhook: the address in {variable} cannot be reached: {type(error).__name__}.",
            "Check the address, and that this pod may reach it.",
        ) from error
    if not response.ok:
        raise SourceError(
            "http_status",
            f"--webhook: the address in {variable} answered HTTP {response.status_code}.",
            "Check the address; some hooks take messages of their own form only.",
        )
