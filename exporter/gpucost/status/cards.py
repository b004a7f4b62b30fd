"""The GPUs: what each is, what it costs, who holds which part of it and what that part does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.status.html import Content, Html, el
from gpucost.status.pieces import bar, holder_name, left_out, section, shares, swatch, unknown
from gpucost.status.words import gibibytes, money, percent

if TYPE_CHECKING:
    from gpucost.status.view import GpuCard, Part, View


def gpus(view: View) -> Html:
    """Make the section of the GPUs."""
    if not view.gpus:
        nothing = el("p", "No GPU has been seen on this node.", class_="empty")
        return section("GPUs", "gpus", nothing)
    cards = el("ol", *(_card(card) for card in view.gpus), class_="gpus")
    return section("GPUs", "gpus", cards, left_out(view.gpus_left_out, "GPUs"))


def _card(card: GpuCard) -> Html:
    reading, device = card.reading, card.reading.device
    price = card.price
    if price is None or price.usd_per_hour is None:
        cost = el("span", unknown("No price: see the problems"), " no price", class_="price")
    else:
        detail = f"{price.source.replace('_', ' ')}, {price.split.replace('_', ' ')}"
        about = f"{detail}: {price.detail}" if price.detail else detail
        mark = "≈\N{NO-BREAK SPACE}" if price.estimated else ""
        cost = el("span", mark, el("b", money(price.usd_per_hour)), " USD/h", class_="price",
                  title=about)  # fmt: skip
    words = "; ".join(_part_words(part) for part in card.parts)
    return el(
        "li",
        el(
            "h3",
            el("span", card.name),
            " ",
            el("small", el("bdi", device.model), title=device.uuid),
            cost,
        ),
        *(el("p", el("b", "Unusable: "), el("bdi", fault), class_="fault")
          for fault in reading.faults),
        bar([part.slices for part in card.parts], 1.0, f"{card.name}: {words}"),
        el("ul", *(_part(part) for part in card.parts), class_="parts"),
        left_out(card.parts_left_out, "parts"),
        _readings(card),
        class_="gpu",
    )  # fmt: skip


def _part_words(part: Part) -> str:
    who = "nobody" if part.holder is None else f"{part.holder.namespace}/{part.holder.pod}"
    return f"{_profile(part)} {who} {shares(part.slices)}".strip()


def _profile(part: Part) -> str:
    if not part.profile:
        return ""
    return (
        part.profile if part.count == 1 else f"{part.count} \N{MULTIPLICATION SIGN} {part.profile}"
    )


def _part(part: Part) -> Html:
    mark = swatch(part.slices[0].state) if part.slices else None
    who = el("span", "nobody", class_="nobody") if part.holder is None else holder_name(part.holder)
    profile = _profile(part)
    return el(
        "li",
        mark,
        el("span", profile, class_="profile") if profile else None,
        who,
        el("span", shares(part.slices), class_="what"),
    )


def _readings(card: GpuCard) -> Html:
    """Write what the device shows of itself."""
    reading = card.reading
    own = reading.reading
    facts: list[tuple[str, Content]] = []
    if reading.device.mig is not None:
        facts.append(("mode", f"MIG, {len(reading.device.mig)} instances"))
    elif own.activity is None:
        facts.append(("busy", unknown("No activity signal")))
    else:
        signal = f"signal: {own.activity.signal}"
        facts.append(("busy", el("span", percent(own.activity.ratio), title=signal)))
    used, whole = own.memory_used_bytes, reading.device.memory_bytes
    memory: Content = unknown("Memory in use is not known")
    if used is not None:
        memory = f"{gibibytes(used)} of {gibibytes(whole)} GiB"
    facts.append(("memory", memory))
    watts, celsius = reading.power_watts, reading.temperature_celsius
    facts.append(("power", unknown("Power is not known") if watts is None else f"{watts:.0f} W"))
    facts.append(
        (
            "temperature",
            unknown("Temperature is not known") if celsius is None else f"{celsius:.0f} °C",
        )
    )
    if not reading.seen:
        facts.append(("reading", unknown("No source could look this time")))
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in facts),
        class_="readings",
    )
