"""Tables of dated facts: read whole or refused by line, each figure with its source and day."""

from __future__ import annotations

import re
from datetime import date
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from gpucost.facts_files import SHIPPED, facts_of, shipped_facts
from gpucost.prices import load_models
from gpucost.pricing.price_list import Source
from gpucost.sizing.facts import KEY_WORDS, Facts, FactsError, merged, oldest, parse, stale
from gpucost.sizing.gpus import gpu_speeds, instances
from gpucost.sizing.shapes import known_shapes

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """gpucost facts 1
table gpu
source page 2026-07-20 https://example.com/gpus
source book <2026-01-31 a book
H100-80GB book nvlink_gb_s=900
H100-80GB page bandwidth_gb_s=3350 bf16_tflops=989
table serverless
cloud L4 page usd_per_second=0.0002
end 3
"""


def read(text: str) -> Facts:
    return parse(text.splitlines())


def test_figures_of_a_row_keep_each_its_own_source() -> None:
    row = read(TEXT).rows("gpu")["H100-80GB",]
    assert {name: (it.text, it.source.day) for name, it in row.items()} == {
        "nvlink_gb_s": ("900", "<2026-01-31"),
        "bandwidth_gb_s": ("3350", "2026-07-20"),
        "bf16_tflops": ("989", "2026-07-20"),
    }


def test_a_file_may_have_several_tables() -> None:
    assert set(read(TEXT).rows("serverless")) == {("cloud", "L4")}


def test_ones_own_figures_go_before_the_shipped_and_leave_the_others(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(
        "gpucost facts 1\ntable gpu\nsource us 2026-11-01 measured here\n"
        "L4 us bandwidth_gb_s=250\nend 1\n"
    )
    shipped = gpu_speeds(shipped_facts(), load_models())["L4"]
    own = gpu_speeds(facts_of([mine]), load_models())["L4"]
    assert (own.bandwidth_gb_s, own.bf16_tflops) == (250.0, shipped.bf16_tflops)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("gpucost facts 1", "gpucost facts 2"), "line 1: must be `gpucost facts 1`"),
        (("end 3", "end 2"), "line 9: must be `end 3`"),
        (("end 3\n", ""), "no `end` after line 8: the file was cut off"),
        (("table gpu", "table cpu"), "line 2: must be `table` and one of gpu, model, api"),
        (("book nvlink", "novel nvlink"), "line 5: `novel` is no source"),
        (("nvlink_gb_s=900", "nvlink_gb_s"), "line 5: `nvlink_gb_s` is no figure"),
        (("bf16_tflops=989", "nvlink_gb_s=1"), "line 6: H100-80GB has `nvlink_gb_s` twice"),
        (("2026-07-20", "yesterday"), "line 3: `yesterday` is not a day"),
        (("cloud L4 page", "cloud page"), "line 8: must be 2 words that name the row"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(change: tuple[str, str], said: str) -> None:
    with pytest.raises(FactsError, match=re.escape(said)):
        read(TEXT.replace(*change))


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("bandwidth_gb_s=fast", "table gpu, L4: Expected `float | null`"),
        ("bandwith_gb_s=300", "table gpu, L4: Object contains unknown field `bandwith_gb_s`"),
    ],
)
def test_a_figure_that_is_none_or_unknown_is_named_by_its_row(figure: str, said: str) -> None:
    text = f"gpucost facts 1\ntable gpu\nsource a ? b\nL4 a {figure}\nend 1\n"
    with pytest.raises(FactsError, match=re.escape(said)):
        gpu_speeds(read(text), load_models())


def test_a_gpu_that_no_table_of_models_has_must_say_its_memory() -> None:
    text = "gpucost facts 1\ntable gpu\nsource a ? b\nX1 a bandwidth_gb_s=300\nend 1\n"
    with pytest.raises(FactsError, match="X1: no known model"):
        gpu_speeds(read(text), load_models())
    known = gpu_speeds(read(text.replace("=300", "=300 memory_gib=10")), load_models())
    assert known["X1"].memory_gib == 10.0


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (["2026-11-01"], ""),
        (["2026-11-01", "2026-07-01"], "stale: 150 days old"),
        (["<2026-11-01"], ""),
        (["2026-11-01", "?"], "its day is not known"),
    ],
)
def test_a_row_is_as_old_as_its_oldest_figure(days: list[str], said: str) -> None:
    assert stale([Source("a", day, "b") for day in days], date(2026, 11, 28), 90) == said


def test_without_a_day_there_is_no_oldest() -> None:
    assert oldest([Source("a", "?", "b"), Source("c", "2026-01-01", "d")]) is None


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(FactsError, match="picture is not text"):
        facts_of([picture])
    with pytest.raises(FactsError, match="gone cannot be read: No such file"):
        facts_of([tmp_path / "gone"])


# --- The shipped tables ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rows_are_sorted_and_every_source_is_used(name: str) -> None:
    lines = (resources.files("gpucost") / "data" / name).read_text("utf-8").splitlines()
    table = next(line for line in lines if line.startswith("table ")).split()[1]
    rows = [line.split() for line in lines if "=" in line and not line.startswith(("#", "source"))]
    keys = [tuple(row[: KEY_WORDS[table]]) for row in rows]
    assert keys == sorted(keys)
    sources = [line.split()[1] for line in lines if line.startswith("source ")]
    assert sources == sorted(set(sources))
    assert set(sources) == {row[KEY_WORDS[table]] for row in rows}


def test_shipped_gpus_are_known_models_and_no_rate_is_beyond_what_exists() -> None:
    for gpu in gpu_speeds(shipped_facts(), load_models()).values():
        half = gpu.half_tflops
        assert half is None or half <= 2500
        if gpu.fp8_tflops and half:
            assert 1.9 <= gpu.fp8_tflops / half <= 2.1, f"{gpu.name}: is one of them sparse?"


def test_mig_profiles_are_parts_of_their_gpu() -> None:
    for gpu in gpu_speeds(shipped_facts(), load_models()).values():
        for part in instances(gpu):
            assert 0 < part.share < 1, part.name
            assert part.memory_gib < gpu.memory_gib


def test_shipped_shapes_count_up_to_the_parameters_in_their_names() -> None:
    shapes = known_shapes(shipped_facts())
    assert len(shapes) > 30
    for name, shape in shapes.items():
        for match in re.finditer(r"(?<![A-Za-z\d.])(A?)(\d+(?:\.\d+)?)B", name):
            counted = shape.active if match[1] else shape.parameters
            # Names round: Llama-3.2-1B has 1.24, gpt-oss-120B 117.
            assert counted / 1e9 == pytest.approx(float(match[2]), rel=0.25), name


def test_merging_believes_the_first() -> None:
    first = read(TEXT)
    other = read(TEXT.replace("3350", "1").replace("nvlink_gb_s", "fp8_tflops"))
    row = merged(first, other).rows("gpu")["H100-80GB",]
    assert row["bandwidth_gb_s"].text == "3350"
    assert row["fp8_tflops"].text == "900"
