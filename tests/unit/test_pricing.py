"""What a GPU costs: by which word, split how, and what is said when nobody knows."""

from __future__ import annotations

import math
import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.config import Prices, parse
from gpucost.model import Device, GpuReading, MigInstance, Node, Price, Pricing, Problem
from gpucost.prices import Asked, load_catalogue
from gpucost.pricing import Catalogue, CatalogueRow, mig_share, price_gpus

H100 = "NVIDIA H100 80GB HBM3"
NODE = Node(
    name="n1",
    instance_type="p5.48xlarge",
    region="us-east-1",
    capacity_type="on_demand",
    provider="aws",
    labels={"pool": "train"},
)
LISTED = load_catalogue(Asked("p5.48xlarge"))
ANNOTATION = "gpucost.io/gpu-usd-per-hour"


def gpus(count: int, model: str = H100, watts: float | None = None) -> list[GpuReading]:
    return [GpuReading(Device(f"GPU-{model}-{n}", model), power_watts=watts) for n in range(count)]


def prices(text: str = "") -> Prices:
    """The `prices` section of a configuration file."""
    return parse("prices:\n  " + text.strip().replace("\n", "\n  ") if text else "").prices


def node(annotation: str | None = None, **changes: object) -> Node:
    if annotation is not None:
        changes["annotations"] = {ANNOTATION: annotation}
    return replace(NODE, **changes)


def price(pricing: Pricing) -> Price:
    """The one price that all GPUs have."""
    (found,) = set(pricing.by_gpu.values())
    return found


def kinds(pricing: Pricing) -> list[str]:
    return [problem.kind for problem in pricing.problems]


def the(kind: str, pricing: Pricing) -> Problem:
    (found,) = (problem for problem in pricing.problems if problem.kind == kind)
    return found


# --- The order ----------------------------------------------------------------------------------

UNLISTED = Catalogue(names=LISTED.names)
ROW = "table: [{instance_type: p5.48xlarge, node_usd_per_hour: 40}]\n"
FALLBACK = "fallback: {H100-80GB: 3}\n"


@pytest.mark.parametrize(
    ("annotation", "settings", "catalogue", "source", "usd"),
    [
        ("2.5", ROW + FALLBACK, LISTED, "node_annotation", 2.5),
        (None, ROW + FALLBACK, LISTED, "table", 5.0),
        (None, FALLBACK, LISTED, "catalogue", 55.04 / 8),
        (None, FALLBACK, UNLISTED, "fallback", 3.0),
        (None, FALLBACK + "use_catalogue: false", LISTED, "fallback", 3.0),
        (None, "use_catalogue: false", LISTED, "none", None),
        (None, "", UNLISTED, "none", None),
    ],
)
def test_the_first_of_the_order_that_knows_a_price_gives_it(
    annotation: str | None, settings: str, catalogue: Catalogue, source: str, usd: float | None
) -> None:
    pricing = price_gpus(gpus(8), node(annotation), prices(settings), catalogue)
    found = price(pricing)
    assert (found.source, found.usd_per_hour) == (source, usd)
    assert kinds(pricing) == ([] if usd is not None else ["unpriced"])


@pytest.mark.parametrize(
    "text",
    [
        *("abc", "", " ", "-1", "0", "0.0", "nan", "inf", "-inf", "1e999", "1e10", "1_0", "1,5"),
        *("$2", "0x2", "2 USD", "²", "٣", "1.2.3", "1e", "e5", ".", "true", "9" * 5000),
    ],
)
def test_an_annotation_that_is_no_price_is_quoted_and_passed_over(text: str) -> None:
    pricing = price_gpus(gpus(8), node(text), prices(), LISTED)
    assert price(pricing).source == "catalogue"
    problem = the("invalid_annotation", pricing)
    assert repr(text[:80]) in problem.message
    assert len(problem.message) < 300
    assert f"kubectl annotate --overwrite node n1 {ANNOTATION}=" in problem.remedy


@pytest.mark.parametrize(
    ("text", "usd"),
    [("2.5", 2.5), (" 3 ", 3.0), ("1e-2", 0.01), (".5", 0.5), ("2.", 2.0), ("2\x1f", 2.0)],
)
def test_an_annotation_that_is_a_number_is_the_price(text: str, usd: float) -> None:
    found = price(price_gpus(gpus(8), node(text), prices(), LISTED))
    assert (found.usd_per_hour, found.split) == (usd, "per_gpu")


@given(st.text(max_size=40) | st.from_regex(r"\s*[0-9.eE+-]{1,8}\s*"))
def test_any_annotation_is_a_price_above_zero_or_a_problem(text: str) -> None:
    pricing = price_gpus(gpus(1), node(text), prices(), Catalogue())
    found = price(pricing).usd_per_hour
    assert (found is None) == ("invalid_annotation" in kinds(pricing))
    assert found is None or 0 < found < math.inf


@pytest.mark.parametrize(
    ("condition", "source"),
    [
        ("instance_type: p5.48xlarge", "table"),
        ("instance_type: P5.48XLARGE", "table"),
        ("instance_type: p5.4xlarge", "none"),
        ("region: us-east-1", "table"),
        ("region: us-east-2", "none"),
        ("capacity_type: on_demand", "table"),
        ("capacity_type: spot", "none"),
        ("gpu_model: H100-80GB", "table"),
        ("gpu_model: H200", "none"),
        ("node_selector: {pool: train}", "table"),
        ("node_selector: {pool: serve}", "none"),
        ("node_selector: {pool: train, team: a}", "none"),
        ("region: us-east-1, gpu_model: H200", "none"),
    ],
)
def test_a_row_applies_where_every_stated_condition_holds(condition: str, source: str) -> None:
    settings = prices(f"table: [{{{condition}, gpu_usd_per_hour: 1}}]")
    found = price(price_gpus(gpus(8), NODE, settings, UNLISTED))
    assert found.source == source


@pytest.mark.parametrize("condition", ["instance_type", "region", "capacity_type"])
def test_what_the_node_does_not_say_matches_no_stated_condition(condition: str) -> None:
    stated = {"instance_type": "p5.48xlarge", "region": "us-east-1", "capacity_type": "on_demand"}
    settings = prices(f"table: [{{{condition}: {stated[condition]}, gpu_usd_per_hour: 1}}]")
    silent = node(**{condition: ""})
    assert price(price_gpus(gpus(8), NODE, settings, Catalogue())).source == "table"
    assert price(price_gpus(gpus(8), silent, settings, Catalogue())).source == "none"


@pytest.mark.parametrize("condition", ["instance_type", "region", "gpu_model"])
def test_an_empty_condition_is_not_for_whatever_is_unknown(condition: str) -> None:
    settings = prices(f"table: [{{{condition}: '', gpu_usd_per_hour: 1}}]")
    pricing = price_gpus(gpus(1, ""), Node("n"), settings, Catalogue())
    assert price(pricing).source == "none"


def test_the_first_matching_row_wins() -> None:
    settings = prices("table: [{gpu_model: H100, gpu_usd_per_hour: 1}, {gpu_usd_per_hour: 2}]")
    assert price(price_gpus(gpus(8), NODE, settings, LISTED)).usd_per_hour == 1
    assert price(price_gpus(gpus(8, "NVIDIA L4"), NODE, settings, LISTED)).usd_per_hour == 2


def test_a_stated_price_of_zero_is_a_price() -> None:
    pricing = price_gpus(gpus(8), NODE, prices("table: [{gpu_usd_per_hour: 0.0}]"), LISTED)
    assert price(pricing).usd_per_hour == 0.0
    assert price(pricing).source == "table"
    assert pricing.problems == ()


# --- Spot, reserved, unknown --------------------------------------------------------------------


def test_a_spot_node_takes_the_spot_price() -> None:
    found = price(price_gpus(gpus(8), node(capacity_type="spot"), prices(), LISTED))
    assert found.usd_per_hour == pytest.approx(16.9508 / 8)
    assert found.capacity_type == "spot"


def test_a_reserved_node_is_not_priced_as_on_demand() -> None:
    pricing = price_gpus(gpus(8), node(capacity_type="reserved"), prices(), LISTED)
    assert price(pricing).usd_per_hour is None
    assert "effective rate of a reserved node" in the("unpriced", pricing).remedy


def test_a_node_that_does_not_say_is_on_demand_by_estimate() -> None:
    pricing = price_gpus(gpus(8), node(capacity_type=""), prices(), LISTED)
    found = price(pricing)
    assert found.usd_per_hour == pytest.approx(6.88)
    assert found.estimated
    assert found.capacity_type == ""
    assert kinds(pricing) == ["capacity_unknown"]


def test_a_region_without_a_list_price_is_unpriced_and_not_taken_from_another() -> None:
    catalogue = load_catalogue(Asked("p5.48xlarge"))
    pricing = price_gpus(gpus(8), node(region="mars-north-1"), prices(), catalogue)
    assert price(pricing).usd_per_hour is None
    assert "p5.48xlarge in mars-north-1 as on_demand" in the("unpriced", pricing).message


def test_one_price_for_every_region_is_that_of_any_region() -> None:
    oracle = Node("n", instance_type="BM.GPU.H100.8", region="uk-london-1")
    catalogue = load_catalogue(Asked(oracle.instance_type))
    assert price(price_gpus(gpus(8), oracle, prices(), catalogue)).usd_per_hour == 10.0


def test_a_catalogue_of_another_instance_type_is_not_used() -> None:
    pricing = price_gpus(gpus(1), node(instance_type="p5.4xlarge"), prices(), LISTED)
    assert price(pricing).usd_per_hour is None
    assert pricing.gpu_count is None


# --- The whole node, and its GPUs ---------------------------------------------------------------

USD = st.floats(0, 1e6)
COUNT = st.integers(1, 16)


@given(usd=USD, count=COUNT, data=st.data())
def test_the_gpus_and_those_missing_add_up_to_the_node(
    usd: float, count: int, data: st.DataObject
) -> None:
    seen = data.draw(st.integers(0, count))
    settings = prices(f"table: [{{node_usd_per_hour: {usd:f}, gpu_count: {count}}}]")
    pricing = price_gpus(gpus(seen), NODE, settings, Catalogue())
    parts = [it.usd_per_hour for it in pricing.by_gpu.values()]
    parts += [pricing.missing_price.usd_per_hour] * pricing.missing if pricing.missing_price else []
    assert len(parts) == count
    assert math.fsum(it for it in parts if it is not None) == pytest.approx(float(f"{usd:f}"))
    assert pricing.missing == count - seen


def test_a_missing_card_does_not_change_what_the_others_cost() -> None:
    whole = price_gpus(gpus(8), NODE, prices(), LISTED)
    short = price_gpus(gpus(7), NODE, prices(), LISTED)
    assert price(short) == price(whole)
    assert (short.gpu_count, short.missing, short.missing_price) == (8, 1, price(whole))
    assert "has 8 GPUs" in the("missing_gpu", short).message
    assert whole.missing == 0
    assert whole.missing_price is None


def test_no_gpu_at_all_is_no_problem_of_prices() -> None:
    """A driver that cannot be read says so itself."""
    pricing = price_gpus([], NODE, prices(), LISTED)
    assert (pricing.by_gpu, pricing.missing, pricing.problems) == ({}, 8, ())
    assert pricing.missing_price is not None
    assert pricing.missing_price.usd_per_hour == pytest.approx(6.88)


def test_more_gpus_than_the_type_has_share_the_price_and_it_is_said() -> None:
    settings = prices("table: [{node_usd_per_hour: 8, gpu_count: 4}]")
    pricing = price_gpus(gpus(8), NODE, settings, Catalogue())
    assert price(pricing).usd_per_hour == 1.0
    assert pricing.missing == 0
    assert "shows 8 GPUs, but gpu_count in prices.table says 4" in the("gpu_count", pricing).message


def test_more_gpus_than_stated_are_no_matter_where_each_has_its_price() -> None:
    settings = prices("table: [{gpu_usd_per_hour: 8, gpu_count: 4}]")
    pricing = price_gpus(gpus(8), NODE, settings, Catalogue())
    assert price(pricing).usd_per_hour == 8.0
    assert pricing.problems == ()


def test_a_fraction_of_a_card_takes_the_whole_node() -> None:
    small = Node("n", instance_type="g6f.large", region="us-east-1", capacity_type="on_demand")
    catalogue = load_catalogue(Asked("g6f.large"))
    assert catalogue.gpu_count == 0.125
    pricing = price_gpus(gpus(1, "NVIDIA L4-3Q"), small, prices(), catalogue)
    found = price(pricing)
    assert found.usd_per_hour == catalogue.rows[0].usd_per_hour
    assert "1 GPU, 0.125 of a card" in found.detail
    assert (pricing.gpu_count, pricing.missing, pricing.problems) == (1, 0, ())


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ({}, None),
        ({"karpenter.k8s.aws/instance-gpu-count": "8"}, 8),
        ({"karpenter.azure.com/sku-gpu-count": "8"}, 8),
        ({"cloud.google.com/gke-accelerator-count": "8"}, 8),
        ({"nvidia.com/gpu.count": "8"}, 8),
        ({"nvidia.com/gpu.count": "8", "nvidia.com/mig.strategy": "mixed"}, 8),
        # MIG devices, not GPUs.
        (
            {
                "nvidia.com/gpu.count": "28",
                "nvidia.com/mig.strategy": "single",
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
            },
            None,
        ),
        # The single strategy on GPUs that are not partitioned.
        (
            {
                "nvidia.com/gpu.count": "8",
                "nvidia.com/mig.strategy": "single",
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
            },
            8,
        ),
        # One model of a mixed node, and words that are no count.
        ({"nvidia.com/gpu.count": "2"}, None),
        ({"nvidia.com/gpu.count": "0"}, None),
        ({"nvidia.com/gpu.count": "many"}, None),
        ({"nvidia.com/gpu.count": "99999"}, None),
        ({"nvidia.com/gpu.count": "٨"}, None),
        ({"nvidia.com/gpu.count": "-8"}, None),
    ],
)
def test_the_nodes_labels_count_physical_gpus_only(
    labels: dict[str, str], count: int | None
) -> None:
    settings = prices("table: [{node_usd_per_hour: 8}]")
    pricing = price_gpus(gpus(4), node(labels=labels), settings, Catalogue())
    assert pricing.gpu_count == count
    assert price(pricing).usd_per_hour == 8 / (count or 4)
    assert ("4 GPUs seen" in price(pricing).detail) == (count is None)


def test_the_users_count_is_believed_before_the_catalogue_and_that_before_labels() -> None:
    labelled = node(labels={"nvidia.com/gpu.count": "4"})
    assert price_gpus(gpus(1), labelled, prices(), LISTED).gpu_count == 8
    settings = prices("table: [{node_usd_per_hour: 8, gpu_count: 2}]")
    assert price_gpus(gpus(1), labelled, settings, LISTED).gpu_count == 2


def test_rows_by_model_that_state_different_counts_mean_the_larger() -> None:
    settings = prices(
        "table: [{gpu_model: L4, gpu_usd_per_hour: 1, gpu_count: 4},"
        " {gpu_model: A10, gpu_usd_per_hour: 2, gpu_count: 6}]"
    )
    assert price_gpus(MIXED, NODE, settings, Catalogue()).gpu_count == 6


def test_gpu_only_carves_cpu_and_memory_out_of_a_nodes_price_by_the_stated_weights() -> None:
    settings = "split: gpu_only\ngpu_only_weights: {gpu: 6, cpu: 1, memory: 1}\n"
    found = price(price_gpus(gpus(8), NODE, prices(settings), LISTED))
    assert found.usd_per_hour == pytest.approx(6.88 * 0.75)
    assert found.split == "gpu_only"
    assert "x 0.75 for the GPUs" in found.detail


def test_gpu_only_leaves_what_is_stated_per_gpu() -> None:
    settings = "split: gpu_only\ntable: [{gpu_usd_per_hour: 2}]"
    found = price(price_gpus(gpus(8), NODE, prices(settings), LISTED))
    assert (found.usd_per_hour, found.split) == (2.0, "per_gpu")


# --- Several models on one node -----------------------------------------------------------------

MIXED = [*gpus(2, "NVIDIA L4"), *gpus(2, "NVIDIA A10")]


def test_rows_by_model_price_a_mixed_node_exactly() -> None:
    settings = prices(
        "table: [{gpu_model: L4, gpu_usd_per_hour: 1}, {gpu_model: A10, gpu_usd_per_hour: 2}]"
    )
    pricing = price_gpus(MIXED, NODE, settings, Catalogue())
    assert [it.usd_per_hour for it in pricing.by_gpu.values()] == [1, 1, 2, 2]
    assert pricing.problems == ()


def test_a_nodes_price_over_several_models_is_even_estimated_and_said() -> None:
    settings = prices("table: [{node_usd_per_hour: 8}]")
    pricing = price_gpus(MIXED, NODE, settings, Catalogue())
    assert price(pricing).usd_per_hour == 2
    assert price(pricing).estimated
    assert kinds(pricing) == ["mixed_models"]


# --- Discounts ----------------------------------------------------------------------------------

CUTS = "discounts: [{ratio: 0.2, name: EDP, provider: AWS}, {ratio: 0.5}, {ratio: 0.9, "


@pytest.mark.parametrize(
    "other", ["provider: gcp", "capacity_type: spot", "instance_type: x", "gpu_model: L4"]
)
def test_discounts_that_match_multiply(other: str) -> None:
    found = price(price_gpus(gpus(8), NODE, prices(f"{CUTS}{other}}}]"), LISTED))
    assert found.usd_per_hour == pytest.approx(6.88 * 0.8 * 0.5)
    assert "55.04 USD/h less 20 % EDP less 50 % / 8 GPUs" in found.detail


@pytest.mark.parametrize(
    ("settings", "usd"),
    [
        ("table: [{gpu_usd_per_hour: 4}]", 2.0),
        ("table: [{node_usd_per_hour: 80}]", 5.0),
        ("use_catalogue: false\nfallback: {H100: 4}", 2.0),
    ],
)
def test_discounts_lower_every_list_price(settings: str, usd: float) -> None:
    settings = f"{settings}\ndiscounts: [{{ratio: 0.5}}]"
    assert price(price_gpus(gpus(8), NODE, prices(settings), LISTED)).usd_per_hour == usd


def test_discounts_leave_what_is_really_paid() -> None:
    half = "discounts: [{ratio: 0.5}]\n"
    assert price(price_gpus(gpus(8), node("3"), prices(half), LISTED)).usd_per_hour == 3
    owned = "{capital_usd: 35064, lifetime_years: 4, usd_per_kwh: 0}"
    bought = prices(f"{half}table: [{{on_premises: {owned}}}]")
    assert price(price_gpus(gpus(8), NODE, bought, LISTED)).usd_per_hour == pytest.approx(1.0)


def test_a_discount_for_a_capacity_type_is_not_for_a_node_that_states_none() -> None:
    settings = prices("discounts: [{ratio: 0.5, capacity_type: on_demand}]")
    found = price(price_gpus(gpus(8), node(capacity_type=""), settings, LISTED))
    assert found.usd_per_hour == pytest.approx(6.88)


# --- On premises --------------------------------------------------------------------------------

OWNED = prices(
    "table: [{on_premises: {capital_usd: 30000, lifetime_years: 4, usd_per_kwh: 0.2, pue: 1.5,"
    " idle_watts: 80}}]"
)


def test_a_bought_gpu_costs_its_capital_over_its_life_and_its_measured_energy() -> None:
    found = price(price_gpus(gpus(8, watts=700), NODE, OWNED, LISTED))
    assert found.usd_per_hour == pytest.approx(30000 / (4 * 8766) + 0.7 * 1.5 * 0.2)
    assert (found.source, found.split) == ("on_premises", "on_premises")
    assert not found.estimated
    assert "30000 USD over 4 years + 700 W x PUE 1.5 x 0.2 USD/kWh" in found.detail


@pytest.mark.parametrize("watts", [None, math.nan, math.inf, -5.0])
def test_unknown_watts_are_the_stated_idle_figure_and_estimated(watts: float | None) -> None:
    found = price(price_gpus(gpus(1, watts=watts), NODE, OWNED, LISTED))
    assert found.usd_per_hour == pytest.approx(30000 / (4 * 8766) + 0.08 * 1.5 * 0.2)
    assert found.estimated
    assert "80 W assumed" in found.detail


def test_zero_watts_are_measured() -> None:
    found = price(price_gpus(gpus(1, watts=0.0), NODE, OWNED, LISTED))
    assert found.usd_per_hour == pytest.approx(30000 / (4 * 8766))
    assert not found.estimated


# --- What a person reads ------------------------------------------------------------------------


def test_the_detail_of_a_price_says_how_it_was_made() -> None:
    told = "p5.48xlarge us-east-1 on_demand 55.04 USD/h / 8 GPUs (catalogue, 2026-07-20)"
    assert price(price_gpus(gpus(8), NODE, prices(), LISTED)).detail == told
    settings = prices("updated: 2026-08-01\ntable: [{gpu_usd_per_hour: 2.10}]")
    told = "2.1 USD/h a GPU (prices.table[0], 2026-08-01)"
    assert price(price_gpus(gpus(8), NODE, settings, LISTED)).detail == told


@pytest.mark.parametrize(
    "where",
    [
        NODE,
        node(capacity_type="reserved"),
        node(capacity_type="", region="", instance_type=""),
        node(instance_type='odd "type": {x}', region="é\n"),
    ],
)
def test_the_remedy_pasted_into_the_table_prices_the_gpus(where: Node) -> None:
    unpriced = price_gpus(gpus(8), where, prices("use_catalogue: false"), LISTED)
    rows = re.findall(r"`- (\{.*?\})`", the("unpriced", unpriced).remedy)
    assert len(rows) == (2 if where.instance_type else 1)
    for row in rows:
        mended = price_gpus(gpus(8), where, prices(f"table: [{row}]"), LISTED)
        assert price(mended).source == "table"


def test_the_annotation_that_the_remedy_names_is_the_one_that_is_read() -> None:
    unpriced = price_gpus(gpus(8), NODE, prices("use_catalogue: false"), LISTED)
    told = re.search(r"kubectl annotate node n1 (\S+)=([\d.]+)`", the("unpriced", unpriced).remedy)
    assert told is not None
    mended = price_gpus(
        gpus(8), node(annotations={told[1]: told[2]}), prices("use_catalogue: false"), LISTED
    )
    assert price(mended).usd_per_hour == float(told[2])


def test_one_problem_for_each_model_without_a_price() -> None:
    pricing = price_gpus(MIXED, NODE, prices("use_catalogue: false"), LISTED)
    assert kinds(pricing) == ["unpriced", "unpriced", "missing_gpu"]
    assert "2 GPUs (NVIDIA L4)" in pricing.problems[0].message


@pytest.mark.parametrize(
    ("where", "settings", "why"),
    [
        (NODE, "use_catalogue: false", "the catalogue is off"),
        (node(instance_type=""), "", "instance type is not known"),
        (node(instance_type="mine-1"), "", "the catalogue does not have mine-1"),
        (node(region=""), "", "p5.48xlarge in an unknown region as on_demand"),
    ],
)
def test_why_there_is_no_price_is_said(where: Node, settings: str, why: str) -> None:
    catalogue = load_catalogue(Asked(where.instance_type))
    pricing = price_gpus(gpus(8), where, prices(settings), catalogue)
    assert why in the("unpriced", pricing).message
    assert why in price(pricing).detail


def test_prices_have_the_day_they_were_right() -> None:
    day = 1785542400.0  # 2026-08-01T00:00:00Z
    pricing = price_gpus(
        gpus(8), NODE, prices("updated: 2026-08-01\ntable: [{gpu_usd_per_hour: 1}]"), LISTED
    )
    assert pricing.dates == {"table": day}
    row = CatalogueRow("us-east-1", "on_demand", 8.0, "list", "2026-08-01")
    listed = Catalogue("p5.48xlarge", "H100-80GB", 8, (row,))
    assert price_gpus(gpus(8), NODE, prices(), listed).dates == {"catalogue": day}
    undated = replace(listed, rows=(replace(row, source_date=""),))
    assert price_gpus(gpus(8), NODE, prices(), undated).dates == {}
    assert price_gpus(gpus(8), node("1"), prices("updated: 2026-08-01"), LISTED).dates == {}


# --- Laws ---------------------------------------------------------------------------------------

_CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "instance_type": st.sampled_from(["p5.48xlarge", "g6.xlarge"]),
        "region": st.sampled_from(["us-east-1", "eu-west-1"]),
        "capacity_type": st.sampled_from(["on_demand", "spot", "reserved"]),
        "gpu_model": st.sampled_from(["H100", "L4", "A10"]),
    },
)
_FIGURE = st.sampled_from(["gpu_usd_per_hour: 2", "node_usd_per_hour: 16", "gpu_usd_per_hour: 0"])
_ROWS = st.lists(
    st.tuples(_CONDITIONS, _FIGURE), max_size=4, unique_by=lambda it: str(sorted(it[0].items()))
)


@given(
    rows=_ROWS,
    models=st.lists(st.sampled_from([H100, "NVIDIA L4", "NVIDIA A10", ""]), max_size=9),
    capacity=st.sampled_from(["", "on_demand", "spot", "reserved"]),
    split=st.sampled_from(["whole_node", "gpu_only"]),
)
def test_every_gpu_has_a_price_above_or_at_zero_or_is_unpriced_and_said(
    rows: list[tuple[dict[str, str], str]], models: list[str], capacity: str, split: str
) -> None:
    table = ", ".join(
        "{" + ", ".join([*(f"{key}: {value}" for key, value in stated.items()), usd]) + "}"
        for stated, usd in rows
    )
    settings = prices(f"split: {split}\ntable: [{table}]")
    readings = [GpuReading(Device(f"GPU-{n}", model)) for n, model in enumerate(models)]
    pricing = price_gpus(readings, node(capacity_type=capacity), settings, LISTED)
    assert set(pricing.by_gpu) == {it.device.uuid for it in readings}
    for found in pricing.by_gpu.values():
        assert (found.usd_per_hour is None) == (found.source == "none") == (found.split == "none")
        assert found.usd_per_hour is None or 0 <= found.usd_per_hour < math.inf
        assert found.detail
    unpriced = any(it.usd_per_hour is None for it in pricing.by_gpu.values())
    assert unpriced == ("unpriced" in kinds(pricing))
    assert all(it.remedy for it in pricing.problems)
    assert pricing.missing == max(0, (pricing.gpu_count or 0) - len(readings))


# --- MIG ----------------------------------------------------------------------------------------

GIB = 1 << 30


def instance(slices: int, gi: int = 1, ci: int = 0, gib: float | None = None) -> MigInstance:
    memory = None if gib is None else int(gib * GIB)
    return MigInstance(gi, ci, f"{slices}g", slices, memory)


@pytest.mark.parametrize(
    ("model", "slices", "share"),
    [
        (H100, 1, 1 / 7),
        ("NVIDIA A100-SXM4-40GB", 3, 3 / 7),
        (H100, 7, 1.0),
        ("NVIDIA A30", 1, 1 / 4),
        ("NVIDIA-A30-SHARED", 2, 2 / 4),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 4, 1.0),
        ("NVIDIA RTX PRO 4500 Blackwell", 1, 1 / 2),
        ("A model of tomorrow", 1, 1 / 7),
    ],
)
def test_a_mig_instance_is_its_compute_slices_of_its_gpus(
    model: str, slices: int, share: float
) -> None:
    assert mig_share(Device("g", model), instance(slices), "compute") == share


def test_what_the_driver_says_of_slices_goes_before_the_table() -> None:
    assert mig_share(Device("g", H100, mig_slices=4), instance(1), "compute") == 0.25


def test_by_memory_an_instance_is_its_memory_of_the_gpus() -> None:
    device = Device("g", H100, memory_bytes=80 * GIB)
    assert mig_share(device, instance(1, gib=20), "memory") == 0.25


@pytest.mark.parametrize(("whole", "gib"), [(None, 20), (80 * GIB, None), (None, None)])
def test_by_memory_where_a_size_is_unknown_is_by_compute(
    whole: int | None, gib: float | None
) -> None:
    device = Device("g", H100, memory_bytes=whole)
    assert mig_share(device, instance(1, gib=gib), "memory") == 1 / 7


def test_compute_instances_of_one_gpu_instance_share_its_memory() -> None:
    """Each of them reports the memory of the whole GPU instance."""
    parts = (instance(1, 1, 0, 40), instance(2, 1, 1, 40), instance(4, 2, 0, 40))
    device = Device("g", H100, memory_bytes=80 * GIB, mig=parts)
    shares = [mig_share(device, it, "memory") for it in parts]
    assert shares == pytest.approx([0.5 / 3, 1.0 / 3, 0.5])


_PROFILES = {1: (1, 10.0), 2: (2, 20.0), 3: (3, 40.0), 4: (4, 40.0), 7: (7, 80.0)}


@given(
    st.lists(st.sampled_from(sorted(_PROFILES)), max_size=7), st.sampled_from(["compute", "memory"])
)
def test_the_instances_of_a_legal_partition_are_at_most_the_gpu(
    sizes: list[int], split: Literal["compute", "memory"]
) -> None:
    parts: list[MigInstance] = []
    compute, memory = 0, 0.0
    for gi, size in enumerate(sizes):
        slices, gib = _PROFILES[size]
        if compute + slices > 7 or memory + gib > 80:
            continue
        compute, memory = compute + slices, memory + gib
        parts.append(instance(slices, gi, 0, gib))
    device = Device("g", H100, memory_bytes=80 * GIB, mig=tuple(parts))
    shares = [mig_share(device, it, split) for it in parts]
    assert all(0 < it <= 1 for it in shares)
    assert math.fsum(shares) <= 1 + 1e-9
