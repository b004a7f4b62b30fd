"""How long the boards take to open for a large fleet: what a real Prometheus needs to answer them.

The series that the boards ask for are those of a day of the played fleet (tests/board_data.py, 20
GPUs), recorded by the rules of rules/, copied under other names until they are those of so many
GPUs: nodes, pods and workloads are each copy's own, namespaces, teams and node pools are shared by
some. Series of one device or pod, of which the boards ask only those of a node or a workload that
was chosen, are there for some copies only. A board's queries are asked one after the other over
its default time range of a day, as Grafana would ask them, and each with a budget of samples that
Prometheus has by default.

Printed as tests/bench/run.py prints: name value unit goal.

    python tests/bench/boards.py [GPUS]     (default 20000, which takes 6 GiB and ten minutes)
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "exporter"), str(ROOT / "tests"), str(ROOT / "scripts"), str(ROOT)]

from as_grafana import FILES, View, ask, expression, load, panels  # noqa: E402 - after the path
from board_data import day  # noqa: E402
from promql_names import metrics_of  # noqa: E402
from real_prometheus import prometheus  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from real_prometheus import Labels, Samples

PLAYED_GPUS = 20
HOURS, SCRAPE_SECONDS = 24.0, 240.0
DETAILED_COPIES = 20
"""Of which every device and pod is there."""

OWN = ("node", "instance", "pod", "workload", "uuid", "mig_uuid")
SHARED = {"namespace": 30, "team": 8, "node_pool": 6}
"""By how many names the copies of one are told apart: some 200 namespaces, 40 teams, 20 pools."""

CHOSEN = {
    "gpucost-workload": {"namespace": "serving_1", "workload": "chat_1"},
    "gpucost-node": {"node": "gpu-h100-1_1"},
}
OPENS_IN_SECONDS = 10
"""The goal of a board, all its queries one after the other; Grafana asks several at once."""


def copied(labels: Mapping[str, str], copy: int) -> Labels:
    """The labels of a series' copy."""
    names = dict.fromkeys(OWN, copy) | {name: copy % many for name, many in SHARED.items()}
    return tuple(
        sorted(
            (name, f"{value}_{names[name]}" if value and name in names else value)
            for name, value in labels.items()
        )
    )


def asked_names() -> set[str]:
    """The metrics that the boards ask for."""
    view = View(0.0, HOURS * 3600, scrape_seconds=SCRAPE_SECONDS)
    return {
        name
        for board in map(load, FILES)
        for panel in panels(board)
        for target in panel["targets"]
        for name in metrics_of(expression(board, panel, target, seen(board["uid"], view)))
    }


def seen(uid: str, view: View) -> View:
    """The view of a board of one thing, with that thing chosen."""
    return View(view.start, view.end, CHOSEN.get(uid, {}), view.scrape_seconds)


def fleet(small: Mapping[Labels, Samples], copies: int) -> Iterator[tuple[Labels, Samples]]:
    """Each series of the large fleet once."""
    for labels, samples in small.items():
        named = dict(labels)
        recorded = ":" in named["__name__"] or named["__name__"] == "ALERTS"
        detailed = not recorded and not {"gpu", "pod", "uuid"}.isdisjoint(named)
        many = 1 if "budget" in named else DETAILED_COPIES if detailed else copies
        for its in {copied(named, copy): None for copy in range(many)}:
            yield its, samples


def main(gpus: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "small").mkdir()
        (Path(name) / "large").mkdir()
        wanted = "|".join(re.escape(it) for it in sorted(asked_names()))
        with day(Path(name) / "small", HOURS, SCRAPE_SECONDS) as it:
            found = it.prometheus.over(
                f'{{__name__=~"{wanted}"}}', it.start, it.end, SCRAPE_SECONDS
            )
            view = View(it.start, it.end, scrape_seconds=SCRAPE_SECONDS)
        small = {
            tuple(sorted(series.labels.items())): [(round(at * 1000), v) for at, v in series.points]
            for series in found
        }
        with prometheus(Path(name) / "large") as large:
            large.write_each(fleet(small, gpus // PLAYED_GPUS))
            [series] = large.at('count({__name__!=""})', view.end)
            print(f"boards_gpus {gpus} gpus -")
            print(f"boards_series {series.points[-1][1]:.0f} series -", flush=True)
            for board in map(load, FILES):
                took = {}
                for panel in panels(board):
                    begun = time.perf_counter()
                    for target in panel["targets"]:
                        ask(large, board, panel, target, seen(board["uid"], view))
                    took[panel["title"]] = time.perf_counter() - begun
                uid = board["uid"].removeprefix("gpucost-")
                print(f"boards_{uid} {sum(took.values()):.2f} s <={OPENS_IN_SECONDS}")
                slowest = max(took, key=lambda title: took[title])
                print(f"boards_{uid}_slowest {took[slowest]:.2f} s - {slowest}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
