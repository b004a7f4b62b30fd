"""The price list in force: the shipped one is sound, and a node finds its price in it."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.config import Prices
from gpucost.model import Device, GpuReading, Node
from gpucost.prices import (
    MAX_LIST_BYTES,
    Asked,
    CatalogueFile,
    asked_of,
    load_catalogue,
    load_models,
    shipped,
)
from gpucost.pricing import price_gpus
from gpucost.pricing.mig import mig_slices
from gpucost.pricing.names import index, is_model, plain
from gpucost.pricing.places import spread
from gpucost.pricing.price_list import day_of, parse

if TYPE_CHECKING:
    from pathlib import Path

    from gpucost.model import Price

with shipped() as lines:
    LISTED = parse(lines)
NAMES = index(load_models())


def test_the_shipped_list_has_every_provider_and_thousands_of_prices() -> None:
    providers = "aws azure coreweave gcp hyperstack jarvislabs lambda nebius oci runpod verda"
    assert {it.provider for it in LISTED.types} == set(providers.split())
    assert sum(len(spread(it.prices)) for it in LISTED.types) > 3600
    assert len(LISTED.types) > 330


def test_every_model_of_the_list_is_known_by_name_and_every_source_has_a_day() -> None:
    for it in LISTED.types:
        assert not it.gpu_model or plain(it.gpu_model) in NAMES, it
    for source in LISTED.sources.values():
        assert day_of(source.day) is not None
        assert source.origin


def test_no_name_is_of_two_providers() -> None:
    """A node whose provider is not known is priced by its type alone."""
    owners: dict[str, set[str]] = defaultdict(set)
    for it in LISTED.types:
        owners[it.name.casefold()].add(it.provider)
    assert not {name: told for name, told in owners.items() if len(told) > 1}


def test_no_price_of_a_gpu_is_far_from_the_median_of_its_model() -> None:
    """Ten times off is a price of eight GPUs taken for one, or a slipped point."""
    by_model: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for it in LISTED.types:
        for (capacity, _), (usd, _) in spread(it.prices).items():
            if it.gpu_count and it.gpu_model and it.provider != "verda":
                by_model[it.gpu_model, capacity].append((usd / it.gpu_count, it.name))
    for told, figures in by_model.items():
        middle = median(usd for usd, _ in figures)
        assert max(figures)[0] / middle < 8, (told, max(figures))
        assert middle / min(figures)[0] < 8, (told, min(figures))


def test_spot_never_costs_more_than_on_demand() -> None:
    for it in LISTED.types:
        quoted = spread(it.prices)
        for (capacity, place), (usd, _) in quoted.items():
            if capacity == "spot" and ("on_demand", place) in quoted:
                assert usd <= 1.0001 * quoted["on_demand", place][0], (it.name, place)


# --- A node's price -----------------------------------------------------------------------------


H100 = "NVIDIA H100 80GB HBM3"


def gpus(count: int, model: str = H100) -> list[GpuReading]:
    return [GpuReading(Device(f"GPU-{n}", model)) for n in range(count)]


def price_of(node: Node, count: int = 1, prices: Prices | None = None, model: str = H100) -> Price:
    catalogue = load_catalogue(asked_of(node))
    pricing = price_gpus(gpus(count, model), node, prices or Prices(), catalogue)
    (found,) = set(pricing.by_gpu.values())
    return found


def aws(name: str, region: str, zone: str = "", capacity_type: str = "on_demand") -> Node:
    return Node("n", name, region, zone, capacity_type=capacity_type, provider="aws")


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
def test_list_prices_are_found_by_type_and_region_in_any_case(
    instance_type: str, region: str, usd: float, count: int
) -> None:
    found = price_of(Node("n", instance_type, region, capacity_type="on_demand"), count)
    assert found.usd_per_hour == pytest.approx(usd / count, rel=1e-6)
    assert not found.estimated


def test_where_a_node_is_does_not_matter_to_a_type_that_costs_the_same_everywhere() -> None:
    found = price_of(Node("n", "gpu_8x_h100_sxm5", capacity_type="on_demand"), 8)
    assert found.usd_per_hour == pytest.approx(31.92 / 8)
    assert found.detail.startswith("gpu_8x_h100_sxm5 on_demand 31.92 USD/h")
    assert not found.estimated
    assert price_of(aws("p5.48xlarge", ""), 8).usd_per_hour is None
    assert price_of(Node("n", "gpu_8x_h100_sxm5", "mars-1"), 8).usd_per_hour is None


def test_a_local_zone_has_its_own_price_and_never_that_of_its_region() -> None:
    assert price_of(aws("g4dn.2xlarge", "us-west-2", "us-west-2a")).usd_per_hour == 0.752
    assert price_of(aws("g4dn.2xlarge", "us-west-2", "us-west-2-lax-1a")).usd_per_hour == 0.902
    wave = aws("g4dn.2xlarge", "us-east-1", "us-east-1-wl1-atl-wlz-1")
    assert price_of(wave).usd_per_hour == 1.317
    boston = aws("g4dn.2xlarge", "us-east-1", "us-east-1-wl1-bos-wlz-1")
    assert price_of(boston).usd_per_hour == 1.317
    absent = price_of(aws("p5.48xlarge", "us-west-2", "us-west-2-lax-1a"), 8)
    assert absent.usd_per_hour is None
    assert "in us-west-2-lax-1 as on_demand" in absent.detail


def test_a_zone_of_another_cloud_is_no_local_zone() -> None:
    node = Node("n", "g2-standard-4", "us-central1", "us-central1-a", provider="gcp")
    assert price_of(node).usd_per_hour == pytest.approx(0.706832, rel=1e-5)


def test_gpus_attached_to_a_host_cost_the_host_and_the_gpus() -> None:
    """n1-standard-8 in us-central1 0.379998, a T4 there 0.35."""
    labels = {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-t4",
        "cloud.google.com/gke-accelerator-count": "2",
    }
    node = Node(
        "n",
        "n1-standard-8",
        "us-central1",
        capacity_type="on_demand",
        provider="gcp",
        labels=labels,
    )
    found = price_of(node, 2)
    assert found.usd_per_hour == pytest.approx((0.379998 + 2 * 0.35) / 2)
    assert found.split == "whole_node"
    assert "0.379998 USD/h + 2 x T4 0.35 USD/h" in found.detail
    one_off_the_bus = price_gpus(gpus(1), node, Prices(), load_catalogue(asked_of(node)))
    assert one_off_the_bus.missing == 1
    assert one_off_the_bus.by_gpu["GPU-0"].usd_per_hour == found.usd_per_hour


def test_gpus_on_a_host_without_a_list_price_cost_what_they_cost_alone_and_it_is_said() -> None:
    labels = {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-t4",
        "cloud.google.com/gke-accelerator-count": "1",
    }
    node = Node(
        "n",
        "n1-custom-8-32768",
        "southamerica-east1",
        capacity_type="spot",
        provider="gcp",
        labels=labels,
    )
    pricing = price_gpus(gpus(1), node, Prices(), load_catalogue(asked_of(node)))
    (found,) = pricing.by_gpu.values()
    assert (found.usd_per_hour, found.split) == (0.2394, "per_gpu")
    assert [it.kind for it in pricing.problems] == ["host_unpriced"]


def test_a_host_without_a_label_of_its_gpus_has_those_that_are_seen() -> None:
    node = Node("n", "n1-standard-8", "europe-west1", provider="gcp")
    assert price_of(node, model="Tesla T4").usd_per_hour == pytest.approx(0.418014 + 0.35)


@pytest.mark.parametrize(
    ("model", "accelerator"),
    [("NVIDIA A2", ""), ("", ""), ("Tesla T4", "nvidia-tesla-t4-vws")],
)
def test_a_host_s_price_is_never_that_of_its_unknown_gpu(model: str, accelerator: str) -> None:
    labels = {"cloud.google.com/gke-accelerator": accelerator}
    node = Node("n", "n1-standard-8", "europe-west1", provider="gcp", labels=labels)
    assert price_of(node, model=model).usd_per_hour is None


def test_a_price_of_a_table_without_regions_is_an_estimate_where_prices_differ_by_region() -> None:
    labels = {"cloud.google.com/gke-accelerator": "nvidia-tesla-p100"}
    node = Node("n", "n1-standard-16", "europe-west1", provider="gcp", labels=labels)
    found = price_of(node, model="Tesla P100-PCIE-16GB")
    assert found.usd_per_hour == pytest.approx(0.836028 + 1.46)
    assert found.estimated
    node = Node("n", "BM.GPU.H100.8", "uk-london-1", capacity_type="on_demand", provider="oci")
    assert not price_of(node, 8).estimated


def test_gpus_that_come_with_the_type_are_not_paid_twice() -> None:
    labels = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    node = Node("n", "g2-standard-4", "us-central1", provider="gcp", labels=labels)
    assert price_of(node).usd_per_hour == pytest.approx(0.706832, rel=1e-5)


@pytest.mark.parametrize(
    ("instance_type", "usd", "part"),
    [
        ("Standard_NV6ads_A10_v5", 0.454, 0.167),
        ("Standard_NV12ads_A10_v5", 0.908, 0.333),
        ("Standard_NV18ads_A10_v5", 1.6, 0.5),
    ],
)
def test_a_part_of_an_a10_takes_the_whole_node(instance_type: str, usd: float, part: float) -> None:
    node = Node("n", instance_type, "eastus", capacity_type="on_demand", provider="azure")
    found = price_of(node)
    assert found.usd_per_hour == usd
    assert f"1 GPU, {part} of a card" in found.detail


def test_a_type_whose_price_is_not_known_still_has_its_gpus() -> None:
    node = Node("n", "gd-8xh100ib-i128", "us-east-04", capacity_type="on_demand")
    catalogue = load_catalogue(asked_of(node))
    assert (catalogue.gpu_count, catalogue.gpu_model) == (8, "H100-80GB")
    pricing = price_gpus(gpus(7), node, Prices(), catalogue)
    assert (pricing.gpu_count, pricing.missing) == (8, 1)
    assert {it.usd_per_hour for it in pricing.by_gpu.values()} == {None}


@pytest.mark.parametrize("instance_type", ["", "m5.large", "p5"])
def test_a_type_that_is_not_listed_leaves_only_the_names_of_models(instance_type: str) -> None:
    catalogue = load_catalogue(Asked(instance_type))
    assert (catalogue.instance_type, catalogue.gpu_count, catalogue.rows) == ("", None, ())
    assert catalogue.names


# --- Capacity types -----------------------------------------------------------------------------


def test_spot_without_a_price_is_a_stated_part_of_on_demand_and_estimated() -> None:
    node = Node("n", "Standard_NC24ads_A100_v4", "eastus", capacity_type="spot")
    found = price_of(node)
    assert found.usd_per_hour == pytest.approx(0.4 * 3.673)
    assert found.estimated
    assert "spot taken as 40 % of on_demand" in found.detail
    assert price_of(node, prices=Prices(spot_ratio=0.25)).usd_per_hour == pytest.approx(0.91825)
    assert price_of(node, prices=Prices(spot_ratio=None)).usd_per_hour is None


def test_a_region_s_lowest_spot_price_is_an_estimate_and_a_zone_s_own_is_not(
    tmp_path: Path,
) -> None:
    """AWS has a spot price for each zone; the shipped figure is the lowest of a region's."""
    node = aws("g4dn.xlarge", "us-east-1", "us-east-1b", "spot")
    shipped_price = price_of(node)
    assert (shipped_price.usd_per_hour, shipped_price.estimated) == (0.2132, True)
    file = listed_in(tmp_path, " spot 0.3 mine us-east-1b\n spot 0.2 mine us-east-1\n")
    pricing = price_gpus(gpus(1), node, Prices(), CatalogueFile().catalogue(node, str(file)))
    assert pricing.by_gpu["GPU-0"].usd_per_hour == 0.3
    assert not pricing.by_gpu["GPU-0"].estimated


def test_a_reserved_node_is_priced_by_what_the_user_says_alone() -> None:
    node = aws("p5.48xlarge", "us-east-1", capacity_type="reserved")
    assert price_of(node, 8).usd_per_hour is None
    found = price_of(node, 8, Prices(reserved_ratio=0.5))
    assert (found.usd_per_hour, found.estimated) == (55.04 / 16, False)


def test_the_other_capacity_types_of_a_type_have_their_price_beside_it() -> None:
    node = Node("n", "a2-highgpu-1g", "us-central1", capacity_type="spot", provider="gcp")
    catalogue = load_catalogue(asked_of(node))
    pricing = price_gpus(gpus(1), node, Prices(reserved_ratio=0.5), catalogue)
    others = {it.capacity_type: it.usd_per_hour for it in pricing.alternatives["GPU-0"]}
    assert others == {
        "on_demand": pytest.approx(3.673385),
        "reserved": pytest.approx(3.673385 / 2),
    }


# --- A list of the user's -----------------------------------------------------------------------


def listed_in(folder: Path, prices: str, name: str = "list.txt") -> Path:
    file = folder / name
    file.write_text(
        "gpucost price list 1\ngenerated_at 2026-11-22\nsource mine 2026-11-20 me\n"
        f"aws g4dn.xlarge T4 1 4 16 mine\n{prices}end 1\n"
    )
    return file


def replaced(file: Path, text: str) -> None:
    """As a ConfigMap's file is: another one takes its place."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


def test_the_list_of_the_settings_is_followed_and_a_bad_one_leaves_the_last_good_one(
    tmp_path: Path,
) -> None:
    node = aws("g4dn.xlarge", "us-east-1")
    file = listed_in(tmp_path, " on_demand 0.5 mine us-east-1\n")
    followed = CatalogueFile()

    def usd() -> float:
        catalogue = followed.catalogue(node, str(file))
        (row,) = (it for it in catalogue.rows if it.capacity_type == "on_demand")
        return row.usd_per_hour

    assert usd() == 0.5
    text = file.read_text()
    replaced(file, text.replace("0.5", "0.75"))
    assert usd() == 0.75
    replaced(file, text[: text.index("end")])
    assert usd() == 0.75
    assert followed.problem is not None
    assert "cut off after line 5" in followed.problem.message
    assert followed.problem.remedy.startswith("The list before it stays in force.")
    file.unlink()
    assert usd() == 0.75
    listed_in(tmp_path, " on_demand 0.6 mine us-east-1\n")
    assert usd() == 0.6
    assert followed.problem is None


def test_a_list_that_never_could_be_used_leaves_the_shipped_one(tmp_path: Path) -> None:
    node = aws("g4dn.xlarge", "us-east-1")
    followed = CatalogueFile()
    for text in (b"", b"\xff", b"{}", b"gpucost price list 1\n"):
        file = tmp_path / "list.txt"
        file.write_bytes(text)
        assert followed.catalogue(node, str(file)) == load_catalogue(asked_of(node))
        assert followed.problem is not None
    os.truncate(file, MAX_LIST_BYTES + 1)
    followed.catalogue(node, str(file))
    assert followed.problem is not None
    assert f"larger than {MAX_LIST_BYTES} bytes" in followed.problem.message
    assert followed.catalogue(node, None) == load_catalogue(asked_of(node))
    assert followed.problem is None


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
        ("rtx-pro-server-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("X9000", "NVIDIA X9000 Ultra"),
        ("nvidia x9000 ultra", "NVIDIA-X9000-Ultra"),
    ],
)
def test_one_model_has_many_names(stated: str, actual: str) -> None:
    assert is_model(stated, actual, NAMES)


LABELLED = {
    # cloud.google.com/gke-accelerator
    "nvidia-tesla-t4": "Tesla T4",
    "nvidia-tesla-p4": "Tesla P4",
    "nvidia-tesla-p100": "Tesla P100-PCIE-16GB",
    "nvidia-tesla-v100": "Tesla V100-SXM2-16GB",
    "nvidia-tesla-a100": "NVIDIA A100-SXM4-40GB",
    "nvidia-a100-80gb": "NVIDIA A100-SXM4-80GB",
    "nvidia-l4": "NVIDIA L4",
    "nvidia-h100-80gb": "NVIDIA H100 80GB HBM3",
    "nvidia-h100-mega-80gb": "NVIDIA H100 80GB HBM3",
    "nvidia-h200-141gb": "NVIDIA H200",
    "nvidia-b200": "NVIDIA B200",
    "nvidia-gb200": "NVIDIA GB200",
    "nvidia-rtx-pro-6000": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    # karpenter.k8s.aws/instance-gpu-name
    "t4": "Tesla T4",
    "t4g": "NVIDIA T4G",
    "l4": "NVIDIA L4",
    "l40s": "NVIDIA L40S",
    "a10g": "NVIDIA A10G",
    "v100": "Tesla V100-SXM2-32GB",
    "a100": "NVIDIA A100-SXM4-40GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
    "b300": "NVIDIA B300 SXM6 AC",
    "rtx-pro-server-6000": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    # gpu.nvidia.com/class (CoreWeave), nebius.com/gpu-name
    "H100_NVLINK_80GB": "NVIDIA H100 80GB HBM3",
    "H100": "NVIDIA H100 80GB HBM3",
}


@pytest.mark.parametrize("label", LABELLED)
def test_a_model_may_be_stated_as_the_clouds_labels_have_it(label: str) -> None:
    assert is_model(label, LABELLED[label], NAMES)


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
