"""`gpucost report` on a month whose truth is known, held by a real Prometheus."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from drawing.page import chromium, picture
from gpucost.advice.report import questions
from gpucost.advice.report.document import Report
from page_server import Handler, serving
from played_month import CLUSTER, H100, START, WASTE, month, samples
from programs import ROOT
from real_prometheus import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from played_month import Month

Json = dict[str, Any]
JSON = ("--format", "json")
WEEK = ("--from", "2026-02-04")
"""Of the month: what does not need more is quicker so."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    with month(tmp_path_factory.mktemp("month")) as it:
        yield it


def command(played: Month, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "gpucost", "report"),
        *("--prometheus", f"http://127.0.0.1:{played.prometheus.port}"),
        *("--from", "2026-01-12", "--to", "2026-02-11", *words),
    ]


def run(played: Month, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(played, *words), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def report(played: Month) -> Json:
    done = run(played, "--format", "json")
    assert done.returncode == 0, done.stderr
    msgspec.json.decode(done.stdout, type=Report)  # what docs/report.schema.json is made of
    found: Json = json.loads(done.stdout)
    return found


# --- The figures ----------------------------------------------------------------------------------


def test_the_whole_is_what_was_spent(played: Month, report: Json) -> None:
    assert report["total"]["usd"] == pytest.approx(played.usd, rel=0.005)
    assert report["total"]["by_ledger"], "six hours were not scraped: only the ledgers know them"
    assert sum(it["usd"] for it in report["rows"]) == pytest.approx(report["total"]["usd"])
    assert sum(it["usd"] for it in report["states"]) == pytest.approx(report["total"]["usd"])
    assert sum(it["usd"] for it in report["days"]) == pytest.approx(report["total"]["usd"])
    assert report["remarks"] == []


def test_the_states_are_what_was_done(played: Month, report: Json) -> None:
    truth: defaultdict[str, float] = defaultdict(float)
    for (_, _, state), usd in played.by_state.items():
        truth[state] += usd
    found = {it["state"]: it["usd"] for it in report["states"]}
    assert found == pytest.approx(dict(truth), rel=0.01)


def test_every_planted_waste_is_found(played: Month, report: Json) -> None:
    found = {(it["kind"], it["namespace"], it["workload"]): it for it in report["actions"]}
    assert set(found) >= WASTE
    month_usd = 730 / (30 * 24)
    idle = played.by_state["notebooks", "ada", "idle"]
    assert found["free_idle", "notebooks", "ada"]["usd_per_month"] == pytest.approx(
        idle * month_usd, rel=0.01
    )
    closed = played.by_state["web", "office", "idle"]
    office = found["office_hours", "web", "office"]
    assert office["usd_per_month"] == pytest.approx(closed * month_usd, rel=0.02)
    assert "Mon to Fri, 8:00 to 18:00" in office["do"]
    assert "h100-free" in found["drain", "", ""]["do"]
    [waiting] = [it for it in found["drain", "", ""]["instead"] if it["kind"] == "reallocate"]
    assert waiting["title"].endswith("what waits: research/train")
    assert "1 of 1 of research/train (8 gpu; others of theirs run on this model)" in waiting["do"]
    assert "profile `batch`" in found["scale_to_zero", "web", "sometimes"]["do"]
    assert found["terminating", "batch", "stuck"]["ended"]
    assert found["mig", "serving", "small"]["title"].endswith("1g.10gb")


def test_nothing_busy_is_called_idle(report: Json) -> None:
    idle = {"free_idle", "office_hours", "scale_to_zero", "end_when_done", "never_ready"}
    wrong = [
        it["title"]
        for it in report["actions"]
        if it["kind"] in idle and it["workload"] in ("train", "chat", "embed", "small")
    ]
    assert wrong == []


def test_savings_are_no_more_than_spend(report: Json) -> None:
    total = report["total"]
    assert sum(it["usd_per_month"] for it in report["actions"]) == pytest.approx(
        total["savings_usd_per_month"]
    )
    assert total["savings_usd_per_month"] <= total["usd_per_month"]
    assert all(it["usd"] <= total["usd"] for it in report["actions"])
    saved = sum(it["savings_usd_per_month"] for it in report["rows"])
    assert saved == pytest.approx(total["savings_usd_per_month"])


IDLE = ("free_idle", "scale_to_zero", "end_when_done")
BOARD = {"free_idle": IDLE, "failing": ("failing", "never_ready")}
"""What the report makes of what the Fleet board calls so; else they call it alike."""


@pytest.mark.parametrize(
    ("since", "range_", "near"), [("2026-01-12", "30d", 1e-3), ("2026-02-10", "1d", 1e-5)]
)
def test_the_fleet_board_and_the_report_say_the_same(
    played: Month, since: str, range_: str, near: float
) -> None:
    """The board's own query, for the report's moment and range: every row.

    The day is the rates' word in both; the month is scaled to the ledgers by the report alone.
    """
    board = json.loads((ROOT / "dashboards/gpucost-fleet.json").read_text())
    [query] = [it for it in _queries(board) if "gpucost_saving_usd" in it]
    for variable, value in (
        ("$currency_factor", "1"),
        ('"$cluster"', '".*"'),
        ("[1d]", f"[{range_}]"),
    ):
        query = query.replace(variable, value)
    rows = played.prometheus.at(query, played.end + questions.OFFSET_SECONDS)
    assert len(rows) >= 6
    done = run(played, "--from", since, "--min-usd", "0", *JSON)
    offered: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for it in json.loads(done.stdout)["actions"]:
        for way in (it, *it["instead"]):
            place = it["workload"] or it["node_pool"]
            offered[way["kind"], it["namespace"], place].append(way["usd_per_month"])
    for row in rows:
        it = row.labels
        kinds = BOARD.get(it["advice"], (it["advice"],))
        place = it.get("workload") or it["node_pool"]
        said = [usd for kind in kinds for usd in offered[kind, it.get("namespace", ""), place]]
        assert said == [pytest.approx(row.points[0][1], rel=near)], it


def _queries(board: Json) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (it["expr"] for it in panel.get("targets", ()))
        yield from _queries({"panels": panel.get("panels", ())})


def test_a_reader_who_asks_the_evidence_again_gets_the_figure(played: Month, report: Json) -> None:
    for it in report["actions"]:
        assert it["evidence"]
        for query in it["evidence"]:
            answer = played.prometheus.at(query["promql"], played.end)
            assert answer, query["promql"]
    ada = next(it for it in report["actions"] if it["workload"] == "ada")
    [row] = played.prometheus.at(ada["evidence"][0]["promql"], played.end)
    assert row.points[0][1] == pytest.approx(ada["usd"], rel=0.02)


def test_a_cluster_that_is_not_there_is_said_with_the_remedy(played: Month) -> None:
    done = run(played, "--cluster", "elsewhere", *JSON)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no dollars of gpucost in that time" in done.stderr
    assert "--cluster" in done.stderr


@pytest.mark.parametrize("by", ["team", "workload", "model", "node"])
def test_it_is_by_what_was_asked(played: Month, by: str) -> None:
    done = run(played, "--by", by, *WEEK, *JSON)
    found = json.loads(done.stdout)
    rows = {it["name"]: it["usd"] for it in found["rows"]}
    assert sum(rows.values()) == pytest.approx(played.usd * 7 / 30, rel=0.01)
    expected = {"team": "ml", "workload": "research/train", "model": H100, "node": "h100-free"}
    assert rows[expected[by]] > 0


# --- The forms ------------------------------------------------------------------------------------


def test_the_terminal_and_markdown_have_the_same_figures(played: Month, report: Json) -> None:
    total = f"{report['total']['usd']:,.2f}"
    for form in ("terminal", "markdown"):
        done = run(played, "--format", form)
        assert total in done.stdout
        assert "Free notebooks/ada" in done.stdout
        assert "; 1,674" in done.stdout, "of the pods that are gone by the end"
        assert done.stderr == ""


def test_the_csv_has_the_columns_of_focus_and_every_dollar(played: Month, report: Json) -> None:
    rows = list(csv.DictReader(io.StringIO(run(played, "--format", "csv").stdout)))
    usd = sum(float(row["EffectiveCost"]) for row in rows)
    assert usd == pytest.approx(report["total"]["usd"], rel=1e-6)
    for row in rows:
        assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"]
        assert row["BillingCurrency"] == "USD"
        json.loads(row["Tags"])


def test_the_page_needs_nothing_from_outside_and_can_be_looked_at(
    played: Month, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    done = run(played, "--output", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    html = path.read_text()
    for outside in ("http://", "https://", "<script", "<img", "@import", "url("):
        assert outside not in html.replace("url(#hatch)", ""), outside
    if chromium() is None:
        pytest.skip("no browser to look with")
    for width in (1280, 420):
        picture(path.as_uri(), tmp_path / f"{width}.png", width, 2400)
        assert (tmp_path / f"{width}.png").stat().st_size > 50_000


def test_patches_are_manifests_for_a_person(played: Month, tmp_path: Path) -> None:
    run(played, "--patch", str(tmp_path), "--output", str(tmp_path / "report.txt"))
    patches = {path.name: path.read_text() for path in tmp_path.glob("*.yaml")}
    assert patches
    for text in patches.values():
        assert text.startswith("# ")
        assert "nothing was applied" in text
        assert isinstance(yaml.safe_load(text), dict)
    [cron] = [yaml.safe_load(text) for name, text in patches.items() if "office_hours" in name]
    trigger = cron["spec"]["triggers"][0]["metadata"]
    assert (trigger["start"], trigger["end"]) == ("0 8 * * 1,2,3,4,5", "0 18 * * 1,2,3,4,5")
    [free] = [yaml.safe_load(text) for name, text in patches.items() if "reindex" in name]
    assert (free["kind"], free["spec"]) == ("Deployment", {"replicas": 0})


def test_a_webhook_gets_the_message_and_the_document_and_is_never_shown(
    played: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: Handler) -> None:
        handler.send(b"ok", 200 if handler.path == "/secret-path" else 410)

    with serving(answer) as server:
        base = server.url.removesuffix("/metrics")
        monkeypatch.setenv("HOOK", f"{base}/secret-path")
        assert run(played, *WEEK, "--webhook", "HOOK").returncode == 0
        sent = msgspec.json.decode(server.requests[0].body)
        assert "could be saved" in sent["text"]
        assert sent["report"]["total"]["usd"] == pytest.approx(played.usd * 7 / 30, rel=0.01)
        monkeypatch.setenv("HOOK", f"{base}/secret-other")
        done = run(played, *WEEK, "--webhook", "HOOK")
    assert (done.returncode, "HTTP 410" in done.stderr) == (2, True)
    assert "secret" not in done.stdout + done.stderr
    assert run(played, "--webhook", "NOT_SET").returncode == 2


def test_the_exit_status_says_whether_there_is_something_to_do(played: Month) -> None:
    assert run(played, *WEEK, "--exit-code", *JSON).returncode == 1
    assert run(played, *WEEK, "--exit-code", "1000000", *JSON).returncode == 0


def test_an_invoice_is_set_beside_the_ledger_by_type_and_day(played: Month, tmp_path: Path) -> None:
    """The cloud bills p5 at 0.8 of the list, g6 as listed, and a type that no exporter is on."""
    path = tmp_path / "focus.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ChargePeriodStart", "ChargeCategory", "EffectiveCost", "SkuPriceDetails"])
        for day in range(30):
            at = f"2026-{'01' if day < 20 else '02'}-{12 + day if day < 20 else day - 19:02d}"
            for kind, usd in (
                ("p5.48xlarge", 0.8 * 3 * 24 * 55.04),
                ("g6.48xlarge", 24 * 13.352),
                ("p4d.24xlarge", 24 * 32.77),
            ):
                details = json.dumps({"InstanceType": kind})
                writer.writerow([f"{at}T00:00:00Z", "Usage", f"{usd:.6f}", details])
    done = run(played, "--invoice", str(path), "--format", "json")
    found = json.loads(done.stdout)["invoice"]
    types = {it["instance_type"]: it for it in found["types"]}
    assert types["p5.48xlarge"]["factor"] == pytest.approx(0.8, rel=0.01)
    assert "the price is 0.800 of the list's" in types["p5.48xlarge"]["reason"]
    assert types["p4d.24xlarge"]["ledger_usd"] is None
    assert "nodes without the exporter" in types["p4d.24xlarge"]["reason"]
    days = [it for it in found["days"] if it["instance_type"] == "g6.48xlarge"]
    assert len(days) == 30
    assert all(abs(it["factor"] - 1) < 0.01 for it in days), "counters go on while none is scraped"
    assert types["g6.48xlarge"]["reason"] == "they agree"


def test_at_a_terminal_one_line_tells_how_far_it_is_and_goes_at_the_end(played: Month) -> None:
    def told(*words: str) -> str:
        ours, theirs = pty.openpty()
        words = (*WEEK, "--max-samples", "1000", *JSON, *words)
        subprocess.run(
            command(played, *words),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            timeout=300,
            check=True,
        )
        os.close(theirs)
        said = b""
        with suppress(OSError):  # how a terminal ends whose other side is closed
            while piece := os.read(ours, 65536):
                said += piece
        os.close(ours)
        return said.decode()

    lines = told("--by", "node").split("\r\x1b[K")
    parts = {
        what: [line for line in lines if line.startswith(what)]
        for what in ("savings", "dollars", "nodes")
    }
    for what, said in parts.items():
        assert len(said) > 2, what
        assert said[-1] == f"{what}: 100 %"
    assert lines[-1] == "", "nothing of it stays"
    assert told("--quiet") == ""


# --- What is missing ------------------------------------------------------------------------------


def test_without_rules_the_counters_are_asked_and_the_head_says_so(
    played: Month, tmp_path_factory: pytest.TempPathFactory
) -> None:
    series, truth = samples(48)
    with prometheus(tmp_path_factory.mktemp("bare")) as bare:
        bare.write(
            {
                labels: points
                for labels, points in series.items()
                if dict(labels)["__name__"] == "gpucost_workload_cost_usd_total"
            }
        )
        alone = type(played)(bare, START, START + 48 * 3600, sum(truth.values()), truth)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "gpucost", "report", "--format", "json"),
                *("--prometheus", f"http://127.0.0.1:{bare.port}"),
                *("--from", "2026-01-02", "--to", "2026-01-14"),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    found = json.loads(done.stdout)
    assert found["total"]["usd"] == pytest.approx(alone.usd, rel=0.01)
    kinds = {it["kind"] for it in found["remarks"]}
    assert {"no_rules", "missing", "no_pending", "short_history"} <= kinds
    assert found["scope"]["seen_hours"] == 48
    assert any(it["kind"] == "free_idle" for it in found["actions"])


def test_what_the_data_lacks_is_said_in_the_head(played: Month) -> None:
    """History that begins later than was asked for, and a server whose clock is off."""

    def late(handler: Handler) -> None:
        connection = HTTPConnection("127.0.0.1", played.prometheus.port, timeout=60)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", handler.path, handler.body, form)
        body = connection.getresponse().read()
        connection.close()
        handler.send_response_only(HTTPStatus.OK)
        handler.send_header("Date", formatdate(time.time() - 600.0, usegmt=True))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(late) as server:
        done = run(
            played,
            *("--prometheus", server.url.removesuffix("/metrics"), "--format", "json"),
            *("--from", "2026-01-10", "--to", "2026-01-15"),
        )
    found = json.loads(done.stdout)
    remarks = {it["kind"]: it["text"] for it in found["remarks"]}
    assert "begins 2 days after --from" in remarks["short_history"]
    assert "no office hours are looked for" in remarks["less_than_a_week"]
    assert re.search(r"\b60\d s behind", remarks["clock_skew"])
    assert found["total"]["by_ledger"]
    assert found["scope"]["start"] == "2026-01-12T00:00:00Z", "where the history begins"
    assert found["scope"]["seen_hours"] == 72
    assert found["total"]["usd"] == pytest.approx(played.usd / 10, rel=0.05)  # but for `stuck`
    assert found["total"]["usd_per_month"] == pytest.approx(
        found["total"]["usd"] * 730 / 72, rel=1e-6
    )
    assert all(it["kind"] != "office_hours" for it in found["actions"])


@pytest.mark.parametrize("apart", [60, 120])
def test_minutes_after_the_install_there_are_figures(
    tmp_path_factory: pytest.TempPathFactory, apart: int
) -> None:
    """Two GPUs of 3.60 USD for minutes to now, in whatever hours they lie, at any pace of rules."""
    now = time.time() // 60 * 60
    moments = [round((now - n * apart) * 1000) for n in reversed(range(12))]
    hours = 12 * apart / 3600
    who = {"namespace": "web", "workload": "chat", "workload_kind": "Deployment", "team": "web"}
    kind = {"gpu_model": H100, "capacity_type": "on_demand", "node_pool": "h100", "state": "used"}
    rate = {"__name__": "workload:gpucost_cost_usd:rate5m", **who, **kind}
    setting = {"__name__": "gpucost:stale_after_seconds:setting"}
    with prometheus(tmp_path_factory.mktemp("young")) as young:
        young.write(
            {
                tuple(sorted(rate.items())): [(at, 2 * 3.60 / 3600) for at in moments],
                tuple(sorted(setting.items())): [(at, 300.0) for at in moments],
            }
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "gpucost", "report", "--format", "json", "--from", "2h"),
                *("--prometheus", f"http://127.0.0.1:{young.port}"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    found = json.loads(done.stdout)
    assert found["total"]["usd"] == pytest.approx(2 * 3.60 * hours, rel=0.01)
    assert found["scope"]["seen_hours"] == pytest.approx(hours, rel=0.01)
    assert found["total"]["usd_per_month"] == pytest.approx(2 * 3.60 * 730, rel=0.01)
    assert "less_than_a_week" in {it["kind"] for it in found["remarks"]}


def test_the_names_of_the_fleet_are_those_of_one_cluster(report: Json) -> None:
    assert report["scope"]["clusters"] == [CLUSTER]
