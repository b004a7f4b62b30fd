"""Settings and the price table: declared as fields, validated once, handed on as values.

One YAML file holds everything; flags and environment only what differs by pod (cli.py). Every
error names the path of the bad field and what to do. Unknown keys are errors: a misspelt
price must not silently cost nothing.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo

import msgspec
import yaml
from msgspec import Meta, Struct, field

from gpucost.engines import ENGINE_NAMES
from gpucost.series import parse_series

if TYPE_CHECKING:
    from pathlib import Path

MAX_CONFIG_BYTES = 1 << 20
"""What a ConfigMap can hold; and no more than a few seconds of reading YAML."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Usd = Annotated[float, Meta(ge=0, le=1e9)]
PositiveUsd = Annotated[float, Meta(gt=0, le=1e9)]
Words = Annotated[str, Meta(min_length=1, max_length=253)]
CapacityType = Literal["on_demand", "spot", "reserved"]


class ConfigError(Exception):
    """The configuration cannot be used. The message names the field and the remedy."""


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A block of settings; a key it does not declare is an error."""


class OnPremises(_Section, frozen=True):
    """A bought GPU: capital over its lifetime, plus energy.

    `capital_usd` is for one GPU with its share of the server.
    """

    capital_usd: PositiveUsd
    """What one GPU cost, with its share of the server."""
    lifetime_years: Annotated[float, Meta(gt=0, le=50)]
    """Over which the capital is written off."""
    usd_per_kwh: Annotated[float, Meta(ge=0, le=100)]
    """Price of energy."""
    pue: Annotated[float, Meta(ge=1, le=10)] = 1.0
    """Power usage effectiveness: the site's energy per the machines' own."""
    idle_watts: Annotated[float, Meta(ge=0, le=10_000)] = 60.0
    """Assumed while the GPU's power is not known; the price is then `estimated`."""


class PriceRow(_Section, frozen=True):
    """One row of the user's table. It matches a GPU when every condition that it states does.

    Exactly one of `gpu_usd_per_hour` (one whole GPU), `node_usd_per_hour` (the whole instance)
    and `on_premises` is the price. The first matching row of the table wins.
    """

    node_selector: dict[Words, str] = field(default_factory=dict)
    """Node labels that must all be there, with these values."""
    instance_type: str | None = None
    region: str | None = None
    capacity_type: CapacityType | None = None
    gpu_model: str | None = None
    """As NVML or the node's label writes it; case, spaces and dashes do not matter."""
    gpu_usd_per_hour: Usd | None = None
    """Of one whole GPU."""
    node_usd_per_hour: Usd | None = None
    """Of the whole instance; `split` says what of it is its GPUs'."""
    gpu_count: Annotated[float, Meta(gt=0, le=1024)] | None = None
    """GPUs of the instance type, where the shipped table does not know it."""
    on_premises: OnPremises | None = None
    """Bought, not rented."""


class Discount(_Section, frozen=True):
    """Part of the price that is not paid, where every stated condition matches."""

    ratio: Annotated[float, Meta(ge=0, lt=1)]
    """The part that is not paid: 0.3 for 30 % off. Discounts multiply."""
    name: str = ""
    """For your own eyes."""
    provider: str | None = None
    capacity_type: CapacityType | None = None
    instance_type: str | None = None
    gpu_model: str | None = None


class GpuOnlyWeights(_Section, frozen=True):
    """Shares of an instance's price by component, for `split: gpu_only`.

    The defaults are the 95/3/2 that Datadog's cloud cost allocation publishes.
    """

    gpu: Annotated[float, Meta(gt=0, le=1e6)] = 0.95
    """Weight of the GPUs."""
    cpu: Annotated[float, Meta(ge=0, le=1e6)] = 0.03
    """Weight of the CPUs."""
    memory: Annotated[float, Meta(ge=0, le=1e6)] = 0.02
    """Weight of the memory."""


class Prices(_Section, frozen=True):
    """The user's prices, and how a node's price is split."""

    table: tuple[PriceRow, ...] = ()
    """Your prices; the first row that matches wins."""
    fallback: dict[Words, PositiveUsd] = field(default_factory=dict)
    """GPU model to USD per hour of one GPU, where neither table nor catalogue has a price."""
    discounts: tuple[Discount, ...] = ()
    """Every one that matches is taken off."""
    split: Literal["whole_node", "gpu_only"] = "whole_node"
    """Whether a node's whole price goes to its GPUs, or CPU and memory are carved out."""
    gpu_only_weights: GpuOnlyWeights = GpuOnlyWeights()
    mig_split: Literal["compute", "memory"] = "compute"
    """What a MIG instance's part of its GPU is measured by."""
    use_catalogue: bool = True
    """Whether list prices count where yours say nothing."""
    catalogue_file: Words | None = None
    """A price list to use for the shipped one: what `gpucost prices refresh` writes. It is read
    again when it changes."""
    spot_ratio: Annotated[float, Meta(gt=0, le=1)] | None = 0.4
    """What spot costs of on-demand where the list has no spot price; the price is then
    `estimated`. Null: unpriced."""
    reserved_ratio: Annotated[float, Meta(gt=0, le=1)] | None = None
    """What you pay of on-demand for reserved capacity. Unset: a reserved node is priced only by
    your table, for only you know the rate."""
    updated: date | None = None
    """The day (YYYY-MM-DD) these prices were right; published as their age."""


class NodeSettings(_Section, frozen=True):
    """What to believe of the node where its labels say nothing (a plain VM has none)."""

    instance_type: str = ""
    region: str = ""
    capacity_type: CapacityType | None = None
    labels: dict[Words, str] = field(default_factory=dict)
    """As if they were the Node's."""


class Nvml(_Section, frozen=True):
    """The NVML source."""

    enabled: bool = True
    timeout_seconds: Seconds = 4.0
    """After this a read counts as hung; the page goes on without it."""


class Dcgm(_Section, frozen=True):
    """The DCGM source: a dcgm-exporter on this node."""

    enabled: bool = True
    url: Annotated[str, Meta(pattern=r"^https?://")] | None = None
    """Its /metrics; unset: found among the node's pods."""
    pod_selector: dict[Words, str] = field(default_factory=dict)
    """Pod labels to find it by; unset: app=nvidia-dcgm-exporter and its Helm chart's."""
    namespaces: tuple[Words, ...] = ()
    """Where to look for it; unset: anywhere. What it says decides who pays: name its namespace
    where tenants may make pods that carry its labels."""
    port: Annotated[int, Meta(ge=1, le=65_535)] = 9400
    """Of the exporter found among the node's pods."""
    timeout_seconds: Seconds = 3.0
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 16 << 20
    """A larger page is refused."""
    interval_seconds: Seconds = 10.0
    """dcgm-exporter renews its values every 30 s by default; asking much oftener only costs."""


class Kubelet(_Section, frozen=True):
    """The kubelet's pod-resources socket."""

    enabled: bool = True
    socket: Words = "/var/lib/kubelet/pod-resources/kubelet.sock"
    """Its path as this process sees it."""
    timeout_seconds: Seconds = 3.0
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 64 << 20
    """A larger answer is refused."""
    keep_holders_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """How long the last known holders stay while the kubelet is silent."""
    resource_names: tuple[Words, ...] = ()
    """Extended resources that are GPUs, beside nvidia.com/gpu, gpu.shared and mig-*."""


class Kubernetes(_Section, frozen=True):
    """The API server."""

    enabled: bool = True
    timeout_seconds: Seconds = 10.0
    team_labels: tuple[Words, ...] = ("gpucost.io/team", "team", "app.kubernetes.io/part-of")
    """Pod labels that name the team; the first one present counts."""
    published_labels: tuple[Words, ...] = ()
    """Pod labels joined through gpucost_pod_labels; shell patterns, e.g. `app.kubernetes.io/*`."""
    published_annotations: tuple[Words, ...] = ()
    """The same for annotations. `gpucost.io/exempt` is always published: the alerts read it."""


class RequestRule(_Section, frozen=True):
    """Where pods show their metrics, by their labels. The first rule that matches a pod counts.

    Only here can a bearer token be stated: it goes to the pods that the rule selects, and never
    to one that only says of itself that it shows metrics.
    """

    pod_selector: Annotated[dict[Words, str], Meta(min_length=1)]
    """Pod labels that must all be there, with these values."""
    port: Annotated[int, Meta(ge=1, le=65_535)]
    """At the pod's own address."""
    namespaces: tuple[Words, ...] = ()
    """Where it applies; unset: anywhere."""
    path: Annotated[str, Meta(pattern=r"^/[!-~]*$", max_length=1024)] = "/metrics"
    """NIM has /v1/metrics, TensorRT-LLM /prometheus/metrics."""
    scheme: Literal["http", "https"] = "http"
    ca_file: Words | None = None
    """Certificates to trust; unset: those that the system trusts."""
    insecure_skip_verify: bool = False
    """Take any certificate: pods seldom have one for their address."""
    bearer_token_file: Words | None = None
    """Read anew for each request."""
    engine: Words | None = None
    """A row of the table of engines, or a name of requests.engines; unset: whichever knows the
    page."""
    served_model: Words | None = None
    """What it serves, for an engine that does not say."""
    part: Literal["alone", "member", "helper"] | None = None
    """Whether several pods do the work together (docs/requests.md); unset: by the pod's labels."""


Series = Annotated[str, Meta(min_length=1, max_length=1000)]


class CustomEngine(_Section, frozen=True):
    """Your own server: which of its series count its work.

    A series is like `name{label="value"}`, with Prometheus's matchers; several are added up with
    `+`, and ` * 0.001` makes seconds of milliseconds. What it does not count is left out.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    """As in the label `engine`."""
    model_label: str = ""
    """The label that names the served model."""
    finished: Series | None = None
    """Requests in all, where successes alone are not counted."""
    success: Series | None = None
    failure: Series | None = None
    aborted: Series | None = None
    """Those that the client gave up."""
    input_tokens: Series | None = None
    cached_input_tokens: Series | None = None
    """Of the input, what came from a prefix cache."""
    cached_in_input: bool = True
    """Whether input_tokens holds the cached ones too."""
    output_tokens: Series | None = None
    prefill_seconds: Series | None = None
    decode_seconds: Series | None = None
    compute_seconds: Series | None = None
    """By which the models of one server are told apart in cost."""
    running: Series | None = None
    waiting: Series | None = None
    batch_size: Series | None = None


class Requests(_Section, frozen=True):
    """The requests source: the metrics of the inference servers in this node's GPU pods."""

    enabled: bool = True
    interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    """How often each server is asked."""
    timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 3.0
    """For the whole answer, to its last byte."""
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 16 << 20
    """A larger page is refused."""
    max_concurrent: Annotated[int, Meta(ge=1, le=32)] = 2
    """Servers that are asked at once."""
    window_seconds: Annotated[float, Meta(ge=60, le=86_400)] = 600.0
    """Over which cost per request and per token are taken."""
    rules: tuple[RequestRule, ...] = ()
    """Where pods that do not say so themselves show their metrics."""
    engines: tuple[CustomEngine, ...] = ()
    """Servers that the shipped table does not know."""


class Http(_Section, frozen=True):
    """The HTTP server."""

    max_connections: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """More at once are refused."""
    timeout_seconds: Seconds = 15.0
    """A client slower than this is hung up on."""


class Config(_Section, frozen=True):
    """Everything one file may say."""

    cycle_seconds: Annotated[float, Meta(ge=1, le=300)] = 5.0
    """How often the node is read and charged."""
    scrape_interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    """Of the Prometheus that scrapes: new counters are shown at 0 for two of these."""
    idle_threshold_ratio: Ratio = 0.01
    """A cycle whose peak activity stays under this is idle."""
    starting_max_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 1800.0
    """How long a holder counts as starting, at most."""
    labels_wait_seconds: Annotated[float, Meta(ge=0, le=600)] = 60.0
    """How long a new counter waits for its pod's labels before they are `unknown` for good."""
    linger_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """How long an ended pod's counters stay."""
    unhealthy_paid_by: Literal["node", "holder"] = "node"
    """Who pays for a lost or failed GPU."""
    billing_time_zone: str = "UTC"
    """In which months begin and end; an IANA name."""
    node: NodeSettings = NodeSettings()
    prices: Prices = Prices()
    nvml: Nvml = Nvml()
    dcgm: Dcgm = Dcgm()
    kubelet: Kubelet = Kubelet()
    kubernetes: Kubernetes = Kubernetes()
    requests: Requests = Requests()
    http: Http = Http()

    @property
    def zone(self) -> ZoneInfo:
        """The billing time zone."""
        return ZoneInfo(self.billing_time_zone)


ENGINE_FIGURES = tuple(
    name
    for name in CustomEngine.__struct_fields__
    if name not in ("name", "model_label", "cached_in_input")
)
"""The fields of a CustomEngine that are series."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")


class UniqueKeys(yaml.SafeLoader):
    """YAML lets a later duplicate key win in silence; a price table must not."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401 - PyYAML's signature
        """A plain value. Raises ConfigError for text that UTF-8 cannot write."""
        value = super().construct_scalar(node)
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            raise ConfigError(
                f"{_where(node.start_mark)}: half of a surrogate pair (\\uD800 to \\uDFFF) is no"
                " character and could not be published. Write the character itself."
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """A mapping. Raises ConfigError for a key given twice."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # merges of merges grow exponentially
                raise ConfigError(
                    f"{_where(key_node.start_mark)}: merge keys (`<<`) are not taken. Write the"
                    " keys out."
                )
            key = self.construct_object(key_node, deep=True)
            try:
                duplicate = key in seen
            except TypeError:
                raise ConfigError(
                    f"{_where(key_node.start_mark)}: a key must be plain text, not a list or map."
                ) from None
            if duplicate:
                raise ConfigError(
                    f"{_where(key_node.start_mark)}: `{key}` is given twice. Keep one of them."
                )
            seen.add(key)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep=deep))


class _Dumper(yaml.SafeDumper):
    """Writes text that UniqueKeys would take for a number in quotes."""


for _side in (UniqueKeys, _Dumper):
    # YAML 1.1, PyYAML's, takes 1e-05 for text; YAML 1.2 (10.3.2, tag resolution), and Helm, which
    # writes it so, for a number.
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _where(mark: yaml.Mark | None) -> str:
    return "the file" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"


def load(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises ConfigError, which names the file, the field and the remedy.
    """
    try:
        return parse(read_bounded(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_bounded(path: Path) -> bytes:
    """Read a settings file of at most MAX_CONFIG_BYTES. Raises ConfigError, without the path."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"larger than {MAX_CONFIG_BYTES} bytes. Is it the right file?")
    return text


def parse(text: str | bytes) -> Config:
    """Validate the text of a configuration file. Raises ConfigError."""
    try:
        raw = yaml.load(text, Loader=UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{_where(error.problem_mark)}: not YAML: {error.problem}. Mend the syntax there."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"not YAML: {error}. Save it as UTF-8 text in YAML.") from error
    try:
        config = msgspec.convert({} if raw is None else raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), raw)) from error
    _check(config)
    return config


def dump(config: Config) -> str:
    """The text of a configuration file that says all of this; `parse` takes it back."""
    fields = msgspec.to_builtins(config, builtin_types=(date,))
    return yaml.dump(fields, Dumper=_Dumper, sort_keys=False)


def _explain(message: str, raw: object) -> str:
    """Put msgspec's `what - at $.path` as `path: what`, with what to do."""
    what, _, at = message.partition(" - at `")
    a_key, _, path = at.rpartition("$")
    path = _name_key(path.rstrip("`").lstrip("."), raw) or "top level"
    if a_key:
        path = f"a key of {path}"
    if unknown := re.search(r"unknown field `(.*)`", what):
        return (
            f"{path}: there is no setting `{unknown[1]}`. Check its spelling and indentation"
            " against docs/operations.md."
        )
    if what.startswith("Expected `str") and "length" not in what:
        return f"{path}: {what}. Put it in quotes, if the value is meant."
    return f"{path}: {what}. Correct the value (docs/operations.md lists every setting)."


def _name_key(path: str, raw: object) -> str:
    """Put the key itself for the `[...]` that msgspec writes for any key of a map."""
    before, dots, after = path.partition("[...]")
    if not dots:
        return path
    steps = re.findall(r"\w+", before)
    entries: Any = raw
    for step in steps:
        entries = entries[int(step) if step.isdigit() else step]
    for key, value in entries.items():
        alone: object = {key: value}
        for step in reversed(steps):
            alone = [alone] if step.isdigit() else {step: alone}
        try:
            msgspec.convert(alone, Config)
        except msgspec.ValidationError:
            return f"{before}[{key}]{after}"
    return path


def _check_prices(stated: Prices) -> None:
    """Rows and discounts that could not be meant. Raises ConfigError."""
    earlier: dict[object, int] = {}
    for index, row in enumerate(stated.table):
        path = f"prices.table[{index}]"
        prices = [row.gpu_usd_per_hour, row.node_usd_per_hour, row.on_premises]
        if sum(price is not None for price in prices) != 1:
            raise ConfigError(
                f"{path}: give exactly one of gpu_usd_per_hour, node_usd_per_hour and on_premises."
            )
        conditions = (
            frozenset(row.node_selector.items()),
            row.instance_type,
            row.region,
            row.capacity_type,
            row.gpu_model,
        )
        if (first := earlier.setdefault(conditions, index)) != index:
            raise ConfigError(
                f"{path}: states the same conditions as prices.table[{first}], so it could never"
                " apply. Remove one of them."
            )
    models: dict[str, str] = {}
    for model in stated.fallback:
        alike = re.sub(r"[^a-z0-9]+", "-", model.casefold())
        if alike in models:
            raise ConfigError(
                f"prices.fallback[{model}]: the same model as prices.fallback[{models[alike]}]."
                " Keep one of them."
            )
        models[alike] = model
    for index, discount in enumerate(stated.discounts):
        if discount in stated.discounts[:index]:
            raise ConfigError(
                f"prices.discounts[{index}]: given twice, so it would be taken off twice. Remove"
                " one, or give it another name."
            )


def _check_requests(stated: Requests) -> None:
    """Engines that are not there, or not as they are written. Raises ConfigError."""
    known = set(ENGINE_NAMES)
    for index, engine in enumerate(stated.engines):
        path = f"requests.engines[{index}]"
        if engine.name in known:
            raise ConfigError(
                f"{path}.name: there is an engine `{engine.name}` already. Rename it."
            )
        known.add(engine.name)
        figures = {name: getattr(engine, name) for name in ENGINE_FIGURES}
        if not any(figures.values()):
            raise ConfigError(f"{path}: counts nothing. Name at least one series of its work.")
        for name, written in figures.items():
            try:
                _ = () if written is None else parse_series(written)
            except ValueError as error:
                raise ConfigError(
                    f"{path}.{name}: {error}. Write it like"
                    ' requests_total{code=~"2.."} (docs/requests.md).'
                ) from error
    for index, rule in enumerate(stated.rules):
        if rule.engine is not None and rule.engine not in known:
            raise ConfigError(
                f"requests.rules[{index}].engine: there is no engine `{rule.engine}`. Known are"
                f" {', '.join(sorted(known))}."
            )


def _check(config: Config) -> None:
    """What types cannot say. Raises ConfigError."""
    try:
        _ = config.zone
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"billing_time_zone: no time zone `{config.billing_time_zone}`. Use an IANA name such"
            " as Europe/Berlin."
        ) from error
    _check_prices(config.prices)
    _check_requests(config.requests)
    if 2 * config.scrape_interval_seconds > config.linger_seconds:
        raise ConfigError(
            "linger_seconds: ended pods' counters must stay for at least two scrape intervals"
            f" ({2 * config.scrape_interval_seconds:g} s), or their last dollars are never seen."
        )
    if config.labels_wait_seconds > config.linger_seconds:
        raise ConfigError(
            "labels_wait_seconds: must not be longer than linger_seconds"
            f" ({config.linger_seconds:g} s), or a short pod's dollars would end without labels."
        )
