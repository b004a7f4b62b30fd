"""What break-even and recommend make of a week on a real Prometheus, whose truth is known."""

from __future__ import annotations

import json
from math import pi, sin
from typing import TYPE_CHECKING, Any

import pytest

from gpucost.cli import main
from real_prometheus import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_prometheus import Labels, Prometheus

START = 1_763_856_000  # a Sunday at midnight
DAYS = 7
STEP = 300
REPLICAS, GPUS = 2, 2
USD_PER_GPU_HOUR = 1.2
SECONDS = 3.0
TOKENS = {"input": 600.0, "cached_input": 200.0, "output": 150.0}


def rate(at: float) -> float:
    """Requests a second: a day's wave."""
    return 2.0 + 1.5 * sin(2 * pi * (at - START) / 86_400)


def labels(name: str, **more: str) -> Labels:
    told = {"__name__": name, "cluster": "demo", "namespace": "serving", "workload": "chat", **more}
    return tuple(sorted(told.items()))


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    times = range(START, START + DAYS * 86_400 + STEP, STEP)
    served = {"engine": "vllm", "served_model": "meta-llama/Llama-3.1-8B-Instruct"}
    series = {
        labels("workload:gpucost_requests:rate5m", outcome="success", **served): [
            (at * 1000, rate(at)) for at in times
        ],
        labels("workload:gpucost_requests:rate5m", outcome="error", **served): [
            (at * 1000, 0.01) for at in times
        ],
        labels("workload:gpucost_serving_cost_usd:rate5m"): [
            (at * 1000, GPUS * USD_PER_GPU_HOUR / 3600) for at in times
        ],
        labels("workload:gpucost_gpu_seconds:rate5m", gpu_model="NVIDIA L4"): [
            (at * 1000, float(GPUS)) for at in times
        ],
    }
    for direction, tokens in TOKENS.items():
        series[labels("workload:gpucost_tokens:rate5m", direction=direction, **served)] = [
            (at * 1000, tokens * rate(at)) for at in times
        ]
    for number in range(REPLICAS):
        for instance in ("once", "twice"):  # a target that is scraped twice counts once
            series[
                labels(
                    "gpucost_pod_requests_running", pod=f"chat-{number}", node="n",
                    instance=instance, **served,
                )
            ] = [(at * 1000, rate(at) * SECONDS / REPLICAS) for at in times]  # fmt: skip
    for cluster in ("east", "west"):
        name = "workload:gpucost_requests:rate5m"
        series[labels(name, outcome="success", cluster=cluster, workload="twin")] = [
            (at * 1000, 1.0) for at in times
        ]
    with prometheus(tmp_path_factory.mktemp("week")) as it:
        it.write(series)
        yield it


def flags(week: Prometheus) -> tuple[str, ...]:
    return (
        "--prometheus", f"http://127.0.0.1:{week.port}", "--quiet", "--from",
        "2025-11-23T00:00:00Z", "--to", "2025-11-30T00:00:00Z",
    )  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # noqa: ANN401 - JSON
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_week_is_read_as_it_was(week: Prometheus, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "breakeven", "--workload", "serving/chat", *flags(week))
    asked, replica = found["demand"], found["replica"]
    assert asked["hours"] == pytest.approx(DAYS * 24, abs=1)
    assert asked["requests_per_second"] == pytest.approx(2.0, rel=0.01)
    assert asked["peak_requests_per_second"] == pytest.approx(3.5, rel=0.02)
    assert asked["input_tokens"] == pytest.approx(800, rel=0.01)
    assert asked["cached_tokens"] == pytest.approx(200, rel=0.01)
    assert asked["output_tokens"] == pytest.approx(150, rel=0.01)
    assert replica["gpu_model"] == "L4"
    assert replica["gpus"] == pytest.approx(GPUS / REPLICAS)
    assert replica["seconds"] == pytest.approx(SECONDS, rel=0.02)
    assert replica["requests_per_second_at_full_load"] == pytest.approx(3.5 / 2, rel=0.02)


def test_its_own_price_and_its_models_apis_are_compared(
    week: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "breakeven", "--workload", "serving/chat", *flags(week))
    ways = {it["name"]: it for it in found["ways"]}
    # Three replicas for the busiest hour, at a fifth left free.
    assert ways["dedicated"]["usd_per_month"] == pytest.approx(3 * USD_PER_GPU_HOUR * 730, rel=0.01)
    assert "API fireworks_ai llama-v3p1-8b-instruct" in ways
    month = GPUS * USD_PER_GPU_HOUR * 730
    assert found["remarks"][0].startswith(
        f"serving/chat (meta-llama/Llama-3.1-8B-Instruct, vllm) as it ran: {month:,.2f} USD a month"
    )


def test_a_workload_that_is_not_there_is_named(
    week: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["breakeven", "--workload", "serving/nobody", *flags(week)]) == 2
    assert "serving/nobody has no series there" in capsys.readouterr().err


def test_nobody_answers_is_said_with_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = ("--prometheus", "http://127.0.0.1:9", "--quiet")
    assert main(["breakeven", "--workload", "a/b", *nobody]) == 2
    assert "--prometheus http://127.0.0.1:9: cannot be reached" in capsys.readouterr().err


def test_estimates_are_corrected_by_what_was_measured(
    week: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        "recommend", "inference", "--model", "Qwen3-8B", "--price", "L4=0.7", "--price",
        "A100-80GB=2", "--batch", "4",
    )  # fmt: skip
    plain = run(capsys, *asked)
    own = run(capsys, *asked, *flags(week))
    (measured,) = own["measured"]["measured"]
    assert (measured["workload"], measured["gpu_model"]) == ("demo/serving/chat", "L4")
    assert measured["hours"] > 150
    factor = measured["factor"]
    # 3 s for 150 tokens of an 8B model, with three in flight: an L4 takes 9 to read its weights.
    assert 2.5 < factor < 5
    for before, after in zip(plain["fits"], own["fits"], strict=True):
        faster = before["between_tokens_seconds"] / after["between_tokens_seconds"]
        assert faster == pytest.approx(factor, rel=0.01)


def test_a_range_without_a_full_hour_is_refused(
    week: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    span = ("--from", "2025-11-23T10:10:00Z", "--to", "2025-11-23T10:50:00Z")
    asked = ("breakeven", "--workload", "serving/chat", *flags(week), *span)
    assert main(list(asked)) == 2
    assert "--from: no full hour before --to" in capsys.readouterr().err


def test_a_workload_of_several_clusters_is_asked_which(
    week: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["breakeven", "--workload", "serving/twin", *flags(week)]
    assert main(asked) == 2
    assert "--cluster: the workload is in several: east, west" in capsys.readouterr().err
    assert main([*asked, "--cluster", "west", "--seconds", "2"]) == 2
    assert "which GPUs it held is not known" in capsys.readouterr().err
