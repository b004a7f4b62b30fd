"""A price list renewed from real HTTP servers that speak the price APIs' shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from gpucost.prices import shipped
from gpucost.pricing.places import spread
from gpucost.pricing.price_list import PriceList, parse, render
from gpucost.refresh import Asked, Journal, RefusedError, merged, read
from gpucost.sources.base import SourceError
from gpucost.sources.price_apis.stream import Bounds
from price_apis import (
    AWS_COLUMNS,
    Body,
    PriceApis,
    aws_head,
    aws_row,
    azure_item,
    gcp_sku,
    oci_product,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

QUICK = Bounds(first_wait_seconds=0.01)
NOW = "2026-11-22T12:00:00Z"

BASE = """\
gpucost price list 1
generated_at 2026-07-20
source old 2026-07-20 somewhere
aws g4dn.xlarge T4 1 4 16 old
 on_demand 0.5 old us-east-1 us-west-2
 spot 0.2 old us-east-1
azure Standard_NC24ads_A100_v4 A100-80GB-PCIE 1 24 220 old
 on_demand 3.673 old eastus westeurope
gcp accelerator:nvidia-tesla-t4 T4 1 ? ? old
 on_demand 0.35 old us-central1
gcp g2-standard-4 L4 1 4 16 old
 on_demand 0.7 old us-central1
oci BM.GPU.H100.8 H100-80GB 8 112 2048 old
 on_demand 80 old *
oci BM.GPU.H200.8 H200-141GB 8 112 3072 old
 on_demand 80 old *
end 6
"""


@pytest.fixture
def apis() -> Iterator[PriceApis]:
    with PriceApis() as server:
        yield server


@pytest.fixture
def base() -> PriceList:
    return parse(BASE.splitlines())


class Refresh:
    """Runs refreshes of one list with one journal."""

    def __init__(self, apis: PriceApis, base: PriceList, folder: Path) -> None:
        self.apis, self.base = apis, base
        self.journal = folder / ".list.journal"
        self.told: list[str] = []

    def __call__(self, provider: str, bounds: Bounds = QUICK, **fields: Any) -> PriceList:  # noqa: ANN401 - whatever Asked takes
        names = ("aws", "azure", "gcp", "gcp-billing", "oci")
        addresses = tuple((name, self.apis.address) for name in names)
        asked = Asked(provider, addresses=addresses, **fields)
        journal = Journal(self.journal, asked)
        units = read(self.base, asked, journal, self.told.append, bounds)
        new = merged(self.base, asked, units, NOW)
        journal.close()
        assert parse(render(new)) == parse(render(parse(render(new))))
        return new


@pytest.fixture
def refresh(apis: PriceApis, base: PriceList, tmp_path: Path) -> Refresh:
    return Refresh(apis, base, tmp_path)


def prices(listed: PriceList, name: str) -> dict[tuple[str, str], float]:
    (it,) = (it for it in listed.types if it.name == name)
    return {key: usd for key, (usd, _) in spread(it.prices).items()}


# --- AWS ----------------------------------------------------------------------------------------


def test_of_aws_s_file_only_what_people_pay_by_the_hour_on_linux_counts(
    apis: PriceApis, refresh: Refresh
) -> None:
    others = (
        {"TermType": "Reserved"},
        {"Tenancy": "Dedicated"},
        {"Tenancy": "Host"},
        {"Operating_System": "Windows"},
        {"Operating_System": "RHEL"},
        {"CapacityStatus": "AllocatedCapacityReservation"},
        {"CapacityStatus": "UnusedCapacityReservation"},
        {"MarketOption": "CapacityBlock"},
        {"Pre_Installed_S_W": "SQL Web"},
        {"Unit": "Quantity"},
        {"Currency": "CNY"},
        {"Product_Family": "Dedicated Host"},
        {"PricePerUnit": "0.0000000000"},
    )
    rows = [aws_row(PricePerUnit="99.9", **it) if "PricePerUnit" not in it else aws_row(**it)
            for it in others]  # fmt: skip
    apis.aws(us_east_1=Body(aws_head(), *rows, aws_row(PricePerUnit="0.5260000000")))
    new = refresh("aws", regions=("us-east-1",))
    assert prices(new, "g4dn.xlarge") == {
        ("on_demand", "us-east-1"): 0.526,
        ("on_demand", "us-west-2"): 0.5,
        ("spot", "us-east-1"): 0.2,
    }
    (it,) = (it for it in new.types if it.name == "g4dn.xlarge")
    days = {price.usd_per_hour: new.sources[price.source].day for price in it.prices}
    assert days == {0.526: "2026-11-20", 0.5: "2026-07-20", 0.2: "2026-07-20"}
    assert new.generated_at == NOW


def test_a_new_type_with_gpus_is_taken_and_another_maker_s_is_not(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.aws(
        us_east_1=Body(
            aws_head(),
            aws_row(),
            aws_row(Instance_Type="m5.large", GPU="NA"),
            aws_row(Instance_Type="g4ad.xlarge"),
            aws_row(
                Instance_Type="g9.metal",
                GPU="8",
                vCPU="192",
                Memory="2,048 GiB",
                PricePerUnit="20",
                Product_Family="Compute Instance (bare metal)",
                Region_Code="us-east-1-atl-1",
            ),
        )
    )
    new = refresh("aws", regions=("us-east-1",))
    assert {it.name for it in new.types if it.provider == "aws"} == {"g4dn.xlarge", "g9.metal"}
    (it,) = (it for it in new.types if it.name == "g9.metal")
    assert (it.gpu_model, it.gpu_count, it.vcpus, it.memory_gib) == ("", 8, 192, 2048)
    assert prices(new, "g9.metal") == {("on_demand", "us-east-1-atl-1"): 20.0}


def test_two_prices_of_one_machine_are_no_price(apis: PriceApis, refresh: Refresh) -> None:
    rows = (aws_row(), aws_row(PricePerUnit="0.6"))
    west = aws_row(Region_Code="us-west-2")
    apis.aws(us_east_1=Body(aws_head(), *rows, west))
    assert prices(refresh("aws"), "g4dn.xlarge")["on_demand", "us-east-1"] == 0.5


def test_a_stream_that_breaks_goes_on_at_the_byte_it_stopped_at(
    apis: PriceApis, refresh: Refresh
) -> None:
    filler = aws_row(TermType="Reserved") * 1000
    body = Body(aws_head(), (filler, 8), aws_row(), aws_row(Region_Code="us-west-2"))
    apis.aws(us_east_1=body)
    apis.break_after = [10_000_000, 1_500_000, 700_001, 13]  # the first is the index's
    new = refresh("aws")
    assert prices(new, "g4dn.xlarge")["on_demand", "us-east-1"] == 0.526
    spans = [headers.get("Range") for path, _, headers in apis.asked if path.endswith("csv")]
    assert spans == [None, "bytes=1500000-", "bytes=2200001-", "bytes=2200014-"]


def test_a_file_that_changed_meanwhile_is_never_put_together_of_two(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.aws(us_east_1=Body(aws_head(), aws_row(), aws_row(Region_Code="us-west-2")))
    apis.break_after = [10_000_000, 700]
    apis.etags = iter(['"index"', '"v1"', '"v2"', '"index"', '"v2"'])
    with pytest.raises(SourceError, match="it changed") as caught:
        refresh("aws")
    assert caught.value.kind == "changed"
    assert prices(refresh("aws"), "g4dn.xlarge")["on_demand", "us-west-2"] == 0.526


def test_what_was_read_before_a_failure_is_not_read_again(
    apis: PriceApis, refresh: Refresh
) -> None:
    east = Body(aws_head(), aws_row())
    west = Body(aws_head(), aws_row(Region_Code="us-west-2", PricePerUnit="0.55"))
    apis.aws(us_east_1=east, us_west_2=west)
    # Two for the index and the first region, then the second breaks for good.
    apis.break_after = [10_000_000, 10_000_000, *[0] * QUICK.tries]
    with pytest.raises(SourceError, match="6 times in a row"):
        refresh("aws")
    assert refresh.journal.exists()
    with refresh.journal.open("ab") as file:
        file.write(b'{"name":"us-west-2","day":"2026-11-2')  # and it was killed while writing
    new = refresh("aws")
    assert len(apis.paths("us-east-1/index.csv")) == 1
    assert prices(new, "g4dn.xlarge")["on_demand", "us-east-1"] == 0.526
    assert prices(new, "g4dn.xlarge")["on_demand", "us-west-2"] == 0.55
    assert "aws us-east-1: 1 prices, read before" in refresh.told
    assert not refresh.journal.exists()


def test_another_refresh_begins_anew(apis: PriceApis, refresh: Refresh) -> None:
    apis.aws(us_east_1=Body(aws_head(), aws_row()), us_west_2=Body(b"<html>"))
    with pytest.raises(SourceError):
        refresh("aws")
    refresh("aws", regions=("us-east-1",))
    assert len(apis.paths("us-east-1/index.csv")) == 2


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (Body(b"<html>\n" * 30), "no header in its first lines"),
        (Body(aws_head(AWS_COLUMNS[:-3])), "no column `Region Code`"),
        (Body(aws_head(day="soon"), aws_row()), "no publication date"),
        (Body(aws_head(), aws_row()[:-40] + b"\n"), "a row of"),
        (Body(aws_head(), b"x" * (3 << 20)), "a line without end"),
    ],
)
def test_a_file_of_another_format_is_refused(
    apis: PriceApis, refresh: Refresh, body: Body, what: str
) -> None:
    apis.aws(us_east_1=body)
    with pytest.raises(SourceError, match=what) as caught:
        refresh("aws")
    assert caught.value.kind == "malformed"


def test_a_stream_larger_than_its_bound_is_refused(apis: PriceApis, refresh: Refresh) -> None:
    apis.aws(us_east_1=Body(aws_head(), (aws_row(TermType="Reserved"), 10_000)))
    with pytest.raises(SourceError, match="more than 1000000 bytes") as caught:
        refresh("aws", Bounds(max_stream_bytes=1_000_000))
    assert caught.value.kind == "too_large"


def test_a_region_that_is_not_there_is_named(apis: PriceApis, refresh: Refresh) -> None:
    apis.aws(us_east_1=Body(aws_head(), aws_row()))
    with pytest.raises(SourceError, match="no region us-moon-1"):
        refresh("aws", regions=("us-moon-1",))


def test_spot_prices_are_each_zone_s_latest(refresh: Refresh) -> None:
    def spot(zone: str, usd: str, at: str, **changes: str) -> dict[str, str]:
        return {
            "AvailabilityZone": zone,
            "InstanceType": "g4dn.xlarge",
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": usd,
            "Timestamp": at,
            **changes,
        }

    history = [
        spot("us-east-1a", "0.210000", "2026-11-21T10:00:00+00:00"),
        spot("us-east-1a", "0.220000", "2026-11-22T10:00:00+00:00"),
        spot("us-east-1b", "0.250000", "2026-11-22T09:00:00+00:00"),
        spot("us-east-1b", "0.900000", "2026-11-22T11:00:00+00:00", ProductDescription="Windows"),
        spot("us-east-1a", "0.010000", "2026-11-22T11:00:00+00:00", InstanceType="t3.micro"),
    ]
    text = json.dumps({"SpotPriceHistory": history}).encode()
    new = refresh("aws", spot_history=text)
    assert prices(new, "g4dn.xlarge") == {
        ("on_demand", "us-east-1"): 0.5,
        ("on_demand", "us-west-2"): 0.5,
        ("spot", "us-east-1"): 0.2,
        ("spot", "us-east-1a"): 0.22,
        ("spot", "us-east-1b"): 0.25,
    }
    with pytest.raises(SourceError, match="not a history of spot prices"):
        refresh("aws", spot_history=b"[]")


# --- Azure --------------------------------------------------------------------------------------


def test_of_azure_s_meters_only_the_linux_machine_and_its_spot_price_count(
    apis: PriceApis, refresh: Refresh
) -> None:
    name = "NC24ads A100 v4"
    apis.azure = [
        azure_item(productName="Virtual Machines NCads A100 v4 Series Windows", retailPrice=9.0),
        azure_item(productName="NCads A100 v4 Series Cloud Services", retailPrice=9.1),
        azure_item(productName="Virtual Machines NCads Dedicated Host", retailPrice=9.2),
        azure_item(meterName=f"{name} Low Priority", retailPrice=0.7),
        azure_item(skuName=f"{name} Low Priority", retailPrice=0.8),
        azure_item(unitOfMeasure="1 Month", retailPrice=2000.0),
        azure_item(type="Reservation", retailPrice=9.3),
        azure_item(isPrimaryMeterRegion=False, retailPrice=9.4),
        azure_item(armSkuName="Standard_D2s_v5", retailPrice=0.1),
        azure_item(armSkuName=""),
        azure_item(retailPrice=0.0),
        azure_item(skuName=f"{name} Spot", meterName=f"{name} Spot", retailPrice=1.2),
        azure_item(),
        # As Azure calls this product, its SKU and its meter since 2024.
        azure_item(
            armRegionName="westeurope",
            productName="NCads A100 v4 Series Linux",
            skuName="Standard_NC24ads_A100_v4",
            meterName="NC24ads_A100_v4",
            retailPrice=4.1,
        ),
        azure_item(
            armRegionName="westeurope",
            productName="NCads A100 v4 Series Windows",
            skuName="Standard_NC24ads_A100_v4",
            meterName="NC24ads_A100_v4",
            retailPrice=8.2,
        ),
    ]
    new = refresh("azure")
    assert prices(new, "Standard_NC24ads_A100_v4") == {
        ("on_demand", "eastus"): 3.9,
        ("spot", "eastus"): 1.2,
        ("on_demand", "westeurope"): 4.1,
    }
    assert len(apis.paths("/api/retail/prices")) == 7 + 1
    query = apis.asked[0][1]
    assert query["$filter"].endswith("armRegionName eq 'eastus'")
    assert query["api-version"] == "2023-01-01-preview"


def test_throttling_is_waited_out_and_said(apis: PriceApis, refresh: Refresh) -> None:
    apis.azure = [azure_item(), azure_item(armRegionName="westeurope")]
    apis.refusals = [429, 503, 429]
    assert prices(refresh("azure"), "Standard_NC24ads_A100_v4")["on_demand", "eastus"] == 3.9
    assert sum("HTTP 429; again in" in text for text in refresh.told) == 2


def test_throttling_without_end_ends_and_says_how_to_go_on(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.refusals = [429] * 50
    with pytest.raises(SourceError, match="HTTP 429, 6 times in a row") as caught:
        refresh("azure")
    assert "goes on where it stopped" in caught.value.remedy


def test_a_wait_that_the_whole_has_no_time_for_is_not_begun(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.refusals, apis.retry_after = [429], "100"
    with pytest.raises(SourceError, match="not done within 5 s in all"):
        refresh("azure", Bounds(whole_seconds=5.0))


def test_a_next_page_elsewhere_is_not_followed(apis: PriceApis, refresh: Refresh) -> None:
    apis.azure = [azure_item()] * 3
    apis.azure_next = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(SourceError, match="next page is on another server"):
        refresh("azure")


def test_changed_fields_are_said(apis: PriceApis, refresh: Refresh) -> None:
    item = azure_item()
    item["retail_price"] = item.pop("retailPrice")
    apis.azure = [item]
    with pytest.raises(SourceError, match="missing required field `retailPrice`"):
        refresh("azure")


# --- Google Cloud -------------------------------------------------------------------------------

MACHINES = b"""\
name,family,vCpus,memoryGB,region,regionLocation,hour,hourSpot,month
g2-standard-4,G2,4,16,us-central1,Iowa,0.71,0.42,518
g2-standard-4,G2,4,16,europe-west4,Eemshaven,0.78,,570
n2-standard-4,N2,4,16,us-central1,Iowa,0.19,0.06,141
"""


def test_google_s_machines_come_with_their_spot_price_and_its_attached_gpus_by_pages(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.bodies["/machine-types-regions.csv"] = Body(MACHINES)
    apis.skus = [
        gcp_sku("Nvidia Tesla T4 GPU running in Americas", "OnDemand", 360_000_000),
        gcp_sku(
            "Nvidia Tesla T4 GPU attached to Spot Preemptible VMs running in Americas",
            "Preemptible",
            140_000_000,
        ),
        gcp_sku("Commitment v1: Nvidia Tesla T4 GPU running in Americas", "Commit1Yr", 9),
        gcp_sku("Nvidia Tesla T4 Vws GPU running in Americas", "OnDemand", 550_000_000),
        gcp_sku("Nvidia L4 GPU running in Americas", "OnDemand", 560_000_000),
        gcp_sku("N1 Predefined Instance Core running in Americas", "OnDemand", 31_611_000),
    ]
    new = refresh("gcp", api_key="the-key")
    assert prices(new, "g2-standard-4") == {
        ("on_demand", "us-central1"): 0.71,
        ("spot", "us-central1"): 0.42,
        ("on_demand", "europe-west4"): 0.78,
    }
    assert prices(new, "accelerator:nvidia-tesla-t4") == {
        ("on_demand", "us-central1"): 0.36,
        ("on_demand", "us-east1"): 0.36,
        ("spot", "us-central1"): 0.14,
        ("spot", "us-east1"): 0.14,
    }
    assert len(apis.paths("/skus")) == 3


def test_without_a_key_the_attached_gpus_stay_as_they_were(
    apis: PriceApis, refresh: Refresh
) -> None:
    apis.bodies["/machine-types-regions.csv"] = Body(MACHINES)
    new = refresh("gcp")
    assert prices(new, "accelerator:nvidia-tesla-t4") == {("on_demand", "us-central1"): 0.35}
    assert not apis.paths("/skus")


def test_a_key_that_is_refused_is_not_said(apis: PriceApis, refresh: Refresh) -> None:
    apis.bodies["/machine-types-regions.csv"] = Body(MACHINES)
    with pytest.raises(SourceError, match="HTTP 403") as caught:
        refresh("gcp", api_key="a-secret")
    assert "a-secret" not in f"{caught.value} {caught.value.remedy} {refresh.told}"


# --- Oracle -------------------------------------------------------------------------------------


def test_an_oracle_shape_costs_its_gpus_times_their_part(apis: PriceApis, refresh: Refresh) -> None:
    items = [
        oci_product("B98415", 9.5),
        oci_product("B88317", 0.06, "OCPU Per Hour"),
        oci_product("B95909", 2.0),
        oci_product("B110519", 9.0),
    ]
    apis.bodies["/pls/apex/cetools/api/v1/products"] = Body(json.dumps({"items": items}).encode())
    new = refresh("oci")
    assert prices(new, "BM.GPU.H100.8") == {("on_demand", "*"): 76.0}
    assert prices(new, "BM.GPU.H200.8") == {("on_demand", "*"): 72.0}


def test_an_oracle_shape_whose_part_is_not_listed_keeps_its_price(
    apis: PriceApis, refresh: Refresh
) -> None:
    items = [oci_product("B98415", 9.5)]
    apis.bodies["/pls/apex/cetools/api/v1/products"] = Body(json.dumps({"items": items}).encode())
    assert prices(refresh("oci"), "BM.GPU.H200.8") == {("on_demand", "*"): 80.0}


# --- What is not believed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([aws_row(PricePerUnit="5.26")], "was 0.5 USD/h and is 5.26"),
        ([aws_row(PricePerUnit="0.05")], "was 0.5 USD/h and is 0.05"),
        ([aws_row(Instance_Type="g5.xlarge")], "of 2 on-demand prices .* only 0 were found"),
        ([aws_row(Tenancy="Dedicated")], "not one price was found"),
        ([], "not one price was found"),
    ],
)
def test_a_refresh_that_looks_wrong_is_refused_with_the_reason(
    apis: PriceApis, refresh: Refresh, rows: list[bytes], why: str
) -> None:
    apis.aws(us_east_1=Body(aws_head(), *rows))
    with pytest.raises(RefusedError, match=why):
        refresh("aws")


def test_prices_that_stand_out_can_be_left_as_they_were(apis: PriceApis, base: PriceList) -> None:
    units = read_units(apis, base)
    with pytest.raises(RefusedError):
        merged(base, Asked("aws"), units, NOW)
    new = merged(base, Asked("aws"), units, NOW, drop_outliers=True)
    quoted = prices(new, "g4dn.xlarge")
    assert quoted["on_demand", "us-east-1"] == 0.5
    assert quoted["on_demand", "us-west-2"] == 0.6


def read_units(apis: PriceApis, base: PriceList) -> Any:  # noqa: ANN401 - Units
    from pathlib import Path  # noqa: PLC0415
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    west = aws_row(Region_Code="us-west-2", PricePerUnit="0.6")
    apis.aws(us_east_1=Body(aws_head(), aws_row(PricePerUnit="52.6"), west))
    asked = Asked("aws", addresses=(("aws", apis.address),))
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", asked)
        return list(read(base, asked, journal, lambda _: None, QUICK))


# --- The command --------------------------------------------------------------------------------


def gpucost(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpucost", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_command_writes_a_list_that_the_exporter_can_use_and_diff_says_what_changed(
    apis: PriceApis, tmp_path: Path
) -> None:
    apis.azure = [azure_item(retailPrice=3.7)]
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text(BASE)
    arguments = ("--base", str(old), "--output", str(new), "--region", "eastus")
    address = ("--address", f"azure={apis.address}")
    done = gpucost("prices", "refresh", "--provider", "azure", *arguments, *address)
    assert done.returncode == 0, done.stderr
    assert "1 on_demand prices read, 1 changed" in done.stderr
    assert {it.name for it in tmp_path.iterdir()} == {"old.txt", "new.txt"}
    diff = gpucost("prices", "diff", str(old), str(new))
    assert diff.returncode == 1
    assert diff.stdout == (
        "~ azure Standard_NC24ads_A100_v4 on_demand eastus 3.673 -> 3.7 (+0.7 %)\n"
    )
    assert gpucost("prices", "diff", str(new), str(new)).returncode == 0
    assert gpucost("prices", "check", "--catalogue", str(new)).returncode == 0
    shown = gpucost("prices", "list", "--catalogue", str(new), "--provider", "azure")
    assert "3.7000 azure-api-" in shown.stdout


def test_a_refused_refresh_leaves_the_list_as_it_was(apis: PriceApis, tmp_path: Path) -> None:
    apis.azure = [azure_item(retailPrice=37.0)]
    file = tmp_path / "list.txt"
    file.write_text(BASE)
    arguments = ("--output", str(file), "--address", f"azure={apis.address}")
    done = gpucost("prices", "refresh", "--provider", "azure", *arguments)
    assert done.returncode == 1
    assert "refused, nothing was changed: azure: Standard_NC24ads_A100_v4 in eastus" in done.stderr
    assert file.read_text() == BASE


def test_a_config_map_is_renewed_and_a_provider_that_fails_keeps_its_prices(
    apis: PriceApis, tmp_path: Path
) -> None:
    apis.azure = [azure_item(retailPrice=3.7), azure_item(armRegionName="westeurope")]
    apis.aws(us_east_1=Body(b"<html>\n" * 30))
    with ConfigMapServer({"prices.txt": BASE}) as server:
        kubeconfig = server.kubeconfig(tmp_path)
        arguments = ("--provider", "aws", "--provider", "azure", "--configmap", "metering/prices")
        addresses = [f"--address={name}={apis.address}" for name in ("aws", "azure")]
        done = gpucost("prices", "refresh", *arguments, *addresses, KUBECONFIG=kubeconfig)
        assert done.returncode == 1
        assert "gpucost: aws:" in done.stderr
        new = parse(server.data["prices.txt"].splitlines())
        assert prices(new, "Standard_NC24ads_A100_v4")["on_demand", "eastus"] == 3.7
        assert prices(new, "g4dn.xlarge")["on_demand", "us-east-1"] == 0.5
        server.refuse = 403
        done = gpucost("prices", "refresh", *arguments, *addresses, KUBECONFIG=kubeconfig)
        assert done.returncode == 1
        assert "answered 403" in done.stderr


class ConfigMapServer:
    """An API server with one ConfigMap. Used under `with`."""

    def __init__(self, data: dict[str, str]) -> None:
        self.data = data
        self.refuse = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path.startswith("/api/v1/namespaces/metering/configmaps/prices")
                self.answer({"kind": "ConfigMap", "data": outer.data})

            def do_PATCH(self) -> None:
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.data |= sent["data"]
                self.answer({"kind": "ConfigMap"})

            def answer(self, found: object) -> None:
                body = json.dumps(found).encode()
                self.send_response(outer.refuse or 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def kubeconfig(self, folder: Path) -> str:
        """A kubeconfig that names it."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        file = folder / "kubeconfig"
        file.write_text(json.dumps(config))
        return str(file)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_what_serves_does_not_import_what_refreshes() -> None:
    code = (
        "import sys, gpucost.cli; gpucost.cli._parser(['serve']).parse_args(['serve']);"
        "print([m for m in sys.modules if 'price_apis' in m or m in"
        " ('gpucost.refresh', 'gpucost.prices_commands', 'gpucost.pricing.compare')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# The most that this very program held. getrusage() would count what its parent held at the fork
# (getrusage(2): ru_maxrss is kept over an execve).
MEASURED = """
import sys
from pathlib import Path
from gpucost.cli import main
status = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(status)
"""


def run_measured(*arguments: str) -> tuple[int, float]:
    """The exit status, and the most memory that the process held in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, int(done.stdout.split()[-1]) / 1024


def stream_measured(apis: PriceApis, folder: Path, size: int) -> float:
    """Refresh from a file of so many bytes; the most memory that it took, in MiB."""
    filler = aws_row(TermType="Reserved") * 900 + aws_row(Instance_Type="m5.large", GPU="NA") * 100
    last = aws_row(PricePerUnit="0.55")
    body = Body(aws_head(), (filler, size // len(filler) + 1), last)
    assert body.size >= size
    apis.aws(us_east_1=body)
    base, new = folder / "base.txt", folder / "new.txt"
    base.write_text(BASE)
    arguments = ("--base", str(base), "--output", str(new), "--region", "us-east-1")
    status, mebibytes = run_measured(
        *("prices", "refresh", "--provider", "aws", *arguments),
        *("--address", f"aws={apis.address}"),
    )
    assert status == 0
    assert prices(parse(new.read_text().splitlines()), "g4dn.xlarge")["on_demand", "us-east-1"] == (
        0.55
    )
    return mebibytes


def test_a_stream_of_any_length_takes_the_same_memory(apis: PriceApis, tmp_path: Path) -> None:
    assert stream_measured(apis, tmp_path, 100_000_000) < 100


@pytest.mark.slow
def test_two_gigabytes_take_less_than_100_mebibytes(apis: PriceApis, tmp_path: Path) -> None:
    assert stream_measured(apis, tmp_path, 2_000_000_000) < 100


def test_the_shipped_list_can_be_renewed_as_it_is(apis: PriceApis, tmp_path: Path) -> None:
    """What the APIs do not say stays: renewing Oracle's changes Oracle's alone."""
    with shipped() as lines:
        whole = parse(lines)
    items = [oci_product("B98415", 9.5), oci_product("B95909", 2.0), oci_product("B89734", 2.95),
             oci_product("B95907", 4.0), oci_product("B92740", 3.05)]  # fmt: skip
    apis.bodies["/pls/apex/cetools/api/v1/products"] = Body(json.dumps({"items": items}).encode())
    new = Refresh(apis, whole, tmp_path)("oci")
    changed = {
        new_it.name
        for old_it, new_it in zip(whole.types, new.types, strict=True)
        if spread(old_it.prices).keys() != spread(new_it.prices).keys()
        or any(
            spread(old_it.prices)[key][0] != usd for key, (usd, _) in spread(new_it.prices).items()
        )
    }
    assert changed == {"BM.GPU.H100.8"}
