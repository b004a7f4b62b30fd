"""An inference server of the simulated node: a real one over HTTP, with vLLM's names.

Everything that it counts is invented, and follows the demand that the play asks of its GPU.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MODEL = "meta-llama/Llama-3.1-70B-Instruct"

_REQUESTS_AT_FULL_LOAD = 6.0
"""A second."""
_PROMPT, _CACHED, _OUTPUT = 900.0, 350.0, 240.0
"""Tokens of one request."""
_PREFILL_SECONDS, _DECODE_SECONDS = 0.09, 4.8
_STEPS_PER_SECOND = 40.0
_FAILING, _ABORTED = 0.002, 0.01
"""Of all requests."""


class ChatServer:
    """Serves /metrics on loopback while it is entered. `busy` is the load at so many seconds."""

    def __init__(self, busy: Callable[[float], float]) -> None:
        self._busy = busy
        self._began = self._at = time.monotonic()
        self._requests = self._steps = 0.0
        self._lock = threading.Lock()
        self._server = _Http(self.page)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="demo-server", daemon=True
        )

    @property
    def url(self) -> str:
        """Its page."""
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and wait for it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def page(self) -> bytes:
        """What it has done until now."""
        with self._lock:
            now = time.monotonic()
            rate = _REQUESTS_AT_FULL_LOAD * self._busy(now - self._began)
            self._requests += rate * (now - self._at)
            self._steps += _STEPS_PER_SECOND * (now - self._at)
            self._at = now
            done = int(self._requests)
            running = rate * (_PREFILL_SECONDS + _DECODE_SECONDS)
        aborted, failed = int(done * _ABORTED), int(done * _FAILING)
        counts = {
            'request_success_total{finished_reason="stop"': done - aborted - failed,
            'request_success_total{finished_reason="abort"': aborted,
            'request_success_total{finished_reason="error"': failed,
            "prompt_tokens_total{": done * _PROMPT,
            "prompt_tokens_cached_total{": done * _CACHED,
            "generation_tokens_total{": done * _OUTPUT,
            "iteration_tokens_total_count{": int(self._steps),
            "request_prefill_time_seconds_sum{": done * _PREFILL_SECONDS,
            "request_decode_time_seconds_sum{": done * _DECODE_SECONDS,
            "num_requests_running{": round(running),
            "num_requests_waiting{": max(0, round(running) - 16),
        }
        lines = (
            f'vllm:{name}{"" if name.endswith("{") else ","}model_name="{MODEL}"}} {value:.17g}\n'
            for name, value in counts.items()
        )
        return "".join(lines).encode()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page: Callable[[], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.page = page


class _Page(BaseHTTPRequestHandler):
    server: _Http

    def do_GET(self) -> None:
        """Answer any path with the page."""
        body = self.server.page()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Quiet."""
