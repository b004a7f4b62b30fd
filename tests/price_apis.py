"""The clouds' price APIs, played: real HTTP with their shapes, paging, throttling and faults."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

Json = dict[str, Any]

# --- AWS: the shape of the EC2 offer file's CSV, fewer of its columns but in its order -----------

AWS_COLUMNS = (
    *("SKU", "OfferTermCode", "RateCode", "TermType", "PriceDescription", "EffectiveDate"),
    *("StartingRange", "EndingRange", "Unit", "PricePerUnit", "Currency", "LeaseContractLength"),
    *("PurchaseOption", "OfferingClass", "Product Family", "serviceCode", "Location"),
    *("Location Type", "Instance Type", "Current Generation", "Instance Family", "vCPU"),
    *("Physical Processor", "Memory", "Tenancy", "Operating System", "License Model", "GPU"),
    *("CapacityStatus", "Pre Installed S/W", "Region Code", "serviceName", "MarketOption"),
)

AWS_ROW = {
    "SKU": "2223B6PCG6QAUYY6",
    "OfferTermCode": "JRTCKXETXF",
    "TermType": "OnDemand",
    "PriceDescription": '$0.526 per On Demand Linux g4dn.xlarge Instance Hour, a "quoted" one',
    "EffectiveDate": "2026-11-01",
    "StartingRange": "0",
    "EndingRange": "Inf",
    "Unit": "Hrs",
    "PricePerUnit": "0.5260000000",
    "Currency": "USD",
    "Product Family": "Compute Instance",
    "serviceCode": "AmazonEC2",
    "Location": "US East (N. Virginia)",
    "Instance Type": "g4dn.xlarge",
    "Current Generation": "Yes",
    "Instance Family": "GPU instance",
    "vCPU": "4",
    "Memory": "16 GiB",
    "Tenancy": "Shared",
    "Operating System": "Linux",
    "License Model": "No License required",
    "GPU": "1",
    "CapacityStatus": "Used",
    "Pre Installed S/W": "NA",
    "Region Code": "us-east-1",
    "serviceName": "Amazon Elastic Compute Cloud",
    "MarketOption": "OnDemand",
}


def aws_row(**changes: str) -> bytes:
    """A row of the file; `Instance_Type="g5.xlarge"` changes that column."""
    named = {name.replace("_", " ").replace(" S W", " S/W"): it for name, it in changes.items()}
    if unknown := named.keys() - set(AWS_COLUMNS):
        raise KeyError(unknown)
    row = {**AWS_ROW, **named}
    return _csv(row.get(name, "") for name in AWS_COLUMNS)


def aws_head(columns: tuple[str, ...] = AWS_COLUMNS, day: str = "2026-11-20") -> bytes:
    """The lines before the rows, as the bulk API writes them."""
    return b"".join(
        (
            _csv(("FormatVersion", "v1.0")),
            _csv(("Disclaimer", "This pricing list is for informational purposes only.")),
            _csv(("Publication Date", f"{day}T18:30:21Z")),
            _csv(("Version", "20261120183021")),
            _csv(("OfferCode", "AmazonEC2")),
            _csv(columns),
        )
    )


def _csv(values: Iterator[str] | tuple[str, ...]) -> bytes:
    quoted = ('"' + it.replace('"', '""') + '"' for it in values)
    return (",".join(quoted) + "\n").encode()


class Body:
    """A body made as it is sent: pieces, each repeated."""

    def __init__(self, *pieces: bytes | tuple[bytes, int]) -> None:
        self.pieces = [it if isinstance(it, tuple) else (it, 1) for it in pieces]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(piece) * times for piece, times in self.pieces)

    def chunks(self, offset: int) -> Iterator[bytes]:
        """All of it from a byte on."""
        for piece, times in self.pieces:
            skipped = min(offset // len(piece), times)
            offset -= skipped * len(piece)
            for _ in range(times - skipped):
                yield piece[offset:]
                offset = 0


# --- The server ---------------------------------------------------------------------------------


class PriceApis:
    """All of them on one loopback port. Used under `with`.

    Faults: `refusals` are the statuses of the next answers, `break_after` the bytes after which
    the next answers' connections break, `etags` the file's version at each answer, and `ranges`
    whether parts are given. `asked` are the paths that came, with their query and headers.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, Body] = {}
        self.azure: list[Json] = []
        self.azure_page = 2
        self.azure_next: str | None = None
        self.skus: list[Json] = []
        self.sku_page = 2
        self.refusals: list[int] = []
        self.retry_after = "0"
        self.break_after: list[int] = []
        self.etags: Iterator[str] = itertools.repeat('"v1"')
        self.ranges = True
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        api = self

        class Handler(_Handler):
            apis = api

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Its http:// address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def aws(self, **regions: Body) -> None:
        """Publish the files of these regions, `us_east_1` for us-east-1."""
        index: Json = {"formatVersion": "v1.0", "regions": {}}
        for name, body in regions.items():
            code = name.replace("_", "-")
            path = f"/offers/v1.0/aws/AmazonEC2/20261120183021/{code}/index"
            index["regions"][code] = {"regionCode": code, "currentVersionUrl": f"{path}.json"}
            self.bodies[f"{path}.csv"] = body
        self.bodies["/offers/v1.0/aws/AmazonEC2/current/region_index.json"] = Body(
            json.dumps(index).encode()
        )

    def paths(self, contains: str) -> list[str]:
        """The paths that were asked for."""
        return [path for path, _, _ in self.asked if contains in path]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up when it likes
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20.0  # a client that left its connection open must not hold up the end
    apis: PriceApis

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.apis.asked.append((parts.path, query, dict(self.headers)))
        if self.apis.refusals:
            self._answer(self.apis.refusals.pop(0), b"slow down", retry=self.apis.retry_after)
        elif parts.path == "/api/retail/prices":
            self._answer(200, self._azure_page(query))
        elif parts.path.endswith("/skus"):
            self._skus(query)
        elif parts.path in self.apis.bodies:
            self._stream(self.apis.bodies[parts.path])
        else:
            self._answer(404, b"nothing here")

    def _answer(self, status: int, body: bytes, retry: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if retry:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, body: Body) -> None:
        etag = next(self.apis.etags)
        offset = 0
        span = self.headers.get("Range", "")
        if span and self.apis.ranges and self.headers.get("If-Range") == etag:
            offset = int(span.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {offset}-{body.size - 1}/{body.size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(body.size - offset))
        self.send_header("ETag", etag)
        self.end_headers()
        left = self.apis.break_after.pop(0) if self.apis.break_after else body.size
        with suppress(BrokenPipeError, ConnectionResetError):
            for chunk in body.chunks(offset):
                self.wfile.write(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    break
        self.close_connection = left < 0

    def _azure_page(self, query: dict[str, str]) -> bytes:
        region = query["$filter"].partition("armRegionName eq '")[2].partition("'")[0]
        found = [it for it in self.apis.azure if it["armRegionName"] == region]
        start, size = int(query.get("$skip", "0")), self.apis.azure_page
        more = start + size < len(found)
        link = f"{self.apis.address}/api/retail/prices?$filter=armRegionName eq '{region}'"
        page = {
            "BillingCurrency": "USD",
            "CustomerEntityId": "Default",
            "CustomerEntityType": "Retail",
            "Items": found[start : start + size],
            "NextPageLink": self.apis.azure_next or f"{link}&$skip={start + size}"
            if more
            else None,
            "Count": len(found[start : start + size]),
        }
        return json.dumps(page).encode()

    def _skus(self, query: dict[str, str]) -> None:
        if query.get("key") != "the-key":
            self._answer(403, b'{"error": {"code": 403}}')
            return
        start, size = int(query.get("pageToken", "0")), self.apis.sku_page
        more = start + size < len(self.apis.skus)
        page = {
            "skus": self.apis.skus[start : start + size],
            "nextPageToken": str(start + size) if more else "",
        }
        self._answer(200, json.dumps(page).encode())

    def log_message(self, *_: object) -> None:
        pass


# --- Items --------------------------------------------------------------------------------------


def azure_item(**changes: object) -> Json:
    """A meter as the Retail Prices API gives it."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": 3.9,
        "unitPrice": 3.9,
        "armRegionName": "eastus",
        "location": "US East",
        "effectiveStartDate": "2026-10-01T00:00:00Z",
        "meterId": "03e7a9a4-1b21-5a8c-a4a1-7c1a1c1a0001",
        "meterName": "NC24ads A100 v4",
        "productId": "DZH318Z08M9X",
        "skuId": "DZH318Z08M9X/003H",
        "productName": "Virtual Machines NCads A100 v4 Series",
        "skuName": "NC24ads A100 v4",
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": "Standard_NC24ads_A100_v4",
        **changes,
    }


def gcp_sku(description: str, usage: str, nanos: int, **changes: object) -> Json:
    """A SKU as the Billing Catalog gives it."""
    return {
        "name": "services/6F81-5844-456A/skus/0000-0000-0000",
        "skuId": "0000-0000-0000",
        "description": description,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": "GPU",
            "usageType": usage,
        },
        "serviceRegions": ["us-central1", "us-east1"],
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {
                    "usageUnit": "h",
                    "tieredRates": [
                        {
                            "startUsageAmount": 0,
                            "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos},
                        }
                    ],
                },
            }
        ],
        "serviceProviderName": "Google",
        **changes,
    }


def oci_product(part: str, usd: float, metric: str = "GPU Per Hour") -> Json:
    """A product of Oracle's price list."""
    return {
        "partNumber": part,
        "displayName": "Compute - GPU",
        "metricName": metric,
        "serviceCategory": "Compute - GPU",
        "currencyCodeLocalizations": [
            {"currencyCode": "USD", "prices": [{"model": "PAY_AS_YOU_GO", "value": usd}]}
        ],
    }
