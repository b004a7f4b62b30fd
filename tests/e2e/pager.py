"""Receives what is posted to a webhook, by pods."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

from cluster.place import NODE_ADDRESS

if TYPE_CHECKING:
    from typing import Self


class Webhook:
    """Keeps every document that was posted to it, in the order in which they came."""

    def __init__(self, address: str = NODE_ADDRESS) -> None:
        self.posted: list[dict[str, Any]] = []
        self._server = HTTPServer((address, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """As pods reach it, or where it was told to listen."""
        return "http://{}:{}/".format(*self._server.server_address)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Say nothing."""

        return Handler


class Pager(Webhook):
    """What a real Alertmanager sends.

    The format is Alertmanager's webhook payload, version 4
    (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config).
    """

    def pages(self, status: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of a status, `firing` or `resolved`, that have these labels."""
        return [
            each
            for notification in list(self.posted)
            for each in notification["alerts"]
            if each["status"] == status and labels.items() <= each["labels"].items()
        ]
