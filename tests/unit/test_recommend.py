"""`gpucost recommend`, as a person runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpucost.cli import main
from gpucost.sizing.engines import ENGINES
from model_configs import LLAMA_8B

if TYPE_CHECKING:
    from pathlib import Path

PRICES = """gpucost price list 1
generated_at 2026-11-22
source page 2026-11-01 https://example.com/prices
source old 2025-01-01 https://example.com/old
aws large H100-80GB 8 192 2048 page
 on_demand 40 page us-east-1
 on_demand 36 page eu-north-1
 spot 12 page us-east-1
aws medium A100-80GB 4 96 1024 page
 on_demand 10 page us-east-1
aws small L4 1 8 32 page
 on_demand 0.7 page us-east-1
lambda tiny T4 1 4 16 old
 on_demand 0.4 old us-east-1
end 4
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    path = tmp_path / "prices.txt"
    path.write_text(PRICES)
    return str(path)


def recommended(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:  # noqa: ANN401 - JSON
    assert main(["recommend", *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    try:
        status = main(["recommend", *flags])
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 2
    return capsys.readouterr().err


def test_the_cheapest_machines_that_do_it_come_first(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    found = recommended(
        capsys, "inference", "--model", "Llama-3.1-8B", "--requests-per-second", "2",
        "--catalogue", catalogue,
    )  # fmt: skip
    months = [fit["usd_per_month"] for fit in found["fits"]]
    assert months == sorted(months)
    assert [fit["gpu"] for fit in found["fits"]] == ["L4", "A100-80GB", "H100-80GB"]
    assert found["left_out"] == [
        {"gpu": "T4", "what": "memory", "detail": "1 have 13 of 15 GiB"},
    ]


def test_machines_are_paid_whole_and_in_the_cheapest_place(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    found = recommended(
        capsys, "inference", "--model", "Llama-3.1-8B", "--batch", "1", "--gpu-model", "H100",
        "--catalogue", catalogue,
    )  # fmt: skip
    (fit,) = found["fits"]
    assert (fit["usd_per_hour"], fit["place"], fit["gpus"]) == (36, "eu-north-1", 8)
    # A MIG instance is paid by its part: a seventh of the slices, but a quarter of the memory.
    (part,) = found["shared"]
    assert part["mig_profile"] == "1g.20gb"
    assert part["usd_per_hour"] == pytest.approx(36 / 8 / 4)


def test_twice_the_requests_never_cost_less_nor_more_than_twice_and_a_machine(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    def month(rate: str) -> float:
        found = recommended(
            capsys, "inference", "--model", "Llama-3.1-8B", "--requests-per-second", rate,
            "--gpu-model", "L4", "--catalogue", catalogue,
        )  # fmt: skip
        return float(found["fits"][0]["usd_per_month"])

    once, twice = month("10"), month("20")
    assert once <= twice <= 2 * once + 0.7 * 730


def test_targets_take_more_machines_or_rule_a_gpu_out(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    flags = (
        "inference", "--model", "Llama-3.1-8B", "--requests-per-second", "5", "--catalogue",
        catalogue,
    )  # fmt: skip
    easy = recommended(capsys, *flags)
    hard = recommended(capsys, *flags, "--itl-ms", "65")
    cost = {fit["gpu"]: fit["usd_per_month"] for fit in easy["fits"]}
    for fit in hard["fits"]:
        assert fit["between_tokens_seconds"] <= 0.065
        assert fit["usd_per_month"] >= cost[fit["gpu"]]
    assert next(it for it in hard["fits"] if it["gpu"] == "L4")["limit"] == "latency"
    none = recommended(capsys, *flags, "--itl-ms", "20")
    assert {it["gpu"]: it["what"] for it in none["left_out"]} == {"L4": "latency", "T4": "memory"}


def test_tensor_parallel_is_what_lets_a_large_model_fit(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    found = recommended(
        capsys, "inference", "--model", "Llama-3.1-70B", "--batch", "8", "--catalogue", catalogue
    )
    parts = {fit["gpu"]: fit["tensor_parallel"] for fit in found["fits"]}
    assert parts["A100-80GB"] == 4
    assert set(parts) == {"A100-80GB", "H100-80GB"}


def test_a_config_json_is_as_good_as_a_name(
    capsys: pytest.CaptureFixture[str], catalogue: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    by_file = recommended(
        capsys, "inference", "--model", str(tmp_path), "--batch", "4", "--catalogue", catalogue
    )
    by_name = recommended(
        capsys, "inference", "--model", "Llama-3.1-8B", "--batch", "4", "--catalogue", catalogue
    )
    assert by_file["fits"] == by_name["fits"]


def test_weights_are_what_the_config_json_says_unless_a_flag_does(
    capsys: pytest.CaptureFixture[str], catalogue: str, tmp_path: Path
) -> None:
    quantized = {**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(quantized))
    flags = ("inference", "--model", str(path), "--batch", "4", "--catalogue", catalogue)
    assert recommended(capsys, *flags)["precision"] == "int4"
    assert recommended(capsys, *flags, "--precision", "bf16")["precision"] == "bf16"


def test_a_region_that_no_list_names_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("recommend", "inference", "--model", "Llama-3.1-8B", "--batch", "4")
    assert main([*flags, "--region", "us-esat-1"]) == 0
    said = capsys.readouterr()
    assert "no list names `us-esat-1`" in said.err
    assert "aws" not in said.out
    assert main([*flags, "--region", "us-east-1"]) == 0
    assert capsys.readouterr().err == ""


def test_ones_own_prices_stand_in_for_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = recommended(
        capsys, "inference", "--parameters", "7B", "--batch", "4", "--price", "L40S=1.2",
        "--price", "NVIDIA L4=0.5",
    )  # fmt: skip
    assert {fit["gpu"]: fit["usd_per_hour"] for fit in found["fits"]} == {"L4": 0.5, "L40S": 1.2}
    assert found["model"]["shape_is_guessed"]


def test_training_is_done_in_time_on_as_few_machines_as_hold_it(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    flags = ("training", "--model", "Llama-3.1-8B", "--tokens", "1B", "--catalogue", catalogue)
    found = recommended(capsys, *flags)
    quick = recommended(capsys, *flags, "--days", "0.2")
    for fit in quick["fits"]:
        assert 1e9 / fit["tokens_per_second_at_full_load"] <= 0.2 * 86_400
        slower = next(it for it in found["fits"] if it["gpu"] == fit["gpu"])
        assert fit["machines"] >= slower["machines"]
    for fit in found["fits"]:
        assert fit["memory_used_gib"] <= fit["memory_gib"]


def test_what_is_printed(capsys: pytest.CaptureFixture[str], catalogue: str) -> None:
    flags = ("--model", "Llama-3.1-8B", "--precision", "int4", "--batch", "4")
    assert main(["recommend", "inference", *flags, "--catalogue", catalogue, "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "Llama-3.1-8B (8.03B), int4, vllm: 512 tokens in, 256 out; 4 requests in flight" in out
    assert "... and 2 more: --top, or --json for all" in out
    assert "T4: its price is stale: of 2025-01-01, by old." in out
    assert "On a MIG instance, if other work fills the rest of the GPU:" in out
    vllm = ENGINES["vllm"]
    assert f"the median estimate is {vllm.missed:.0%} off {vllm.figures} published" in out


def test_what_is_printed_of_training(capsys: pytest.CaptureFixture[str], catalogue: str) -> None:
    flags = ("--model", "Llama-3.1-70B", "--batch", "64", "--tokens", "1B")
    assert main(["recommend", "training", *flags, "--catalogue", catalogue]) == 0
    out = capsys.readouterr().out
    assert "USD for all" in out
    assert "Left out, memory: T4 (" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("inference",), "--model or --parameters: give one of them"),
        (("inference", "--model", "nobody"), "`nobody` is neither a file nor a known model"),
        (("inference", "--parameters", "many"), "`many` is no number like 7B"),
        (("inference", "--parameters", "7B", "--active-parameters", "8B"), "more than"),
        (("inference", "--parameters", "7B", "--price", "H100=2"), "`H100` is more than one"),
        (("inference", "--parameters", "7B", "--price", "L4"), "`L4` is not MODEL=USD"),
        (
            ("inference", "--parameters", "7B", "--region", "mars", "--provider", "aws"),
            "no machine of this kind",
        ),
        (("inference", "--parameters", "7B", "--facts", "/gone"), "/gone cannot be read"),
        (("inference", "--parameters", "7B", "--engine", "x"), "`x` is none of tensorrt-llm"),
        (("inference", "--parameters", "7B", "--context", "9"), "less than the mean request's"),
        (
            ("inference", "--parameters", "7B", "--batch", "1", "--requests-per-second", "1"),
            "give one of them",
        ),
        (("training", "--parameters", "7B", "--days", "1"), "--days: of how many --tokens?"),
    ],
)
def test_flags_that_cannot_be_meant_are_named(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *flags)


def test_nothing_that_can_do_it_is_an_exit_status(
    capsys: pytest.CaptureFixture[str], catalogue: str
) -> None:
    flags = ("--model", "DeepSeek-R1", "--catalogue", catalogue)
    assert main(["recommend", "inference", *flags]) == 1
    assert "No machine with a price can do it." in capsys.readouterr().out
