"""Settings are refused with the path of the bad field and the remedy, or taken as written."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost import config
from gpucost.config import (
    MAX_CONFIG_BYTES,
    Config,
    ConfigError,
    NodeSettings,
    Prices,
    dump,
    load,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROW = "{gpu_model: L4, gpu_usd_per_hour: 1}"


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_an_empty_file_means_the_defaults() -> None:
    assert parse("") == Config()
    assert parse("# nothing yet\n") == Config()


def test_a_full_price_table_is_taken_as_written() -> None:
    prices = parse(
        """
        prices:
          updated: 2026-08-01
          split: gpu_only
          table:
            - node_selector: {pool: a100}
              on_premises: {capital_usd: 30000, lifetime_years: 4, usd_per_kwh: 0.12, pue: 1.3}
            - {instance_type: p5.48xlarge, capacity_type: reserved, node_usd_per_hour: 35}
            - {gpu_model: NVIDIA L4, gpu_usd_per_hour: 0.0}
          fallback: {H100-80GB: 3.5}
          discounts: [{ratio: 0.2, name: EDP, provider: aws}]
        """
    ).prices
    assert prices.updated == date(2026, 8, 1)
    assert prices.table[0].node_selector == {"pool": "a100"}
    assert prices.table[1].node_usd_per_hour == 35
    assert prices.table[2].gpu_usd_per_hour == 0.0
    assert prices.fallback == {"H100-80GB": 3.5}
    assert prices.discounts[0].ratio == 0.2


@pytest.mark.parametrize("written", ["1e-05", "1E-5", "1.e-5", "10e-6", "+1e-05", "0.00001"])
def test_a_small_figure_is_a_figure_however_it_is_written(written: str) -> None:
    # Helm writes 0.00001 as 1e-05, which YAML 1.1 takes for text.
    assert parse(f"idle_threshold_ratio: {written}").idle_threshold_ratio == 1e-05


@given(
    st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=6), max_size=3),
    st.from_regex(r"[-+]?[0-9]{1,3}\.?[0-9]{0,2}[eE][-+]?[0-9]{1,3}", fullmatch=True),
    st.floats(min_value=0, max_value=1),
)
def test_what_is_written_of_settings_says_the_same(
    labels: dict[str, str], like_a_figure: str, ratio: float
) -> None:
    settings = Config(
        idle_threshold_ratio=ratio,
        node=NodeSettings(labels={**labels, "commit": like_a_figure}),
        prices=Prices(fallback={like_a_figure: 1.0}, updated=date(2026, 11, 22)),
    )
    assert parse(dump(settings)) == settings


def test_a_quoted_date_is_a_date_too() -> None:
    assert parse('prices: {updated: "2026-08-01"}').prices.updated == date(2026, 8, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # Unknown keys, at every depth: a misspelt price must not silently cost nothing.
        ("pricess: {}", ["top level", "no setting `pricess`", "spelling"]),
        ("prices: {tabel: []}", ["prices:", "no setting `tabel`"]),
        ("prices: {table: [{gpu_usd: 1}]}", ["prices.table[0]", "no setting `gpu_usd`"]),
        # Prices that are none.
        ("prices: {table: [{gpu_usd_per_hour: -1}]}", ["table[0].gpu_usd_per_hour", ">= 0"]),
        ("prices: {table: [{node_usd_per_hour: -1}]}", ["table[0].node_usd_per_hour", ">= 0"]),
        ("prices: {table: [{gpu_usd_per_hour: cheap}]}", ["table[0].gpu_usd_per_hour", "float"]),
        ('prices: {table: [{gpu_usd_per_hour: "1"}]}', ["table[0].gpu_usd_per_hour", "float"]),
        ("prices: {table: [{gpu_usd_per_hour: true}]}", ["table[0].gpu_usd_per_hour", "bool"]),
        ("prices: {fallback: {L4: 1, H100: 0}}", ["prices.fallback[H100]", "> 0"]),
        ("prices: {discounts: [{ratio: 1}]}", ["prices.discounts[0].ratio", "< 1"]),
        ("prices: {discounts: [{ratio: -0.1}]}", ["prices.discounts[0].ratio", ">= 0"]),
        ("prices: {discounts: [{}]}", ["prices.discounts[0]", "ratio"]),
        ("prices: {gpu_only_weights: {gpu: 0}}", ["prices.gpu_only_weights.gpu", "> 0"]),
        ("prices: {updated: 2026}", ["prices.updated", "date"]),
        ('prices: {updated: "2026-13-01"}', ["prices.updated", "date"]),
        ("prices: {split: half}", ["prices.split", "half"]),
        ("prices: {table: [{capacity_type: cheap, gpu_usd_per_hour: 1}]}", ["capacity_type"]),
        (
            "prices: {table: [{on_premises: {capital_usd: 1, lifetime_years: 0, usd_per_kwh: 1}}]}",
            ["prices.table[0].on_premises.lifetime_years", "> 0"],
        ),
        (
            "prices: {table: [{on_premises: {lifetime_years: 4, usd_per_kwh: 1}}]}",
            ["prices.table[0].on_premises", "capital_usd"],
        ),
        # Rows that say no price, or two.
        ("prices: {table: [{gpu_model: L4}]}", ["prices.table[0]", "exactly one of"]),
        (
            "prices: {table: [{gpu_usd_per_hour: 1, node_usd_per_hour: 8}]}",
            ["prices.table[0]", "exactly one of"],
        ),
        # Duplicates.
        ("cycle_seconds: 5\ncycle_seconds: 6", ["line 2", "`cycle_seconds` is given twice"]),
        ("prices: {fallback: {L4: 1, L4: 2}}", ["`L4` is given twice", "Keep one"]),
        (
            'cycle_seconds: 5\nnode: {region: "\\ud800"}',
            ["line 2, column 16", "surrogate", "Write the character"],
        ),
        (
            "prices: {table: [{region: r, gpu_usd_per_hour: 1}, {region: r, gpu_usd_per_hour: 8}]}",
            ["prices.table[1]", "prices.table[0]", "Remove one"],
        ),
        (f"prices: {{table: [&row {ROW}, *row]}}", ["prices.table[1]", "Remove one"]),
        # Wrong types.
        ("- prices", ["top level", "object"]),
        ("prices", ["top level", "object"]),
        ("prices: []", ["prices:", "object"]),
        ("node: {labels: {pool: 1}}", ["node.labels[pool]", "got `int`", "quotes"]),
        ("node: {labels: {gpu: yes}}", ["node.labels[gpu]", "got `bool`", "quotes"]),
        ("node: {labels: {1: a}}", ["a key of node.labels", "quotes"]),
        ("? [a, b]\n: 1", ["line 1, column 3", "key must be plain text"]),
        # Figures out of their bounds.
        ("cycle_seconds: 0", ["cycle_seconds", ">= 1"]),
        ("cycle_seconds: 1" + ":59" * 2000, ["cycle_seconds", "out of range"]),
        ("idle_threshold_ratio: 1.5", ["idle_threshold_ratio", "<= 1"]),
        ("dcgm: {port: 0}", ["dcgm.port", ">= 1"]),
        ("dcgm: {url: localhost}", ["dcgm.url", "^https?://"]),
        ("linger_seconds: 10", ["linger_seconds", "two scrape intervals", "30 s"]),
        # Time zones that are none.
        ("billing_time_zone: Mars/Olympus", ["billing_time_zone", "Europe/Berlin"]),
        ("billing_time_zone: ''", ["billing_time_zone"]),
        ("billing_time_zone: Europe", ["billing_time_zone"]),
        ("billing_time_zone: ../../etc/passwd", ["billing_time_zone"]),
        ('billing_time_zone: "a\\0b"', ["billing_time_zone"]),
        (f"billing_time_zone: {'z' * 5000}", ["billing_time_zone"]),
        ("billing_time_zone: Zürich", ["billing_time_zone"]),
        # Not YAML, or more than plain YAML.
        ("prices: {", ["line 1", "not YAML", "Mend the syntax"]),
        ("\tprices: {}", ["line 1", "not YAML"]),
        ("a: 1\n---\nb: 2", ["line 2", "another document"]),
        ("nvml: &a {}\ndcgm: {<<: *a}", ["line 2", "`<<`", "Write the keys out"]),
        ("prices: *nowhere", ["line 1", "undefined alias"]),
        ("!!python/object/apply:os.system [ls]", ["line 1", "not YAML", "constructor"]),
        ("cycle_seconds: 2026-99-99", ["not YAML", "month"]),
        (b"prices: \xff\xfe\x00", ["not YAML", "UTF-8"]),
        (b"node: {region: \x07}", ["not YAML", "UTF-8"]),
    ],
)
def test_bad_settings_are_refused_with_path_and_remedy(text: str | bytes, says: list[str]) -> None:
    message = refusal(text)
    for words in says:
        assert words in message


def floats_of(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting that is a float, sections followed."""
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        todo = [msgspec.inspect.type_info(field.type)]
        while todo:
            found = todo.pop()
            if isinstance(found, msgspec.inspect.UnionType):
                todo += found.types
            elif isinstance(found, msgspec.inspect.FloatType):
                yield here
            elif isinstance(found, msgspec.inspect.StructType):
                yield from floats_of(found.cls, here)


LISTS = ("table", "discounts")
EVERY_FLOAT = [
    *floats_of(Config),
    *(("prices", "table", *path) for path in floats_of(config.PriceRow)),
    *(("prices", "discounts", *path) for path in floats_of(config.Discount)),
    ("prices", "fallback", "L4"),
]


@pytest.mark.parametrize("path", EVERY_FLOAT, ids=".".join)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1.0e+999", "true"])
def test_no_figure_may_be_infinite_or_no_number(path: tuple[str, ...], value: str) -> None:
    text = f"{path[-1]}: {value}"
    for section in reversed(path[:-1]):
        text = f"{section}: [{{{text}}}]" if section in LISTS else f"{section}: {{{text}}}"
    assert path[-1] in refusal(text)


def test_the_walk_over_all_figures_finds_those_it_should() -> None:
    found = {".".join(path) for path in EVERY_FLOAT}
    assert {
        "cycle_seconds",
        "nvml.timeout_seconds",
        "prices.gpu_only_weights.gpu",
        "prices.table.gpu_usd_per_hour",
        "prices.table.on_premises.pue",
        "prices.discounts.ratio",
    } <= found


def nested(levels: int, pairs: int, form: str) -> str:
    return "a0: &a0 {x: 1}" + "".join(
        f"\na{level}: &a{level} " + form % ", ".join([f"*a{level - 1}"] * pairs)
        for level in range(1, levels)
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(nested(60, 4, "[%s]"), id="a billion laughs"),
        pytest.param(nested(60, 4, "{<<: [%s]}"), id="merges of merges"),
        pytest.param("prices: &a {fallback: *a}", id="a map that holds itself"),
        pytest.param("[" * 100_000, id="deep lists"),
        pytest.param("- " * 100_000, id="deep sequences"),
        pytest.param("{a: " * 100_000, id="deep maps"),
        pytest.param("cycle_seconds: " + "9" * 100_000, id="a long figure"),
    ],
)
def test_yaml_made_to_hurt_is_refused_at_once(text: str) -> None:
    assert len(refusal(text)) < 1000


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_gives_settings_or_one_refusal(text: str | bytes) -> None:
    with suppress(ConfigError):
        assert isinstance(parse(text), Config)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_NAMES = st.sampled_from(
    ["prices", "table", "fallback", "node", "labels", "discounts", "cycle_seconds", "L4"]
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_NAMES, _TREES, max_size=3))
def test_any_tree_gives_settings_or_one_refusal(tree: dict[str, object]) -> None:
    with suppress(ConfigError):
        assert isinstance(parse(msgspec.yaml.encode(tree)), Config)


def test_the_limit_of_rows_is_the_size_of_the_file() -> None:
    """Thousands of rows are a price list, not an attack."""
    rows = "".join(f"\n- {{instance_type: t{n}, node_usd_per_hour: 1}}" for n in range(2000))
    assert len(parse(f"prices:\n  table:{rows}".replace("\n-", "\n  -")).prices.table) == 2000


# --- Files --------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("billing_time_zone: Europe/Berlin", encoding="utf-8")
    assert load(path).zone.key == "Europe/Berlin"


def test_an_error_in_a_file_names_the_file_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("cycle_seconds: -5", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: cycle_seconds: Expected .* >= 1"):
        load(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "locked"])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "locked":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        path.touch(mode=0o000)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: .+ Check the path"):
        load(path)


def test_a_file_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(path)
    path.write_bytes(b"#" * MAX_CONFIG_BYTES)
    assert load(path) == Config()
