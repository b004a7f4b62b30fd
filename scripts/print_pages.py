"""Receives what Alertmanager sends to a webhook, and prints each alert: a pager for `make demo`.

The format is Alertmanager's webhook payload, version 4
(https://prometheus.io/docs/alerting/latest/configuration/#webhook_config).
"""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = 100
MAX_BYTES = 1 << 20
TIMEOUT_SECONDS = 10.0


def page(alert: Mapping[str, Any]) -> str:
    """An alert as its receiver reads it; a resolved one in a line."""
    labels, notes = alert["labels"], alert["annotations"]
    name = f"{labels['alertname']} ({labels.get('severity', 'none')})"
    if alert["status"] == "resolved":
        subject = "/".join(labels[key] for key in ("namespace", "pod", "budget") if key in labels)
        return f"RESOLVED {name} {subject}".rstrip()
    words = textwrap.fill(
        notes["description"],
        COLUMNS,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"PAGE {name}: {notes['summary']}\n{words}\n  {notes['runbook_url']}\n"


class Receiver(BaseHTTPRequestHandler):
    """Prints what is posted to it."""

    timeout = TIMEOUT_SECONDS

    def do_POST(self) -> None:
        """Take one notification."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BYTES:
            self.send_error(413)
            return
        try:
            alerts = json.loads(self.rfile.read(length))["alerts"]
            text = "\n".join(map(page, alerts))
        except (KeyError, TypeError, ValueError) as error:
            self.send_error(400, explain=f"not a notification of Alertmanager's: {error!r}")
            return
        print(text, flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Say nothing of each request."""


def main(port: int) -> None:
    """Serve on loopback until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with HTTPServer(("127.0.0.1", port), Receiver) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
