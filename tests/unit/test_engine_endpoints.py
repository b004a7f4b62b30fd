"""Where a pod shows its metrics: what its annotations, the settings and its ports say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.config import Kubernetes, RequestRule, Requests
from gpucost.model import Endpoint, Part, Serving
from gpucost.sources.engine_endpoints import PodFacts, serving_of
from gpucost.sources.kube_objects import parse_pod

RULE = RequestRule(pod_selector={"app": "llm"}, port=8000, path="/v1/metrics", engine="nim")


def serving(
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    *,
    ip: str = "10.1.2.3",
    ports: tuple[tuple[str, int], ...] = (),
    settings: Requests = Requests(),  # noqa: B008 - frozen
) -> Serving | None:
    return serving_of(PodFacts("serving", ip, labels or {}, annotations or {}, ports), settings)


def urls(found: Serving | None) -> list[str]:
    return [] if found is None else [endpoint.url for endpoint in found.endpoints]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("8000", ["http://10.1.2.3:8000/metrics"]),
        (":8000/v1/metrics", ["http://10.1.2.3:8000/v1/metrics"]),
        ("https://:8443", ["https://10.1.2.3:8443/metrics"]),
        ("8000, 8002/m", ["http://10.1.2.3:8000/metrics", "http://10.1.2.3:8002/m"]),
        ("none", []),
        ("", []),
    ],
)
def test_the_annotation_says_port_and_path(said: str, expected: list[str]) -> None:
    ports = (("metrics", 9999),)
    assert urls(serving({"gpucost.io/metrics": said}, ports=ports)) == expected


@pytest.mark.parametrize(
    "said",
    [
        "http://169.254.169.254/latest",
        "http://10.0.0.9:80/metrics",
        "evil.example:80/metrics",
        "8000@evil.example/metrics",
        "80/a b",
        "80/a\r\nHost: evil",
        "0",
        "65536",
        "file:///etc/passwd",
    ],
)
def test_no_annotation_leads_to_another_address(said: str) -> None:
    assert urls(serving({"gpucost.io/metrics": said})) == []
    prometheus = {"prometheus.io/scrape": "true", "prometheus.io/port": said}
    assert urls(serving(prometheus)) == []


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_an_annotation_says_it_is_the_pods_own_address(port: str, path: str) -> None:
    for said in (
        {"gpucost.io/metrics": port + path},
        {"prometheus.io/scrape": "true", "prometheus.io/port": port, "prometheus.io/path": path},
    ):
        for url in urls(serving(said)):
            assert url.startswith(("http://10.1.2.3:", "https://10.1.2.3:"))
            assert url.isprintable()
            assert " " not in url


def test_a_rule_applies_to_the_pods_it_selects_where_they_say_nothing_themselves() -> None:
    settings = Requests(rules=(RequestRule(pod_selector={"app": "no"}, port=1), RULE))
    found = serving(labels={"app": "llm"}, ports=(("metrics", 9),), settings=settings)
    assert found is not None
    assert found.endpoints == (Endpoint("http://10.1.2.3:8000/v1/metrics", engine="nim", rule=1),)
    own = serving({"gpucost.io/metrics": "1"}, {"app": "llm"}, settings=settings)
    assert urls(own) == ["http://10.1.2.3:1/metrics"]
    assert serving(labels={"app": "other"}, settings=settings) is None


def test_a_rule_is_for_its_namespaces_only() -> None:
    elsewhere = RequestRule(pod_selector={"app": "llm"}, port=1, namespaces=("other",))
    assert serving(labels={"app": "llm"}, settings=Requests(rules=(elsewhere,))) is None


def test_prometheus_annotations_are_followed() -> None:
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    found = serving(annotations | {"prometheus.io/path": "/m?x=1", "prometheus.io/scheme": "https"})
    assert urls(found) == ["https://10.1.2.3:8080/m?x=1"]
    assert found is not None
    assert not found.endpoints[0].stated
    assert urls(serving({"prometheus.io/scrape": "true"}, ports=(("http", 8000),))) == [
        "http://10.1.2.3:8000/metrics"
    ]
    assert serving(annotations | {"prometheus.io/scrape": "false"}) is None


def test_a_port_called_metrics_is_tried() -> None:
    found = serving(ports=(("http", 8000), ("metrics", 8001), ("http-metrics", 8002)))
    assert urls(found) == ["http://10.1.2.3:8001/metrics", "http://10.1.2.3:8002/metrics"]


def test_ipv6_is_written_in_brackets() -> None:
    assert urls(serving({"gpucost.io/metrics": "80"}, ip="fd00::1")) == [
        "http://[fd00::1]:80/metrics"
    ]


@pytest.mark.parametrize("ip", ["", "not-an-address", "evil.example"])
def test_a_pod_without_an_address_is_not_asked(ip: str) -> None:
    assert serving({"gpucost.io/metrics": "80"}, ip=ip) is None


@pytest.mark.parametrize(
    ("labels", "annotations", "part"),
    [
        ({}, {}, None),
        ({"llm-d.ai/role": "prefill"}, {}, Part.HELPER),
        ({"llm-d.ai/role": "decode"}, {}, Part.MEMBER),
        ({"llm-d.ai/role": "both"}, {}, None),
        ({"nvidia.com/dynamo-sub-component-type": "prefill"}, {}, Part.HELPER),
        ({"ray.io/cluster": "r"}, {}, Part.MEMBER),
        ({"leaderworkerset.sigs.k8s.io/name": "l"}, {}, Part.MEMBER),
        (
            {"leaderworkerset.sigs.k8s.io/name": "l"},
            {"leaderworkerset.sigs.k8s.io/size": "1"},
            None,
        ),
        ({"ray.io/cluster": "r"}, {"gpucost.io/part": "alone"}, None),
        ({}, {"gpucost.io/part": "helper"}, Part.HELPER),
        ({}, {"gpucost.io/part": "nonsense"}, None),
    ],
)
def test_what_a_pod_is_to_the_others(
    labels: dict[str, str], annotations: dict[str, str], part: Part | None
) -> None:
    found = serving(annotations, labels)
    assert (None if found is None else found.part) == part


def test_names_of_models_are_taken_from_the_pod_where_its_engine_has_none() -> None:
    found = serving(
        {
            "gpucost.io/metrics": "80",
            "gpucost.io/served-model": " llama ",
            "gpucost.io/served-models": "a, b,,a",
        }
    )
    assert found is not None
    assert (found.served_model, found.models) == ("llama", ("a", "b"))


def a_pod(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever an object holds
    pod: dict[str, Any] = {
        "metadata": {
            "name": "p",
            "namespace": "serving",
            "annotations": {"gpucost.io/metrics": "8000"},
        },
        "spec": {
            "containers": [
                {"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
                {"name": "proxy", "ports": [{"name": "metrics", "containerPort": 15090}]},
            ]
        },
        "status": {"phase": "Running", "podIP": "10.0.0.7"},
    }
    return {**pod, **changes}


def test_a_running_gpu_pod_is_asked_at_its_own_address() -> None:
    pod = parse_pod(a_pod(), Kubernetes())
    assert urls(pod.serving) == ["http://10.0.0.7:8000/metrics"]


def test_pods_without_a_gpu_or_that_do_not_run_are_not_asked() -> None:
    assert parse_pod(a_pod(spec={"containers": [{"name": "main"}]}), Kubernetes()).serving is None
    pending = a_pod(status={"phase": "Pending", "podIP": "10.0.0.7"})
    assert parse_pod(pending, Kubernetes()).serving is None
    off = Requests(enabled=False)
    assert parse_pod(a_pod(), Kubernetes(), requests=off).serving is None
