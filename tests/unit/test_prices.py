"""The shipped tables: sorted, complete, without doubles, and near what others ask."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import date
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.prices import MODELS, PRICES, load_catalogue, load_models, parse_catalogue, rows_of
from gpucost.pricing.mig import mig_slices
from gpucost.pricing.names import index, is_model, plain

ROWS = list(rows_of(PRICES))
PRICED = [row for row in ROWS if row["usd_per_hour"]]
NAMES = index(load_models())


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return row["provider"], row["instance_type"], row["region"], row["capacity_type"]


def test_the_price_table_is_sorted_and_says_nothing_twice() -> None:
    keys = [key_of(dict(row)) for row in ROWS]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("table", [PRICES, MODELS])
def test_every_row_has_every_column(table: str) -> None:
    for row in rows_of(table):
        assert None not in row
        assert None not in row.values()


def test_every_figure_has_a_source_and_a_meaning() -> None:
    for row in ROWS:
        assert row["source"]
        assert float(row["gpu_count"]) > 0
        assert plain(row["gpu_model"]) in NAMES, f"{row['gpu_model']} is not in {MODELS}"
        if row["source_date"]:
            date.fromisoformat(row["source_date"])
    for row in PRICED:
        assert 0 < float(row["usd_per_hour"]) < 1000
        assert row["capacity_type"] in ("on_demand", "spot")


def test_an_instance_type_has_one_count_and_one_model() -> None:
    facts: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in ROWS:
        facts[row["instance_type"].casefold()].add((row["gpu_model"], row["gpu_count"]))
    assert not {name: told for name, told in facts.items() if len(told) > 1}


def test_no_price_of_a_gpu_is_far_from_the_median_of_its_model() -> None:
    """Ten times off is a price of eight GPUs taken for one, or a slipped point."""
    by_model: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in PRICED:
        usd = float(row["usd_per_hour"]) / float(row["gpu_count"])
        by_model[row["gpu_model"], row["capacity_type"]].append(usd)
    for told, figures in by_model.items():
        middle = median(figures)
        assert max(figures) / middle < 8, told
        assert middle / min(figures) < 8, told


def test_spot_costs_less_than_on_demand() -> None:
    """A spot price that equals the list price is a stale or missing one."""
    listed = {key_of(dict(row)): float(row["usd_per_hour"]) for row in PRICED}
    for (*place, capacity), usd in listed.items():
        if capacity == "spot" and (full := listed.get((*place, "on_demand"))) is not None:
            assert usd < 0.99 * full, place


@pytest.mark.parametrize(
    ("instance_type", "region", "usd", "count"),
    [
        ("p5.48xlarge", "us-east-1", 55.04, 8),
        ("g4dn.xlarge", "us-east-1", 0.526, 1),
        ("a2-highgpu-1g", "us-central1", 3.673385, 1),
        ("STANDARD_NC24ADS_A100_V4", "EASTUS", 3.673, 1),
        ("BM.GPU.H100.8", "ap-tokyo-1", 80.0, 8),
    ],
)
def test_list_prices_are_found_by_type_and_region(
    instance_type: str, region: str, usd: float, count: float
) -> None:
    catalogue = load_catalogue(instance_type, region)
    (row,) = (row for row in catalogue.rows if row.capacity_type == "on_demand")
    assert row.usd_per_hour == pytest.approx(usd, rel=1e-4)
    assert catalogue.gpu_count == count


def test_a_type_whose_price_is_not_known_still_has_its_count() -> None:
    catalogue = load_catalogue("gd-8xh100ib-i128", "us-east-04")
    assert (catalogue.gpu_count, catalogue.gpu_model, catalogue.rows) == (8, "H100-80GB", ())


@pytest.mark.parametrize("instance_type", ["", "m5.large", "p5"])
def test_a_type_that_is_not_listed_leaves_only_the_names_of_models(instance_type: str) -> None:
    catalogue = load_catalogue(instance_type, "us-east-1")
    assert (catalogue.instance_type, catalogue.gpu_count, catalogue.rows) == ("", None, ())
    assert catalogue.names


def test_only_the_rows_of_the_type_and_region_are_kept() -> None:
    catalogue = load_catalogue("g4dn.xlarge", "us-east-1")
    assert {row.region for row in catalogue.rows} == {"us-east-1"}
    assert {row.capacity_type for row in catalogue.rows} == {"on_demand", "spot"}


def test_a_price_that_is_no_figure_is_an_error() -> None:
    broken = [{**ROWS[0], "usd_per_hour": "3,5"}]
    with pytest.raises(ValueError, match="3,5"):
        parse_catalogue(broken, ROWS[0]["instance_type"], ROWS[0]["region"], {})


# --- Models -------------------------------------------------------------------------------------


def test_the_model_table_is_sorted_and_no_name_is_of_two_models() -> None:
    models = load_models()
    ids = [model.id for model in models]
    assert ids == sorted(set(ids))
    owners: dict[str, set[str]] = defaultdict(set)
    for model in models:
        for name in (model.id, *model.names):
            owners[plain(name)].add(model.id)
    assert not {name: ids for name, ids in owners.items() if len(ids) > 1}


def test_the_slices_of_partitioned_gpus_are_those_of_the_model_table() -> None:
    for model in load_models():
        if model.mig_slices is not None:
            assert [mig_slices(name) for name in (model.id, *model.names)] == [model.mig_slices] * (
                1 + len(model.names)
            )


@pytest.mark.parametrize(
    ("stated", "actual"),
    [
        ("H100-80GB", "NVIDIA H100 80GB HBM3"),
        ("h100_80gb", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA-H100-80GB-HBM3", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me-SHARED", "NVIDIA H100 80GB HBM3"),
        ("nvidia-h100-mega-80gb", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3-SHARED"),
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("H100", "NVIDIA H100 NVL"),
        ("H200", "NVIDIA H200"),
        ("T4", "Tesla T4"),
        ("nvidia-tesla-t4", "Tesla T4"),
        ("V100", "Tesla V100-SXM2-32GB"),
        ("A100-SXM4", "NVIDIA A100-SXM4-80GB"),
        ("a100", "NVIDIA A100 80GB PCIe"),
        ("RTX 3090", "NVIDIA GeForce RTX 3090"),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("X9000", "NVIDIA X9000 Ultra"),
        ("nvidia x9000 ultra", "NVIDIA-X9000-Ultra"),
    ],
)
def test_one_model_has_many_names(stated: str, actual: str) -> None:
    assert is_model(stated, actual, NAMES)


@pytest.mark.parametrize(
    ("stated", "actual"),
    [
        ("A10", "NVIDIA A100-SXM4-80GB"),
        ("A10", "NVIDIA A10G"),
        ("L4", "NVIDIA L40"),
        ("L40", "NVIDIA L40S"),
        ("H100", "NVIDIA H200"),
        ("H20", "NVIDIA H200"),
        ("H200", "NVIDIA H200 NVL"),
        ("H100", "NVIDIA GH200 480GB"),
        ("A100-40GB", "NVIDIA A100-SXM4-80GB"),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        ("RTX-6000-ADA", "Quadro RTX 6000"),
        ("", "NVIDIA L4"),
        ("NVIDIA", "NVIDIA L4"),
        ("???", ""),
        ("L4", ""),
    ],
)
def test_models_that_are_not_the_same_are_kept_apart(stated: str, actual: str) -> None:
    assert not is_model(stated, actual, NAMES)


@given(st.text(max_size=60))
def test_any_name_is_itself_unless_nothing_is_left_of_it(name: str) -> None:
    assert is_model(name, name, NAMES) == bool(plain(name))


def test_every_name_of_a_model_is_that_model() -> None:
    for model in load_models():
        assert all(is_model(model.id, name, NAMES) for name in model.names)
        assert model.memory_gib > 0
        assert not math.isnan(model.memory_gib)
