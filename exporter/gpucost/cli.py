"""The command line: `gpucost serve | demo | once | record | check | prices | report | recommend`.

Settings live in one YAML file; flags, and the environment variables beside them, are only for
what differs from pod to pod.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace
from prometheus_client import PLATFORM_COLLECTOR, PROCESS_COLLECTOR

from gpucost import __version__, check
from gpucost.config import ConfigError
from gpucost.config_file import ConfigFile
from gpucost.cycle import Terms, advance
from gpucost.demo import SimulatedNode, chat_load
from gpucost.keeper import Keeper
from gpucost.live import LiveNode, boot_id
from gpucost.loop import Loop
from gpucost.model import Problem
from gpucost.pages import Pages, encode
from gpucost.prices import asked_of, load_catalogue
from gpucost.record import record
from gpucost.replay import MAX_SECONDS, RecordingError, replay
from gpucost.restart import Moment
from gpucost.server import Server
from gpucost.sources.base import SourceError
from gpucost.sources.recorded import CONFIG
from gpucost.state_folder import StateFolder
from gpucost.web_config import WebConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpucost.config import Config, Prices
    from gpucost.loop import Gathers
    from gpucost.model import GpuReading, Node, Report, Snapshot

log = logging.getLogger("gpucost")

DEFAULT_LISTEN = ":10190"
ADVICE: dict[str, tuple[str, str]] = {
    "report": (
        "what was spent and wasted, and what to do about it",
        "gpucost.advice.report_command",
    ),
    "recommend": (
        "the GPUs that a model needs, by what they cost",
        "gpucost.advice.recommend_command",
    ),
    "breakeven": (
        "dedicated GPUs, scaled to zero, serverless or an API, by what they cost",
        "gpucost.advice.breakeven_command",
    ),
}
"""Commands that ask a Prometheus: what each is for, and the module whose `add_to(parser)` adds its
flags and sets `run`. Imported when called for: what serves has no use for them."""

_EXIT_NO_DOLLARS = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_LOG_LEVELS = ("debug", "info", "warning", "error")
_YEARS = (1971, 9000)
"""What months and time zones can be reckoned with."""
_FIRST_ANSWER_SECONDS = 3.0
"""How long the first cycle waits for the API server, before it goes on without."""
_LISTING_SECONDS = 10.0
"""How long a command that reads only once waits for the API server's first answer."""


IN_MEMORY_ONLY = Problem(
    "state",
    "in_memory_only",
    "The ledger is kept in memory: a restart begins at 0, and the time until it is not charged.",
    "Give --state-directory (env GPUCOST_STATE_DIRECTORY) a folder on the node's disk.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    The exit status is 0, 1 (no dollars, no readings, a difference that was asked for) or 2 (wrong
    settings, or nobody answers).
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser(words).parse_args(words)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Ours only: what libraries log of themselves holds addresses with their passwords.
    log.setLevel(given.log_level)
    try:
        status: int = given.run(given)
    except (ConfigError, RecordingError) as error:
        print(f"gpucost: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except SourceError as error:
        print(f"gpucost: {error} {error.remedy}".rstrip(), file=sys.stderr)
        return _EXIT_USAGE
    except BrokenPipeError:
        # The reader of a pipe has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return status


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpucost", description="The GPU cost ledger for Kubernetes."
    )
    parser.add_argument("--version", action="version", version=f"gpucost {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        help="the YAML file with all settings (env GPUCOST_CONFIG); defaults without",
    )
    common.add_argument(
        "--node-name",
        default="",
        help="this node's name in Kubernetes (env NODE_NAME); elsewhere the host's name",
    )
    common.add_argument(
        "--log-level",
        type=_log_level,
        default=os.environ.get("GPUCOST_LOG_LEVEL") or "info",
        metavar="LEVEL",
        help=f"{', '.join(_LOG_LEVELS)} (env GPUCOST_LOG_LEVEL)",
    )
    listens = argparse.ArgumentParser(add_help=False)
    listens.add_argument(
        "--listen",
        default=os.environ.get("GPUCOST_LISTEN") or DEFAULT_LISTEN,
        metavar="[ADDRESS]:PORT",
        help=f"where to serve (env GPUCOST_LISTEN; default {DEFAULT_LISTEN})",
    )
    listens.add_argument(
        "--web-config",
        type=Path,
        default=os.environ.get("GPUCOST_WEB_CONFIG") or None,
        help="TLS and basic auth, in the exporter-toolkit's format (env GPUCOST_WEB_CONFIG)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: object, text: str, *, serves: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, parents=[common, listens] if serves else [common]
        )
        added.set_defaults(run=run)
        return added

    serve = command("serve", _serve, "keep the ledger and serve it", serves=True)
    serve.add_argument(
        "--state-directory",
        type=Path,
        default=os.environ.get("GPUCOST_STATE_DIRECTORY") or None,
        metavar="DIR",
        help="where the ledger survives restarts, on this node and for it alone"
        " (env GPUCOST_STATE_DIRECTORY); unset: in memory only",
    )
    command("demo", _demo, "serve a simulated 8-GPU node: every figure is invented", serves=True)
    once = command("once", _once, "run one cycle and print what /metrics would show")
    once.add_argument("--replay", type=Path, metavar="DIR", help="on a recording, not on this node")
    once.add_argument(
        "--advance", type=_seconds, default=0.0, metavar="SECONDS", help="go on for so long"
    )
    once.add_argument(
        "--at", type=_moment, metavar="TIME", help="when the recording starts (RFC 3339)"
    )
    once.add_argument("--openmetrics", action="store_true", help="in OpenMetrics format")
    record_to = command("record", _record, "record this node's readings, for a bug report")
    record_to.add_argument("directory", type=Path, metavar="DIR")
    command("check", _check, "preflight: will dollars flow, and if not, what to do")
    text = "the price list: list, show, refresh, diff, check"
    prices = commands.add_parser("prices", help=text, description=text)
    if words[:1] == ["prices"]:
        # Reads the clouds' price APIs: what serves has no use for it, and pays for imports.
        from gpucost import prices_commands  # noqa: PLC0415

        prices_commands.add_to(
            prices, common, _look, lambda given: _config_file(given).config.prices
        )
    for name, (text, module) in ADVICE.items():
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        if words[:1] == [name]:
            import_module(module).add_to(added)
    return parser


def _log_level(text: str) -> str:
    if text.lower() not in _LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_LOG_LEVELS)}")
    return text.upper()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError("must be from 0 to a year, in seconds")
    return seconds


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be a time like 2026-11-22T19:30:00Z") from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("must name its time zone: end it with Z for UTC")
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise argparse.ArgumentTypeError(f"must be in the years {_YEARS[0]} to {_YEARS[1]}")
    return moment.timestamp()


def _listen(text: str) -> tuple[str, int]:
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65_535:  # noqa: PLR2004 - ports
        raise ConfigError(
            f"--listen: `{text}` is not an address and a port. Write :10190, 127.0.0.1:10190 or"
            " [::1]:10190."
        )
    return address.removeprefix("[").removesuffix("]"), int(port)


def _live(given: argparse.Namespace) -> LiveNode:
    return LiveNode(_config_file(given), _node_name(given))


def _config_file(given: argparse.Namespace) -> ConfigFile:
    path: Path | None = given.config
    if path is None and (named := os.environ.get("GPUCOST_CONFIG")):
        path = Path(named)
    return ConfigFile(path)


def _node_name(given: argparse.Namespace) -> str:
    name: str = given.node_name
    return name or os.environ.get("NODE_NAME") or socket.gethostname()


def _serve(given: argparse.Namespace) -> int:
    node = _live(given)
    try:
        return _run(given, node, node.terms, lambda: node.config, live=node)
    finally:
        node.close()


def _demo(given: argparse.Namespace) -> int:
    log.warning("This is a SIMULATED node: every figure is invented.")
    config = _config_file(given).config
    shown = SimulatedNode().gather(0.0, 0.0).node
    terms = Terms(
        config=config,
        catalogue=load_catalogue(asked_of(shown)),
        config_read_at=time.time(),
        simulated=True,
    )
    # Imported late: what serves a real node has no use for it.
    from gpucost.demo_server import ChatServer  # noqa: PLC0415

    node = SimulatedNode(requests=config.requests)
    try:
        with ChatServer(chat_load) as server:
            node.serve_chat(server.url)
            return _run(given, node, lambda _: (terms, ()), lambda: config)
    finally:
        node.close()


def _run(
    given: argparse.Namespace,
    gatherer: Gathers,
    terms: Callable[[Snapshot], tuple[Terms, tuple[Problem, ...]]],
    config: Callable[[], Config],
    live: LiveNode | None = None,
) -> int:
    """Serve and cycle until SIGTERM or Ctrl-C; leave cleanly.

    A `live` node's ledger is kept in its state directory.
    A driver can freeze under a client that is killed (NVIDIA/dcgm-exporter issue 84).
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    address, port = _listen(given.listen)
    web = None if given.web_config is None else WebConfig(given.web_config)

    def all_terms(snapshot: Snapshot) -> tuple[Terms, tuple[Problem, ...]]:
        found, problems = terms(snapshot)
        if live is not None and keeper is None:
            problems = (*problems, IN_MEMORY_ONLY)
        if web is None or web.problem is None:
            return found, problems
        remedy = "The web configuration before it stays in force until the file is mended."
        return found, (*problems, Problem("web_config", "invalid", web.problem, remedy))

    pages = Pages(beside=(PROCESS_COLLECTOR, PLATFORM_COLLECTOR))
    keeper = None if live is None else _keeper(given, pages.publish)
    if keeper is None or live is None:
        loop = Loop(gatherer, all_terms, lambda report, _: pages.publish(report))
    else:
        loop = Loop(gatherer, all_terms, keeper.offer, keeper.resume)
    pages.alive = loop.alive
    server = Server(address, port, pages=pages, settings=config().http, web=web)
    server.start()
    log.info("gpucost %s listens on %s, port %d", __version__, server.address, server.port)
    try:
        if keeper is not None and live is not None:
            now = Moment(time.time(), time.monotonic(), _node_name(given), boot_id())
            live.gatherer.remember(keeper.open(now))
        if live is not None:
            _await_cluster(live, _FIRST_ANSWER_SECONDS)
        loop.run(stop, lambda: config().cycle_seconds)
    finally:
        server.close()
        if keeper is not None:
            keeper.close()
    log.info("stopped")
    return 0


def _keeper(given: argparse.Namespace, publish: Callable[[Report], None]) -> Keeper | None:
    """The keeper of this node's ledger; None where it is kept in memory only."""
    folder: Path | None = given.state_directory
    if folder is None:
        return None
    return Keeper(StateFolder(folder), publish, node=_node_name(given), boot_id=boot_id())


def _once(given: argparse.Namespace) -> int:
    if given.replay is not None:
        if given.config is not None:
            raise ConfigError(
                "--config: a recording is replayed under its own settings. Put the file into the"
                " folder as config.yaml."
            )
        report = replay(given.replay, given.advance, given.node_name, given.at)
    elif given.advance or given.at is not None:
        raise ConfigError("--advance and --at: only a recording can be advanced; give --replay.")
    else:
        node = _live(given)
        try:
            report = _cycle(node, reads=1)
        finally:
            node.close()
    page = encode(report, openmetrics=given.openmetrics, reveal=given.replay is not None)
    sys.stdout.buffer.write(page)
    sys.stdout.flush()
    for it in report.problems:  # the page only counts them
        print(f"gpucost: {it.source}: {it.kind}: {it.message}", file=sys.stderr)
        if it.remedy:
            print(f"  -> {it.remedy}", file=sys.stderr)
    return 0


def _record(given: argparse.Namespace) -> int:
    node = _live(given)
    folder: Path = given.directory
    readings = 0
    try:
        _await_cluster(node)
        for written in record(node, _node_name(given), folder):
            print(written.message)
            readings += written.bytes is not None and written.name != CONFIG
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        node.close()
    if not readings:
        print("Nothing here could be read; `gpucost check` says what is missing.")
        return _EXIT_NO_DOLLARS
    print(f"Read {folder} before you publish it: it names this node, its pods and your prices.")
    return 0


def _check(given: argparse.Namespace) -> int:
    node = _live(given)
    try:
        report = _cycle(node, reads=2)
        signals = () if node.sources.nvml is None else node.sources.nvml.signals()
    finally:
        node.close()
    found = check.findings(report, {(it.unit, it.signal): it.detail for it in signals})
    print(check.render(found), end="")
    return 0 if check.dollars_flow(found) else _EXIT_NO_DOLLARS


def _look(given: argparse.Namespace) -> tuple[Sequence[GpuReading], Node, Prices]:
    """This node's GPUs, the node, and the user's prices."""
    node = _live(given)
    try:
        _await_cluster(node)
        snapshot = node.gather(time.time(), time.monotonic())
        return snapshot.gpus, snapshot.node, node.config.prices
    finally:
        node.close()


def _await_cluster(node: LiveNode, seconds: float = _LISTING_SECONDS) -> None:
    """Give the API server time to say what this node is: without that it may have no price."""
    if node.sources.kubernetes is not None:
        node.sources.kubernetes.wait(seconds)


def _cycle(node: LiveNode, reads: int) -> Report:
    """The Report of `reads` cycles a second apart: some signals need two looks."""
    _await_cluster(node)
    report: Report | None = None
    for turn in range(reads):
        if turn:
            time.sleep(1.0)
        snapshot = node.gather(time.time(), time.monotonic())
        terms, problems = node.terms(snapshot)
        report = advance(report, snapshot, float(turn), terms)
        report = replace(report, problems=(*report.problems, *problems))
    if report is None:
        raise ValueError("reads must be at least 1")
    return report
