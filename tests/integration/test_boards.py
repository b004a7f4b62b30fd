"""Every query of every board, asked of a real Prometheus that holds a day of the played fleet.

The pages are drawn from the answers, for people to look at, and `make pictures` takes pictures of
them: .cache/pictures/*.png. Where GRAFANA_URL is given, like
http://admin:admin@127.0.0.1:3000, the boards are put into that Grafana and the pictures are its
own.
"""

from __future__ import annotations

import base64
import json
import os
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from as_grafana import FILES, View, ask, load, panels
from board_data import day
from drawing.page import WIDTH, chromium, page, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from board_data import Day

Json = dict[str, Any]

BOARDS = {board["uid"]: board for board in map(load, FILES)}

HOURS, SCRAPE_SECONDS = 24.0, 150.0

CHOSEN = {
    "gpucost-workload": {"namespace": "serving", "workload": "chat"},
    "gpucost-node": {"node": "gpu-h100-1"},
}
"""On boards of one thing."""

EMPTY = {
    "gpucost-node: XID errors": "no GPU of the demo fails",
    "gpucost-exporter: Problems to mend": "the demo has none",
    "gpucost-exporter: GPUs without a price, by node": "every GPU of the demo has one",
}
"""The panels without data on a fleet that is well, and why."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with day(tmp_path_factory.mktemp("day"), HOURS, SCRAPE_SECONDS) as it:
        yield it


def view(played: Day, uid: str, **chosen: str) -> View:
    return View(played.start, played.end, {**CHOSEN.get(uid, {}), **chosen}, played.scrape_seconds)


def figure(played: Day, uid: str, title: str, **chosen: str) -> float:
    """The last value of a panel of one figure."""
    board = BOARDS[uid]
    [panel] = [it for it in panels(board) if it["title"] == title]
    [series] = ask(
        played.prometheus, board, panel, panel["targets"][0], view(played, uid, **chosen)
    )
    return series.points[-1][1]


@pytest.mark.parametrize("uid", BOARDS)
def test_every_panel_has_data_but_the_listed_ones(played: Day, uid: str) -> None:
    board = BOARDS[uid]
    silent, spoke = [], []
    for panel in panels(board):
        for target in panel["targets"]:
            answer = ask(played.prometheus, board, panel, target, view(played, uid))
            name = f"{uid}: {panel['title']}"
            if answer:
                spoke.append(name)
                values = [value for it in answer for _, value in it.points]
                assert all(abs(value) < float("inf") for value in values), f"{name}: not a number"
            else:
                silent.append(name)
                # What may be empty says so in its own words.
                assert "noValue" in panel["fieldConfig"]["defaults"], name
    assert {it for it in silent if it not in EMPTY} == set()
    assert not set(spoke) & set(EMPTY), "has data by now: take it out of the list"


@pytest.mark.parametrize("uid", BOARDS)
def test_every_variable_has_values(played: Day, uid: str) -> None:
    known = {"cluster": ".*", "namespace": "serving", "node": "gpu-h100-1"}
    for it in BOARDS[uid]["templating"]["list"]:
        if it["type"] != "query":
            continue
        selector, label = (
            it["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        )
        for name, value in known.items():
            selector = selector.replace(f"${name}", value)
        values = played.prometheus.label_values(selector, label, played.start, played.end)
        assert values, f"{uid}: {it['name']}"


def test_the_month_and_the_time_range_are_what_the_ledgers_say(played: Day) -> None:
    truth = played.billed_usd
    assert figure(played, "gpucost-fleet", "Month to date") == pytest.approx(truth, rel=0.002)
    assert figure(played, "gpucost-team", "Month to date") == pytest.approx(truth, rel=0.002)
    loaded = figure(played, "gpucost-team", "Month to date", basis="gpucost_loaded_cost_usd")
    assert loaded == pytest.approx(truth, rel=0.002)
    states = "Spent in the time range, by state"
    board = BOARDS["gpucost-fleet"]
    [panel] = [it for it in panels(board) if it["title"] == states]
    parts = ask(played.prometheus, board, panel, panel["targets"][0], view(played, "gpucost-fleet"))
    # The first minutes are before the first rate.
    assert sum(it.points[-1][1] for it in parts) == pytest.approx(truth, rel=0.02)


def test_the_hours_add_up_to_the_rate(played: Day) -> None:
    board = BOARDS["gpucost-fleet"]
    [panel] = [it for it in panels(board) if it["title"] == "Cost of each hour"]
    series = ask(played.prometheus, board, panel, panel["targets"][0], view(played, board["uid"]))
    h100 = next(it for it in series if it.labels["node_pool"] == "h100")
    for at, usd in h100.points[2:]:
        assert usd == pytest.approx(55.04, rel=0.01), f"the hour to {at}"


def test_a_factor_multiplies_every_dollar(played: Day) -> None:
    plain = figure(played, "gpucost-fleet", "Spend now, per hour")
    other = figure(played, "gpucost-fleet", "Spend now, per hour", currency_factor="0.9")
    assert other == pytest.approx(0.9 * plain)


WANTED = "GPUCOST_PICTURES" in os.environ
"""With it a browser must be there (`make pictures`); without, pictures are taken if one is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not WANTED:
        return tmp_path_factory.mktemp("pictures")
    chosen = Path(os.environ["GPUCOST_PICTURES"]).absolute()
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


@pytest.mark.skipif("GRAFANA_URL" in os.environ, reason="Grafana's own pictures are taken")
@pytest.mark.parametrize("uid", BOARDS)
def test_a_picture_of_every_board(played: Day, uid: str, folder: Path) -> None:
    html, height = page(played.prometheus, BOARDS[uid], view(played, uid))
    path = folder / f"{uid}.html"
    path.write_text(html, encoding="utf-8")
    assert "NO DATA" not in html
    if not WANTED and chromium() is None:
        return
    picture(path.as_uri(), path.with_suffix(".png"), WIDTH, height)
    drawn = path.with_suffix(".png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert len(drawn) > 30_000, "next to nothing was drawn"


@pytest.mark.skipif("GRAFANA_URL" not in os.environ, reason="no GRAFANA_URL")
@pytest.mark.parametrize("uid", BOARDS)
def test_grafana_takes_every_board(played: Day, uid: str, folder: Path) -> None:
    grafana = Grafana(os.environ["GRAFANA_URL"])
    grafana.put_source(f"http://127.0.0.1:{played.prometheus.port}")
    grafana.call("POST", "/api/dashboards/db", {"dashboard": BOARDS[uid], "overwrite": True})
    taken = grafana.call("GET", f"/api/dashboards/uid/{uid}")["dashboard"]
    assert [it["title"] for it in taken["panels"]] == [it["title"] for it in BOARDS[uid]["panels"]]
    chosen = "".join(f"&var-{name}={value}" for name, value in CHOSEN.get(uid, {}).items())
    bottom = max(it["gridPos"]["y"] + it["gridPos"]["h"] for it in BOARDS[uid]["panels"])
    address = (
        f"{os.environ['GRAFANA_URL']}/d/{uid}?kiosk&var-datasource={Grafana.SOURCE}"
        f"&from={played.start * 1000:.0f}&to={played.end * 1000:.0f}{chosen}"
    )
    picture(address, folder / f"{uid}.grafana.png", WIDTH, bottom * 38 + 120)


class Grafana:
    """One that runs; its address may hold a user and password."""

    SOURCE = "gpucost-test"

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def put_source(self, prometheus: str) -> None:
        """The played day as a data source."""
        source = {
            "uid": self.SOURCE,
            "name": self.SOURCE,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus,
            "jsonData": {"timeInterval": f"{SCRAPE_SECONDS:.0f}s"},
        }
        self.call("DELETE", f"/api/datasources/uid/{self.SOURCE}", allowed=(200, 404))
        self.call("POST", "/api/datasources", source)

    def call(
        self, method: str, path: str, body: Json | None = None, allowed: tuple[int, ...] = (200,)
    ) -> Json:
        connect = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        assert self._url.hostname
        connection = connect(self._url.hostname, self._url.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if self._url.username:
            secret = f"{self._url.username}:{self._url.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(secret).decode()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, self._url.path.rstrip("/") + path, text, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
            assert answer.status in allowed, f"{method} {path}: {answer.status} {said}"
            found: Json = json.loads(said) if said.startswith("{") else {}
            return found
        finally:
            connection.close()
