"""The format of price lists: what is written is what is read, and what is not whole is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import build_prices
from gpucost.prices import shipped
from gpucost.pricing.places import gathered, places_of, spread
from gpucost.pricing.price_list import (
    InstanceType,
    PriceList,
    PriceListError,
    Source,
    find,
    parse,
    render,
)

SMALL = """\
gpucost price list 1
generated_at 2026-11-22
source a 2026-07-20 somewhere public
source b <2026-07-20 elsewhere
aws g6f.large L4 0.125 2 8 a
 on_demand 0.202 a eu-west-1 us-east-1
 spot 0.07 b us-east-1b
azure x ? ? ? ? b
end 2
""".splitlines()

_USD = st.floats(1e-6, 1e4)
_PLACES = st.sampled_from(["*", "us-east-1", "us-east-1a", "eastus", "us-west-2-lax-1"])
_QUOTED = st.dictionaries(
    st.tuples(st.sampled_from(["on_demand", "spot", "reserved"]), _PLACES),
    st.tuples(_USD, st.sampled_from("ab")),
    max_size=12,
)


def test_a_list_says_what_is_in_it() -> None:
    listed = parse(SMALL)
    assert listed.generated_at == "2026-11-22"
    first, second = listed.types
    assert (first.gpu_model, first.gpu_count, first.vcpus, first.memory_gib) == ("L4", 0.125, 2, 8)
    assert spread(first.prices)["spot", "us-east-1b"] == (0.07, "b")
    assert second == InstanceType("azure", "x", source="b")
    assert listed.sources["b"] == Source("b", "<2026-07-20", "elsewhere")


@given(quoted=_QUOTED)
def test_what_is_written_is_what_is_read(
    quoted: dict[tuple[str, str], tuple[float, str]],
) -> None:
    sources = {key: Source(key, "2026-01-01", "x") for key in "ab"}
    it = InstanceType("aws", "t", "L4", 1.0, None, 0.5, "a", gathered(quoted))
    assert spread(it.prices) == quoted
    read = parse(render(PriceList("2026-11-22", sources, (it,))))
    assert read.types == (it,)
    assert list(render(read)) == list(render(PriceList("2026-11-22", sources, (it,))))


def test_only_what_is_wanted_is_kept_and_all_of_it_is_looked_at() -> None:
    assert [it.name for it in find(SMALL, lambda _, name: name == "x").types] == ["x"]
    broken = [line.replace("0.202", "2o2") for line in SMALL]
    with pytest.raises(PriceListError, match="line 6: ' on_demand 2o2"):
        find(broken, lambda _, name: name == "x")


def test_a_list_that_is_cut_off_anywhere_is_refused() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(PriceListError):
            parse(SMALL[:length])
    with shipped() as lines:
        whole = list(lines)
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(PriceListError, match="cut off after line"):
            parse(whole[:length])


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("gpucost price list 1", "gpucost price list 2", "Is it a price list"),
        ("gpucost price list 1", "<html>", "Is it a price list"),
        ("generated_at 2026-11-22", "generated_at yesterday", "line 2"),
        ("source b", "source a", "source a is there twice"),
        ("<2026-07-20", "2026-13-01", "line 4"),
        ("0.202", "0", "0 is no price"),
        ("0.202", "-1", "-1 is no price"),
        ("0.202", "nan", "nan is no price"),
        ("0.202", "inf", "inf is no price"),
        ("0.202", "100001", "100001 is no price"),
        ("0.202 a", "0.202 z", "no source z"),
        (" eu-west-1 us-east-1", "", "a price of no place"),
        ("eu-west-1 us-east-1", "us-east-1 us-east-1", "on_demand in us-east-1 has two prices"),
        ("on_demand", "ondemand", "ondemand is none of"),
        ("0.125", "-1", "-1 is no count"),
        ("azure x", "aws a", "does not follow"),
        ("azure x ?", "azure x", "line 8"),
        ("end 2", "end 3", "3 instance types, of which 2"),
        ("end 2", "end 2\nend 2", "something follows"),
        ("azure x", "azure " + "x" * 20_000, "longer than"),
        ("azure x", "\nazure x", "an empty line"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(old: str, new: str, what: str) -> None:
    text = "\n".join(SMALL).replace(old, new, 1)
    with pytest.raises(PriceListError, match=what):
        parse(text.split("\n"))


@given(st.lists(st.text(alphabet="aws g6f.?1 \tend*", max_size=30), max_size=8))
def test_any_text_is_a_list_or_an_error_that_says_so(lines: list[str]) -> None:
    with pytest.raises(PriceListError):
        parse([*SMALL[:4], *lines, "x"])


def test_the_shipped_list_and_the_conflicts_are_made_of_the_facts() -> None:
    for path, text in build_prices.texts().items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/build_prices.py"


@pytest.mark.parametrize(
    ("region", "zone", "places"),
    [
        ("us-east-1", "us-east-1a", ("us-east-1a", "us-east-1", "*")),
        ("us-central1", "us-central1-a", ("us-central1-a", "us-central1", "*")),
        ("eastus", "eastus-1", ("eastus-1", "eastus", "*")),
        ("us-gov-west-1", "us-gov-west-1a", ("us-gov-west-1a", "us-gov-west-1", "*")),
        ("eu-frankfurt-1", "eu-frankfurt-1-ad-1", ("eu-frankfurt-1-ad-1", "eu-frankfurt-1", "*")),
        ("us-west-2", "us-west-2-lax-1b", ("us-west-2-lax-1b", "us-west-2-lax-1")),
        (
            "us-east-1",
            "us-east-1-wl1-bos-wlz-1",
            ("us-east-1-wl1-bos-wlz-1", "us-east-1-wl1-bos1", "us-east-1-wl1"),
        ),
        ("eu-west-2", "eu-west-2-wl2-man-wlz-1", ("eu-west-2-wl2-man-wlz-1", "eu-west-2-wl2-man1")),
        ("us-west-2-lax-1", "", ("us-west-2-lax-1",)),
        ("us-east-1", "", ("us-east-1", "*")),
        ("", "", ("*",)),
    ],
)
def test_a_node_pays_the_price_of_the_nearest_place(
    region: str, zone: str, places: tuple[str, ...]
) -> None:
    assert places_of(region, zone) == places
