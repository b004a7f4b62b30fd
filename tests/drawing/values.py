"""Figures as Grafana writes them, by unit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

_THOUSANDS = ("", " K", " Mil", " Bil", " Tri")
_TIMES = (
    (31_536_000, "years"),
    (2_628_000, "months"),
    (604_800, "weeks"),
    (86_400, "days"),
    (3600, "hours"),
    (60, "mins"),
    (1, "s"),
)


def text(value: float, unit: str, decimals: int | None, now: float) -> str:
    """The figure in its unit. `now` is what times are told from."""
    if unit == "currencyUSD":
        sign = "-" if value < 0 else ""
        body = _scaled(abs(value), ("", "K", "M", "B"), decimals)
        return f"{sign}${body}"
    if unit == "percentunit":
        return f"{_digits(100 * value, decimals)}%"
    if unit == "dateTimeFromNow":
        return _from_now(value / 1000 - now)
    if unit == "s":
        return _duration(value, decimals)
    if unit in ("bytes", "decbytes"):
        return _scaled(value, (" B", " KiB", " MiB", " GiB", " TiB"), decimals, 1024)
    plain = {
        "watt": (" W", " kW", " MW"),
        "hertz": (" Hz", " kHz", " MHz", " GHz"),
        "massg": (" g", " kg", " t"),
        "celsius": (" °C",),
        "cps": (" c/s", "K c/s", "M c/s"),
        "reqps": (" req/s", "K req/s"),
        "none": ("",),
    }.get(unit, _THOUSANDS)
    return _scaled(value, plain, decimals)


def _scaled(value: float, names: tuple[str, ...], decimals: int | None, base: float = 1000) -> str:
    place = 0
    while abs(value) >= base and place < len(names) - 1:
        value /= base
        place += 1
    return (
        _digits(value, decimals if place == 0 or decimals is None else max(decimals, 2))
        + names[place]
    )


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _duration(value: float, decimals: int | None) -> str:
    if 0 < abs(value) < 1:
        return f"{_digits(value * 1000, None)} ms"
    for size, name in _TIMES:
        if abs(value) >= size:
            return f"{_digits(value / size, 1 if decimals is None else decimals)} {name}"
    return "0 s"


def _from_now(seconds: float) -> str:
    for size, name in _TIMES:
        if abs(seconds) >= size > 1:
            count = round(abs(seconds) / size)
            words = f"{count} {name}" if count > 1 else f"a {name[:-1]}"
            return f"in {words}" if seconds > 0 else f"{words} ago"
    return "just now"


def clock(at: float) -> str:
    """The time of day, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")


def threshold(steps: list[Json], value: float) -> str:
    """The colour of a value."""
    found: str = steps[0]["color"] if steps else "#3274D9"
    for step in steps[1:]:
        if value >= step["value"]:
            found = step["color"]
    return found


def properties(panel: Json, name: str) -> Json:
    """What a panel's overrides say of the series or column of this name, over its defaults."""
    import re  # noqa: PLC0415

    field = panel["fieldConfig"]["defaults"]
    out: Json = {
        "unit": field["unit"],
        "decimals": field.get("decimals"),
        "steps": field["thresholds"]["steps"],
        "mappings": field["mappings"],
        "min": field.get("min"),
        "max": field.get("max"),
        "custom": field["custom"],
    }
    for override in panel["fieldConfig"]["overrides"]:
        matcher = override["matcher"]
        if matcher["id"] == "byRegexp":
            if not re.search(matcher["options"].strip("/"), name):
                continue
        elif matcher["options"] != name:
            continue
        for it in override["properties"]:
            match it["id"]:
                case "color":
                    out["color"] = it["value"]["fixedColor"]
                case "thresholds":
                    out["steps"] = it["value"]["steps"]
                case "custom.cellOptions":
                    out["cell"] = it["value"]["type"]
                case "custom.lineStyle":
                    out["dash"] = it["value"]["dash"]
                case other:
                    out[other] = it["value"]
    return out


def mapped(value: float, mappings: list[Json]) -> tuple[str, str] | None:
    """The name and colour that a value has."""
    for mapping in mappings:
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], found["color"]
    return None
