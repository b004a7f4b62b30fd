"""`gpucost report`: what was spent and wasted, and what to do about it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.structs import replace

from gpucost.advice import webhook
from gpucost.advice.connection import add_connection, add_span, connect, progress, span_of
from gpucost.advice.promql import quoted
from gpucost.advice.report import focus, html, invoice, market, text
from gpucost.advice.report.choose import actions, choose, spent_by
from gpucost.advice.report.compose import compose
from gpucost.advice.report.observe import observe
from gpucost.advice.write import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.advice.report.document import Report
    from gpucost.advice.report.facts import Facts

FORMATS = ("terminal", "markdown", "html", "json", "csv")
BY = ("namespace", "team", "workload", "model", "node")
_EXIT_SAVINGS = 1


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_connection(parser, required=True)
    add_span(parser, "30d")
    parser.add_argument("--by", choices=BY, default="namespace", help="default %(default)s")
    parser.add_argument("--cluster", default="", help="only this one; else all")
    parser.add_argument(
        "--time-zone",
        type=_zone,
        default="UTC",
        metavar="ZONE",
        help="of days and office hours, like Europe/Berlin (default UTC)",
    )
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="default %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="else standard output; its ending says the format, and %%Y-%%m-%%d in it is the day",
    )
    parser.add_argument(
        "--min-usd",
        type=_usd,
        default=10.0,
        metavar="USD",
        help="a month, from which something is worth doing (default %(default)g)",
    )
    parser.add_argument(
        "--invoice",
        type=Path,
        metavar="FILE",
        help="set a FOCUS or AWS CUR file (CSV, may be gzipped) beside the ledger",
    )
    parser.add_argument(
        "--patch", type=Path, metavar="DIR", help="write manifests of the changes there, to review"
    )
    parser.add_argument(
        "--exit-code",
        type=_usd,
        nargs="?",
        const=0.0,
        metavar="USD",
        help="exit status 1 if more than USD a month (default 0) could be saved",
    )
    parser.add_argument(
        "--webhook",
        type=_webhook,
        metavar="ENV",
        help="post it there too: the environment variable that holds the address",
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    output: Path | None = given.output
    form = _format(given)
    # What cannot work should fail before a month is read.
    billed = None if given.invoice is None else invoice.read(given.invoice)
    facts = _facts(given, by_node=given.by == "node" or billed is not None)
    found = choose(actions(facts), spent_by(facts), facts.months, given.min_usd)
    beside = None if billed is None else invoice.compare(billed, facts, market.gpu_counts())
    report = compose(
        facts, found, by=given.by, now=time.time(), cluster=given.cluster, invoice=beside
    )
    page = RENDERERS[form](report, facts)
    if output is None:
        sys.stdout.write(page)
        sys.stdout.flush()
    else:
        write(Path(time.strftime(str(output))), page)
    if given.patch is not None:
        _write_patches(given.patch, report)
    if given.webhook is not None:
        webhook.post(given.webhook, text.short(report), report)
    over = given.exit_code is not None and report.total.savings_usd_per_month > given.exit_code
    return _EXIT_SAVINGS if over else 0


def _facts(given: argparse.Namespace, *, by_node: bool) -> Facts:
    tell = progress(given)
    prometheus = connect(given)
    try:
        match = f"cluster={quoted(given.cluster)}" if given.cluster else ""
        facts = observe(prometheus, span_of(given), given.time_zone, match, by_node=by_node)
    finally:
        prometheus.close()
        tell("")
    return replace(facts, hardware=market.hardware(), offers=market.offers(facts.nodes))


def _terminal(report: Report, _: Facts) -> str:
    return text.terminal(report, shutil.get_terminal_size((100, 24)).columns)


def _json(report: Report, _: Facts) -> str:
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


RENDERERS: dict[str, Callable[[Report, Facts], str]] = {
    "terminal": _terminal,
    "markdown": lambda report, _: text.markdown(report),
    "html": lambda report, _: html.page(report),
    "json": _json,
    "csv": lambda report, facts: focus.rows(facts, report.generated_at),
}
_ENDINGS = {".md": "markdown", ".html": "html", ".json": "json", ".csv": "csv", ".txt": "terminal"}


def _format(given: argparse.Namespace) -> str:
    chosen: str = given.format
    if given.output is None or chosen != "terminal":
        return chosen
    return _ENDINGS.get(given.output.suffix, chosen)


def _write_patches(folder: Path, report: Report) -> None:
    for it in report.actions:
        if it.patch:
            name = "-".join(filter(None, (f"{it.rank:03d}", it.kind, it.namespace, it.workload)))
            safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
            head = f"# {it.title}\n# {it.why}\n# Saves about {it.usd_per_month:.2f} USD a month."
            lines = f"{head}\n# Confidence {it.confidence}, risk {it.risk}: {it.risk_words}\n"
            write(folder / f"{safe}.yaml", f"{lines}# Review it: nothing was applied.\n{it.patch}")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"`{name}` is no time zone") from error


def _usd(words: str) -> float:
    try:
        usd = float(words)
    except ValueError:
        usd = -1.0
    if not 0 <= usd <= 1e12:  # noqa: PLR2004 - more than there is
        raise argparse.ArgumentTypeError("must be 0 or more, in USD a month")
    return usd


def _webhook(name: str) -> str:
    if not os.environ.get(name, "").startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"the environment variable {name} holds no address")
    return name
