"""What is fuzzed: every parser of what comes from outside, as a function of bytes.

A target lets through only the errors that its parser promises. Each has seeds in
corpus/<name>/, and those of the recorded nodes in tests/nodes. A new parser joins by a row here.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import advice_targets
import price_targets

from gpucost import checkpoint, config
from gpucost.advice.answer import AnswerError
from gpucost.cgroups import owner_of
from gpucost.config import ConfigError, Dcgm, Kubernetes, Requests
from gpucost.engines import table_of
from gpucost.pricing.price_list import PriceListError
from gpucost.pricing.problems import read_annotation
from gpucost.restart import Moment, resumed
from gpucost.series import parse_series
from gpucost.sizing.facts import FactsError
from gpucost.sizing.shapes import ShapeError
from gpucost.sources import kube_watch, podresources
from gpucost.sources.base import SourceError
from gpucost.sources.dcgm_page import parse_dcgm
from gpucost.sources.dra import SliceCollection
from gpucost.sources.dra_objects import ClaimList, SliceList, devices_of, results_by_claim
from gpucost.sources.engine_page import EnginePage, parse_engine_page
from gpucost.sources.hami import parse_reserved
from gpucost.sources.kube_objects import decode, parse_node, parse_pod, parse_pod_list
from gpucost.sources.kubernetes import PodCollection
from gpucost.sources.proto.podresources_v1_pb2 import (
    AllocatableResourcesResponse,
    ListPodResourcesResponse,
)
from gpucost.sources.recorded import parse_nvml
from gpucost.web_config import file as web_config_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
NODES = HERE.parent / "nodes"
SAMPLES = HERE.parent / "samples"
SETTINGS = Kubernetes(published_labels=("*",), published_annotations=("*",))
ENGINES = table_of()
MAX_SEED_BYTES = 16 << 10
"""A longer seed makes each try slow, and teaches no more."""


class Target(NamedTuple):
    """A parser. `covers` are the files, or `file:function`s, that its corpus must go through."""

    run: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    covers: tuple[str, ...]
    seeds: tuple[str, ...] = ()
    """Names of files in tests/nodes that are among its inputs."""


def parse_checkpoint(data: bytes) -> None:
    """As it is, and as the body of one whose checksum agrees; what is read is gone on with."""
    for whole in (data, sealed(data)):
        try:
            found = checkpoint.decode(whole)
        except checkpoint.CheckpointError:
            continue
        for node in ("node-1", found.node):
            for boot in ("", found.boot_id):
                resumed(found, Moment(1_795_400_000.0, 60_000.0, node, boot), ZoneInfo("UTC"))
        checkpoint.encode(found)


def sealed(body: bytes) -> bytes:
    """A body under a header that agrees with it."""
    digest = sha256(body).hexdigest().encode()
    return b"gpucost-checkpoint 1 %s %d\n%s" % (digest, len(body), body)


def parse_pod_resources(data: bytes) -> None:
    """Both answers in one input, the first byte of which says how long the first is."""
    cut = 1 + int.from_bytes(data[:2], "big") % max(len(data), 1)
    first, second = data[2 : 2 + cut], data[2 + cut :]
    podresources._pods_in(first)  # noqa: SLF001 - bytes from the kubelet, read by hand
    listed = podresources._decode(ListPodResourcesResponse, first)  # noqa: SLF001 - as `read` does
    offered = podresources._decode(AllocatableResourcesResponse, second)  # noqa: SLF001
    podresources.parse_holdings(listed, None, ("acme.example/gpu",))
    podresources.parse_holdings(listed, offered)


def parse_pod_resources_json(data: bytes) -> None:
    """As a recording has them."""
    podresources.parse_holdings(podresources.parse_list_json(data), None)


def parse_pods(data: bytes) -> None:
    """A list as it stands in a recording, and one pod."""
    try:
        parse_pod_list(data, SETTINGS, "gpu-1")
    except SourceError:
        parse_pod(data, SETTINGS, ("acme.example/gpu",))


def read_engine(data: bytes) -> None:
    """A page in two pieces; what is kept of it reads as the whole did."""
    page = EnginePage(ENGINES)
    page.feed(data[: len(data) // 2])
    page.feed(data[len(data) // 2 :])
    if parse_engine_page(page.kept(), ENGINES) != page.models():
        raise AssertionError("what was kept of the page reads otherwise")


class _Bytes:
    """A stream of what was given, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def chunks(self) -> Iterator[bytes]:
        size = 1 + len(self._data) // 3
        for at in range(0, len(self._data), size):
            yield self._data[at : at + size]


class _Watched(kube_watch.Watch):
    """A watch without an API server."""

    def __init__(self, collection: kube_watch.Collection) -> None:
        self._path = "/api/v1/pods"
        self._collection = collection
        self._version = ""
        self._list_version = ""
        self._failures = 0

    def take(self, data: bytes) -> None:
        self._take_all(_Bytes(data))  # type: ignore[arg-type]


def follow_watch(data: bytes) -> None:
    """Lines of a watch, of pods and of resource slices."""
    pods, slices = (
        PodCollection(SETTINGS, Dcgm(), "gpu-1", (), Requests()),
        SliceCollection("gpu-1"),
    )
    failure: SourceError | None = None
    for collection in (pods, slices):
        try:
            _Watched(collection).take(data)
        except SourceError as error:
            failure = error
    pods.show()
    slices.show()
    if failure is not None:
        raise failure


def read_series(data: bytes) -> None:
    """A written figure, and whether it takes a series; a person wrote its patterns."""
    terms = parse_series(data.decode("utf-8", "replace"))
    for term in terms:
        term.takes({"model": "a", "code": "200"})


def read_claims(data: bytes) -> None:
    """ResourceClaims and ResourceSlices, listed."""
    results_by_claim(decode(data, ClaimList).items or ())
    devices_of(decode(data, SliceList).items or (), "")


def read_node(data: bytes) -> None:
    """A Node, and the price that it is annotated with."""
    read_annotation(parse_node(data))


_FACTS = tuple(
    f"sizing/facts.py:_Reader.{it}" for it in ("take", "_open", "_source", "_row", "_end")
)

TARGETS = {
    "config": Target(
        lambda data: void(config.parse(data)),
        (ConfigError,),
        ("config.py:parse", "config.py:_explain", "config.py:_name_key", "config.py:_check"),
        ("config.yaml",),
    ),
    "web_config": Target(
        lambda data: void(web_config_file.parse(data)),
        (ConfigError,),
        ("web_config/file.py:parse",),
    ),
    "checkpoint": Target(parse_checkpoint, (), ("checkpoint.py", "restart.py:resumed")),
    "dcgm": Target(
        lambda data: void(parse_dcgm(data, node_name="gpu-1")),
        (SourceError,),
        ("sources/dcgm_page.py", "sources/dcgm_devices.py", "sources/promtext.py"),
        ("dcgm.prom",),
    ),
    "engine": Target(
        read_engine,
        (SourceError,),
        ("sources/engine_page.py", "sources/promtext.py:parse_sample"),
    ),
    "hami": Target(
        lambda data: void(
            [
                parse_reserved(data.decode("utf-8", "replace"), asking)
                for asking in ((), ("main",), ("main", "side"))
            ]
        ),
        (),
        ("sources/hami.py",),
    ),
    "podresources": Target(
        parse_pod_resources,
        (SourceError,),
        (
            "sources/podresources.py:_pods_in",
            "sources/podresources.py:parse_holdings",
            "sources/podresources.py:_decode",
        ),
    ),
    "podresources_json": Target(
        parse_pod_resources_json,
        (SourceError,),
        ("sources/podresources.py:_parse_json",),
        ("podresources.json",),
    ),
    "pods": Target(
        parse_pods,
        (SourceError,),
        ("sources/kube_objects.py:pod_of", "sources/workloads.py"),
        ("pods.json",),
    ),
    "node": Target(
        read_node,
        (SourceError,),
        (
            "sources/kube_objects.py:parse_node",
            "sources/node_labels.py",
            "pricing/problems.py:read_annotation",
        ),
        ("node.json",),
    ),
    "watch": Target(
        follow_watch,
        (SourceError,),
        (
            "sources/kube_watch.py:Watch._take",
            "sources/kube_watch.py:Watch._take_all",
            "sources/kube_watch.py:_lines",
            "sources/kubernetes.py:PodCollection.put",
            "sources/kubernetes.py:PodCollection.drop",
            "sources/kube_objects.py:dcgm_url_of",
            "sources/kube_objects.py:ended_at",
            "sources/dra_objects.py:devices_of",
        ),
    ),
    "recording": Target(
        lambda data: void(parse_nvml(data)),
        (SourceError,),
        ("sources/recorded.py:parse_nvml",),
        ("nvml.json",),
    ),
    "claims": Target(
        read_claims,
        (SourceError,),
        (
            "sources/dra_objects.py:results_of",
            "sources/dra_objects.py:results_by_claim",
            "sources/dra_objects.py:devices_of",
        ),
        ("resourceclaims.json", "resourceslices.json"),
    ),
    "series": Target(read_series, (ValueError,), ("series.py",)),
    "price_list": Target(price_targets.parse_list, (PriceListError,), ("pricing/price_list.py",)),
    "aws": Target(
        price_targets.parse_aws,
        (SourceError,),
        tuple(
            f"sources/price_apis/aws.py:{name}"
            for name in ("parse_csv", "_head", "_offer", "_number", "parse_spot_history")
        ),
    ),
    "azure": Target(
        price_targets.parse_azure,
        (SourceError,),
        ("sources/price_apis/azure.py:parse_page", "sources/price_apis/azure.py:offers_of"),
    ),
    "gcp": Target(
        price_targets.parse_gcp,
        (SourceError,),
        tuple(
            f"sources/price_apis/gcp.py:{name}"
            for name in ("parse_machines", "parse_skus", "attached_of")
        ),
    ),
    "oci": Target(
        price_targets.parse_oci, (SourceError,), ("sources/price_apis/oci.py:parse_products",)
    ),
    "facts": Target(advice_targets.parse_facts, (FactsError,), ("sizing/facts.py:parse", *_FACTS)),
    "shape": Target(
        advice_targets.parse_shape,
        (ShapeError,),
        ("sizing/config_json.py",),
    ),
    "prometheus": Target(advice_targets.parse_prometheus, (AnswerError,), ("advice/answer.py",)),
    "invoice": Target(
        advice_targets.parse_invoice,
        (ConfigError,),
        tuple(
            f"advice/report/invoice.py:{name}"
            for name in ("parse", "_gathered", "_cur", "_focus", "_focus_type", "_day", "_number")
        ),
    ),
    "cgroup": Target(
        lambda data: void(owner_of(data.decode("utf-8", "replace"))), (), ("cgroups.py",)
    ),
}


def void(_: object) -> None:
    """Nothing is made of what was read."""


def seeds_of(name: str) -> list[bytes]:
    """The committed inputs of a target, the shortest first."""
    found = {path.read_bytes() for path in (HERE / "corpus" / name).glob("*")}
    for file in TARGETS[name].seeds:
        found |= {path.read_bytes() for path in NODES.rglob(file)}
    if folder := {"dcgm": "dcgm", "engine": "engines"}.get(name):
        found |= {path.read_bytes() for path in (SAMPLES / folder).rglob("*.prom")}
    if name == "checkpoint":
        whole = (SAMPLES / "checkpoint-1").read_bytes()
        found |= {whole, whole.partition(b"\n")[2]}
    return sorted((seed for seed in found if len(seed) <= MAX_SEED_BYTES), key=len)


def tried(name: str, data: bytes) -> bool:
    """Whether the parser took the input; False where it refused as it promises."""
    target = TARGETS[name]
    try:
        target.run(data)
    except target.refusals:
        return False
    return True
