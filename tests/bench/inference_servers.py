"""What asking inference servers costs, one line each: name value unit goal.

    python tests/bench/inference_servers.py [SECONDS]     (how long it is watched; default 90)

Eight vLLM-shaped servers in a process of their own, each with a page of 2,000 lines of which most
are histogram buckets and the counters move, are asked at the default interval of 15 s, while
a cycle takes what they said every 5 s. What is measured is this process: the source and nothing
else.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpucost.config import Requests
from gpucost.model import Endpoint, Pod, Serving
from gpucost.sources.requests import RequestsSource

SERVERS = 8
LINES = 2000
CYCLE_SECONDS = 5.0
WARM_SECONDS = 20.0
LABELS = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
COUNTED = (
    'request_success_total{finished_reason="stop",',
    'request_success_total{finished_reason="length",',
    'request_success_total{finished_reason="abort",',
    'request_success_total{finished_reason="error",',
    "prompt_tokens_total{",
    "prompt_tokens_cached_total{",
    "generation_tokens_total{",
    "iteration_tokens_total_count{",
    "request_prefill_time_seconds_sum{",
    "request_decode_time_seconds_sum{",
    "num_requests_running{",
    "num_requests_waiting{",
)


def page(asked: int) -> bytes:
    """A page of LINES lines on which the work grows with how often it was asked for."""
    counted = [f"vllm:{name}{LABELS}}} {100 * asked + n}" for n, name in enumerate(COUNTED)]
    bounds = itertools.count(1)
    buckets = [
        f'vllm:e2e_request_latency_seconds_bucket{{le="{next(bounds) / 8}",{LABELS}}} {100 * asked}'
        for _ in range(LINES - len(counted))
    ]
    return "\n".join((*buckets, *counted, "")).encode()


class Answer(BaseHTTPRequestHandler):
    """Gives the page."""

    def do_GET(self) -> None:
        """The page, a little further each time."""
        body = page(next(ASKED))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Quiet."""


ASKED = itertools.count(1)


def serve() -> None:
    """The servers: print their ports, and end with the standard input."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Answer) for _ in range(SERVERS)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(*(server.server_port for server in servers), flush=True)
    sys.stdin.read()


def pod(number: int, port: int) -> Pod:
    """A pod that shows its metrics there."""
    return Pod(
        namespace="serving",
        name=f"llm-{number}",
        uid=f"uid-{number}",
        phase="Running",
        workload="llm",
        workload_kind="Deployment",
        team="ml",
        serving=Serving((Endpoint(f"http://127.0.0.1:{port}/metrics"),)),
    )


def main(watch_seconds: float) -> None:
    """Measure and print."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with subprocess.Popen(
        [sys.executable, __file__, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as servers:
        ports = [
            int(port) for port in (servers.stdout.readline() if servers.stdout else "").split()
        ]
        source = RequestsSource(Requests())
        pods = [pod(number, port) for number, port in enumerate(ports)]
        source.follow({(it.namespace, it.name): it for it in pods})
        cycles(source, WARM_SECONDS)
        began, spent = time.monotonic(), time.process_time()
        cycles(source, watch_seconds)
        percent = 100 * (time.process_time() - spent) / (time.monotonic() - began)
        read = source.read()
        source.close()
        if servers.stdin:
            servers.stdin.close()
    answering = 0 if read is None else len(read.pods)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    print(f"servers_answering {answering} servers {SERVERS}")
    print(f"requests_cpu_{SERVERS}_servers_{LINES}_lines {percent:.3g} %_of_a_core <=0.5")
    print(f"requests_memory_{SERVERS}_servers_{LINES}_lines {grown / 1024:.3g} MiB <=4")


def cycles(source: RequestsSource, seconds: float) -> None:
    """What the exporter's cycles do with the source, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        source.read()
        time.sleep(CYCLE_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(float(sys.argv[1]) if sys.argv[1:] else 90.0)
