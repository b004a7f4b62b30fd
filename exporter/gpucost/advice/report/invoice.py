"""What the cloud billed, beside what the ledger says: by instance type and day.

Reads FOCUS (1.x) and AWS's Cost and Usage Report (its old column names and its new), row by row,
and keeps only instances. A discount plan's effective cost stands for its rows, since that is what
an hour costs; its fees, taxes and credits are no instance's hour.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import re
import zlib
from collections import defaultdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.report.document import Billed, Invoice
from gpucost.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import IO

    from gpucost.advice.report.facts import Facts

_MAX_FIELD = 4 << 20
"""Longer than any cell of a real file: a quote that is never closed must not eat the memory."""

AGREES = 0.02
"""Within which invoice and ledger are called the same."""
STEADY = 0.02
"""Spread of the daily factors, within which a difference is one of price."""

_INSTANCE = re.compile(
    r"(?i)\b((?:[a-z]+\d+[a-z0-9-]*)\.(?:metal|\d*x?large|\d*xlarge)[a-z0-9-]*|Standard_N[A-Z0-9a-z_]+"
    r"|[ag]\d-[a-z]+gpu-\d+g(?:-[a-z]+)?|g2-standard-\d+|a3-[a-z]+-\d+g)\b"
)
"""AWS (p5.48xlarge), Azure (Standard_NC24ads_A100_v4), GCP (a3-highgpu-8g)."""


class Charge(Struct, frozen=True):
    """An instance type's cost and hours on a day."""

    usd: float
    hours: float | None


class BilledRows(Struct, frozen=True):
    """A file's instances: by type (in small letters) and day."""

    file: str
    form: str
    charges: Mapping[tuple[str, date], Charge]


def read(path: Path) -> BilledRows:
    """Read a file. Raises ConfigError, which names the file and the line."""
    try:
        with _opened(path) as file:
            return parse(str(path), file)
    except OSError as error:
        raise ConfigError(f"--invoice: {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--invoice: {path}: is not UTF-8: save it as that.") from error
    except (EOFError, zlib.error) as error:
        raise ConfigError(f"--invoice: {path}: its gzip ends too early: {error}") from error


def parse(name: str, lines: Iterable[str]) -> BilledRows:
    """Keep what a file has of instances. Raises ConfigError, which names the file and the line."""
    csv.field_size_limit(_MAX_FIELD)
    rows = iter(lines)
    head = next(rows, "")
    # A spreadsheet of some countries writes semicolons.
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.DictReader(itertools.chain([head], rows), delimiter=delimiter)
    try:
        columns = {_plain(column): column for column in reader.fieldnames or ()}
        form = next((it for it, needed in FORMS.items() if needed <= columns.keys()), None)
        if form is None:
            raise ConfigError(
                f"--invoice: {name} is neither FOCUS (with ChargePeriodStart and EffectiveCost)"
                " nor an AWS CUR (with lineItem/UsageStartDate and lineItem/UnblendedCost)."
            )
        charges = _gathered(name, reader, columns, form)
        if not charges:
            raise ConfigError(
                f"--invoice: {name}: no row of it names an instance type: is it of the account"
                " with the nodes, and has it SkuPriceDetails (FOCUS) or product/instanceType (CUR)?"
            )
        return BilledRows(name.rpartition("/")[2], form, charges)
    except csv.Error as error:
        raise ConfigError(f"--invoice: {name}: is no CSV: {error}") from error


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _plain(name: str) -> str:
    """`lineItem/UsageStartDate` and `line_item_usage_start_date` are one column."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


FORMS = {
    "AWS CUR": {"lineitemusagestartdate", "lineitemunblendedcost"},
    "FOCUS": {"chargeperiodstart", "effectivecost"},
}
"""What a file must have to be of a form."""


def _gathered(
    name: str, reader: csv.DictReader[str], columns: Mapping[str, str], form: str
) -> dict[tuple[str, date], Charge]:
    usd: defaultdict[tuple[str, date], float] = defaultdict(float)
    hours: defaultdict[tuple[str, date], float] = defaultdict(float)
    charge = _cur if form == "AWS CUR" else _focus
    for row in reader:
        cells = {name: row.get(column) or "" for name, column in columns.items()}
        try:
            found = charge(cells)
            if found is not None:
                _check_currency(cells)
        except ValueError as error:
            raise ConfigError(f"--invoice: {name}, line {reader.line_num}: {error}") from error
        if found is not None:
            it, cost, amount = found
            usd[it] += cost
            if amount is not None:
                hours[it] += amount
    return {it: Charge(cost, hours.get(it)) for it, cost in usd.items()}


Found = tuple[tuple[str, date], float, float | None]


def _check_currency(cells: Mapping[str, str]) -> None:
    for column in ("billingcurrency", "lineitemcurrencycode"):
        if (currency := cells.get(column, "") or "USD") != "USD":
            raise ValueError(
                f"it is in {currency[:10]}, and the ledger in USD: export it in USD, or convert its"
                " cost columns"
            )


def _cur(cells: Mapping[str, str]) -> Found | None:
    kind = cells.get("lineitemlineitemtype", "Usage")
    column = {
        "Usage": "lineitemunblendedcost",
        "DiscountedUsage": "reservationeffectivecost",
        "SavingsPlanCoveredUsage": "savingsplansavingsplaneffectivecost",
    }.get(kind)
    name = cells.get("productinstancetype") or _instance(cells.get("lineitemusagetype", ""))
    if column is None or not name or "box" not in cells.get("lineitemusagetype", "box").casefold():
        return None
    amount = cells.get("lineitemusageamount")
    return (
        (name.casefold(), _day(cells["lineitemusagestartdate"])),
        _number(cells.get(column) or "0"),
        _number(amount) if amount else None,
    )


def _focus(cells: Mapping[str, str]) -> Found | None:
    if cells.get("chargecategory", "Usage") != "Usage":
        return None
    name = _focus_type(cells)
    if not name:
        return None
    unit = cells.get("consumedunit", "").casefold()
    amount = cells.get("consumedquantity")
    return (
        (name.casefold(), _day(cells["chargeperiodstart"])),
        _number(cells["effectivecost"] or "0"),
        _number(amount) if amount and unit.startswith(("hour", "hr")) else None,
    )


def _focus_type(cells: Mapping[str, str]) -> str:
    """FOCUS 1.1 and newer: in SkuPriceDetails; before, where each provider puts it."""
    for column in ("skupricedetails", "xskudetails"):
        if cells.get(column, "").startswith("{"):
            try:
                details = json.loads(cells[column])
            except ValueError:
                continue
            if isinstance(details, dict) and (name := details.get("InstanceType")):
                return str(name)
    for column in (
        *("xinstancetype", "xusagetype", "xskuordername", "xskumetername", "resourcetype"),
        *("skuid", "skumeter", "chargedescription", "resourcename"),
    ):
        if name := _instance(cells.get(column, "")):
            return name
    return ""


def _instance(text: str) -> str:
    found = _INSTANCE.search(text)
    return found[1] if found else ""


def _day(text: str) -> date:
    try:
        return datetime.fromisoformat(text.replace("/", "-")).date()
    except ValueError as error:
        raise ValueError(f"`{text[:40]}` is no time") from error


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"`{text[:40]}` is no number") from error
    if not math.isfinite(number):
        raise ValueError(f"`{text[:40]}` is no number")
    return number


# --- Beside the ledger ----------------------------------------------------------------------------


def compare(billed: BilledRows, facts: Facts, gpu_counts: Mapping[str, float]) -> Invoice:
    """Types and days that the ledger and the invoice have, and why they differ.

    Raises ConfigError if they have no whole day in common.
    """
    ledger: defaultdict[tuple[str, date], float] = defaultdict(float)
    hours: dict[tuple[str, date], float | None] = {}
    nodes = {(it.cluster, it.name): it for it in facts.nodes}
    for name, days in facts.node_usd.items():
        node = nodes.get(name)
        kind = facts.node_types.get(name, "").casefold()
        price = None if node is None else _node_price(facts, node.gpu_model, node.capacity_type)
        count = gpu_counts.get(kind)
        for day, usd in days.items():
            of = kind, date.fromordinal(day)
            ledger[of] += usd
            before = hours.get(of, 0.0)
            hours[of] = (
                before + usd / (price * count) if before is not None and price and count else None
            )
    # Of the first and the last day the ledger may have a part, and the invoice has all.
    seen = [day for day in sorted({day for _, day in ledger}) if _is_whole(day, facts)]
    billed_days = sorted({day for _, day in billed.charges})
    if not set(seen) & set(billed_days):
        have = f"{seen[0]} to {seen[-1]}" if seen else "none"
        raise ConfigError(
            f"--invoice: {billed.file} is of {billed_days[0]} to {billed_days[-1]} and the report's"
            f" whole days (UTC) are {have}: give --from and --to of the invoice."
        )
    ledger = defaultdict(float, {it: usd for it, usd in ledger.items() if it[1] in seen})
    charges = {
        (kind, day): it
        for (kind, day), it in billed.charges.items()
        if (kind in gpu_counts or any(kind == other for other, _ in ledger)) and day in seen
    }
    rows = [
        _row(kind, day, charges.get((kind, day)), ledger.get((kind, day)), hours.get((kind, day)))
        for kind, day in sorted(ledger.keys() | charges.keys())
    ]
    kinds = sorted({row.instance_type for row in rows})
    whole = tuple(
        _whole(kind, [row for row in rows if row.instance_type == kind]) for kind in kinds
    )
    invoice_usd = sum(it.usd for it in charges.values())
    ledger_usd = sum(ledger.values())
    return Invoice(
        file=billed.file,
        form=billed.form,
        invoice_usd=invoice_usd,
        ledger_usd=ledger_usd,
        factor=invoice_usd / ledger_usd if ledger_usd and invoice_usd else None,
        types=whole,
        days=tuple(rows),
    )


def _is_whole(day: date, facts: Facts) -> bool:
    begun = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    return facts.start <= begun and begun + 86_400 <= facts.end


def _node_price(facts: Facts, gpu_model: str, capacity_type: str) -> float | None:
    found = [
        it.usd_per_hour
        for it in facts.prices
        if it.pool.gpu_model == gpu_model and it.pool.capacity_type == capacity_type
    ]
    return found[0] if found else None


def _row(
    kind: str, day: date, charge: Charge | None, ledger: float | None, hours: float | None
) -> Billed:
    factor = charge.usd / ledger if charge is not None and ledger else None
    return Billed(
        instance_type=kind or "(not known)",
        day=day.isoformat(),
        invoice_usd=None if charge is None else charge.usd,
        ledger_usd=ledger,
        invoice_hours=None if charge is None else charge.hours,
        ledger_hours=hours,
        factor=factor,
        reason="",
    )


def _whole(kind: str, rows: list[Billed]) -> Billed:
    invoice = _sum(row.invoice_usd for row in rows)
    ledger = _sum(row.ledger_usd for row in rows)
    billed_hours = _all(row.invoice_hours for row in rows if row.invoice_usd is not None)
    hours = _all(row.ledger_hours for row in rows if row.ledger_usd is not None)
    factor = invoice / ledger if invoice is not None and ledger else None
    return Billed(
        instance_type=kind,
        day="",
        invoice_usd=invoice,
        ledger_usd=ledger,
        invoice_hours=billed_hours,
        ledger_hours=hours,
        factor=factor,
        reason=_reason(kind, rows, factor, billed_hours, hours),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _all(values: Iterable[float | None]) -> float | None:
    """Their sum; not known where one of them is not."""
    every = list(values)
    return None if None in every else _sum(every)


def _reason(
    kind: str,
    rows: list[Billed],
    factor: float | None,
    billed_hours: float | None,
    hours: float | None,
) -> str:
    if factor is None:
        if any(row.ledger_usd for row in rows):
            return (
                "not in the invoice: another account or file, a node of another name, or not yet"
                " billed"
            )
        return "not in the ledger: nodes without the exporter, or outside of this scope"
    hours_differ = billed_hours and hours and abs(billed_hours / hours - 1) > AGREES
    if abs(factor - 1) <= AGREES and not hours_differ:
        return "they agree"
    words = []
    missing = [row.day for row in rows if row.ledger_usd is None or row.invoice_usd is None]
    if missing:
        words.append(f"only one of them has {len(missing)} of {len(rows)} days")
    if billed_hours and hours and hours_differ:
        words.append(
            f"the invoice has {billed_hours:.0f} node hours and the ledger {hours:.0f}: nodes"
            f" {'without the exporter' if billed_hours > hours else 'of another account'}, or time"
            " before it started"
        )
    factors = [row.factor for row in rows if row.factor is not None]
    price = factor if not (billed_hours and hours) else factor * hours / billed_hours
    if factors and max(factors) - min(factors) <= 2 * STEADY * factor and not words:
        words.append(
            f"the same every day: the price is {price:.3f} of the list's. Set"
            f" prices.discounts, or a price of {kind} in prices.table"
        )
    elif abs(price - 1) > AGREES:
        words.append(
            f"and a price of {price:.3f} of the ledger's: commitments or spot prices that change"
        )
    return "; ".join(words) or "hours of some days differ: see the days"
