"""The rules under vmalert as people run it: live, beside a VictoriaMetrics and an Alertmanager.

A simulated node is scraped every few seconds, vmalert evaluates what is rendered for the demo (its
windows are short) and writes what it records, and Alertmanager hands its pages to a webhook. `make
rulers` brings the programs.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import render_rules
from e2e.pager import Pager
from programs import ROOT, program
from real_prometheus import Prometheus, free_port, running, victoria_metrics
from recorded_rules import rules_of
from victoria import AGES, victoria

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from real_prometheus import Series

pytestmark = pytest.mark.slow

WAIT_SECONDS = 480.0
"""An idle minute, a few evaluations, and as much again for a slow machine."""

PACK = render_rules.rendered(
    render_rules.read_settings(ROOT / "rules/settings/demo.yaml"),
    sorted((ROOT / "rules").glob("*.yaml")),
)

SCRAPE = """\
scrape_configs:
  - job_name: gpucost
    honor_labels: true
    scrape_interval: 5s
    static_configs:
      - {{targets: ["127.0.0.1:{port}"], labels: {{instance: demo-node}}}}
"""

ROUTES = (ROOT / "examples/alertmanager/alertmanager.yaml").read_text()


class Watch(NamedTuple):
    """What runs: the database, what its vmalert is started with, and who is paged."""

    store: Prometheus
    vmalert: Sequence[str]
    pager: Pager
    folder: Path

    @contextmanager
    def ruler(self, log: str) -> Iterator[Prometheus]:
        """A vmalert, which tells of its rules as Prometheus does."""
        port = free_port()
        it = Prometheus(port)
        with running(
            [*self.vmalert, f"-httpListenAddr=127.0.0.1:{port}"], self.folder / log, it.ready
        ):
            yield it

    def now(self, query: str) -> list[Series]:
        return self.store.at(query, time.time())


@pytest.fixture(scope="module", params=AGES)
def watch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watch]:
    executable = victoria(request.param)
    folder = tmp_path_factory.mktemp("watch")
    page, alerts = free_port(), free_port()
    gpucost = str(Path(sys.executable).with_name("gpucost"))
    for name, text in PACK.items():
        (folder / name).write_text(text)
    (folder / "scrape.yml").write_text(SCRAPE.format(port=page))
    with ExitStack() as stack:
        pager = stack.enter_context(Pager("127.0.0.1"))
        (folder / "alertmanager.yml").write_text(re.sub(r"https://[^\"]*", pager.url, ROUTES))
        for port, log, command in (
            (page, "exporter.log", [gpucost, "demo", f"--listen=127.0.0.1:{page}"]),
            (
                alerts,
                "alertmanager.log",
                [
                    program("alertmanager"),
                    f"--config.file={folder}/alertmanager.yml",
                    f"--storage.path={folder}/alertmanager",
                    f"--web.listen-address=127.0.0.1:{alerts}",
                    "--cluster.listen-address=",
                ],
            ),
        ):
            stack.enter_context(running(command, folder / log, Prometheus(port).ready))
        # As it is by default: an answer of now is of half a minute ago.
        options = [f"-promscrape.config={folder}/scrape.yml", "-search.latencyOffset=30s"]
        store = stack.enter_context(
            victoria_metrics(folder, executable("victoria-metrics"), options)
        )
        url = f"http://127.0.0.1:{store.port}"
        vmalert = [
            executable("vmalert"),
            *(f"-rule={folder}/{name}" for name in PACK),
            *(f"-{what}.url={url}" for what in ("datasource", "remoteRead", "remoteWrite")),
            f"-notifier.url=http://127.0.0.1:{alerts}",
        ]
        yield Watch(store, vmalert, pager, folder)


def until(what: Callable[[], object], said: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, said()
        time.sleep(1)


def test_vmalert_records_every_series_and_pages_for_an_idle_gpu(watch: Watch) -> None:
    with watch.ruler("vmalert.log") as ruler:
        until(lambda: watch.pager.pages("firing", alertname="GPUIdle"), ruler.rules)
        assert [
            rule for rule in ruler.rules() if rule["health"] == "err" or rule["lastError"]
        ] == []
        [page] = watch.pager.pages("firing", alertname="GPUIdle")[:1]
        [cost] = watch.now("730 * gpucost_pod_cost_usd_per_hour{pod='ada-0'}")
        words = page["annotations"]["description"]
        assert re.match(
            r"Pod notebooks/ada-0 \(Notebook ada, team research\) has left its .* idle for \d+m",
            words,
        )
        assert f"That wastes ${cost.points[0][1]:.2f} a month." in words
        until(lambda: not unrecorded(watch), lambda: unrecorded(watch))


def unrecorded(watch: Watch) -> list[str]:
    """Names that no series has yet, though the rule's expression answers.

    What is kept every ten minutes is not waited for.
    """
    return [
        rule["record"]
        for rule in rules_of(PACK.values())
        if "record" in rule
        and not rule["record"].endswith(":kept")
        and watch.now(rule["expr"])
        and not watch.now(rule["record"])
    ]
