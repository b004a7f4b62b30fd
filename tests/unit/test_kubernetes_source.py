"""The Kubernetes source against a real HTTP server that lists and watches."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.client import Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader

from gpucost.config import Dcgm, Kubernetes
from gpucost.sources import kube_watch, kubernetes
from gpucost.sources.base import ClusterRead, SourceError
from gpucost.sources.kube_watch import Pace
from gpucost.sources.kubernetes import KubernetesSource
from kube_api import KubeApiServer, node, pod
from watching import FAST, until, watching

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[KubeApiServer]:
    with KubeApiServer() as running:
        running.put("nodes", node())
        yield running


def names(source: KubernetesSource) -> list[str]:
    try:
        pods = source.read().pods
    except SourceError:
        return ["error"]
    return sorted(name for _, name in pods or {})


def ended(name: str, at: str) -> dict[str, Any]:
    """A pod whose only container has ended."""
    found = pod(name, phase="Succeeded")
    state = {"terminated": {"exitCode": 0, "finishedAt": at}}
    found["status"]["containerStatuses"] = [{"name": "main", "state": state}]
    return found


def kinds(read: ClusterRead) -> list[str]:
    return [problem.kind for problem in read.problems]


def failure(source: KubernetesSource) -> SourceError:
    with pytest.raises(SourceError) as raised:
        source.read()
    return raised.value


class TestFollowing:
    def test_lists_the_pods_and_the_node(self, server: KubeApiServer) -> None:
        server.put("pods", pod("train-0"))
        with watching(server) as source:
            read = source.read()
        assert read.pods is not None
        assert read.pods["ml", "train-0"].uid == "uid-train-0"
        assert read.node is not None
        assert read.node.provider == "aws"
        assert read.problems == ()

    def test_asks_the_cache_for_this_node_only_and_for_bookmarks(
        self, server: KubeApiServer
    ) -> None:
        server.put("pods", pod("elsewhere", node="gpu-2"))
        with watching(server) as source:
            assert names(source) == []
        lists = {r.resource: r.query for r in server.requests if not r.watch}
        assert lists == {
            "pods": {"fieldSelector": "spec.nodeName=gpu-1", "resourceVersion": "0"},
            "nodes": {"fieldSelector": "metadata.name=gpu-1", "resourceVersion": "0"},
        }
        watches = [r.query for r in server.requests if r.watch]
        assert all(query["allowWatchBookmarks"] == "true" for query in watches)
        assert all(int(query["timeoutSeconds"]) > 60 for query in watches)

    def test_sees_pods_come_change_and_go(self, server: KubeApiServer) -> None:
        with watching(server) as source:
            server.put("pods", pod("a", phase="Pending"))
            until(lambda: names(source) == ["a"])
            server.put("pods", pod("a", phase="Running"))
            until(lambda: _phase(source, "a") == "Running")
            server.delete("pods", "a", "ml")
            until(lambda: names(source) == [])
        assert server.count("pods", watch=False) == 1

    def test_remembers_when_the_last_pods_ended(
        self, server: KubeApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kubernetes, "MAX_ENDED", 2)
        with watching(server) as source:
            assert source.read().ended == {}
            for number in range(3):
                name = f"job-{number}"
                server.put("pods", pod(name))
                server.put("pods", ended(name, f"2025-11-24T15:30:0{number}Z"))
                server.delete("pods", name, "ml")
            server.put("pods", pod("last"))
            until(lambda: names(source) == ["last"])
            at = dt.datetime(2025, 11, 24, 15, 30, 1, tzinfo=dt.UTC).timestamp()
            assert source.read().ended == {"uid-job-1": at, "uid-job-2": at + 1}
            assert source.read().ended is source.read().ended

    def test_sees_the_node_change_and_keeps_it_when_its_object_goes(
        self, server: KubeApiServer
    ) -> None:
        with watching(server) as source:
            server.put("nodes", node(labels={"karpenter.sh/capacity-type": "spot"}))
            until(lambda: _capacity(source) == "spot")
            server.delete("nodes", "gpu-1")
            server.put("pods", pod("later"))
            until(lambda: names(source) == ["later"])
            assert _capacity(source) == "spot"

    def test_gives_the_same_object_until_something_changes(self, server: KubeApiServer) -> None:
        server.put("pods", pod("a"))
        with watching(server) as source:
            first = source.read()
            assert source.read() is first
            # Changes of fields that nobody uses (a heartbeat, managedFields) are no change.
            server.put("pods", {**pod("a"), "unused": 1})
            server.put("nodes", {**node(), "status": {"images": []}})
            server.put("pods", pod("b"))
            until(lambda: names(source) == ["a", "b"])
            second = source.read()
            assert second is not first
            assert second.node is first.node
            assert source.read() is second

    def test_what_was_given_out_does_not_change(self, server: KubeApiServer) -> None:
        server.put("pods", pod("a"))
        with watching(server) as source:
            before = source.read().pods
            server.put("pods", pod("b"))
            until(lambda: names(source) == ["a", "b"])
            assert before is not None
            assert sorted(before) == [("ml", "a")]

    def test_asks_nothing_in_steady_state(self, server: KubeApiServer) -> None:
        with watching(server) as source:
            server.put("pods", pod("a"))
            until(lambda: names(source) == ["a"])
            for _ in range(50):
                source.read()
        assert len(server.requests) == 4

    def test_finds_the_dcgm_exporter_of_the_node(self, server: KubeApiServer) -> None:
        server.put("pods", pod("dcgm-x", labels={"app": "nvidia-dcgm-exporter"}, ip="10.0.0.7"))
        server.put("pods", pod("elsewhere", node="gpu-2", labels={"app": "nvidia-dcgm-exporter"}))
        with watching(server) as source:
            assert source.read().dcgm_url == "http://10.0.0.7:9400/metrics"
            server.delete("pods", "dcgm-x", "ml")
            until(lambda: source.read().dcgm_url is None)


class TestResuming:
    def test_goes_on_from_the_last_version_after_a_disconnect(self, server: KubeApiServer) -> None:
        with watching(server) as source:
            server.put("pods", pod("a"))
            until(lambda: names(source) == ["a"])
            server.disconnect()
            server.put("pods", pod("b"))
            until(lambda: names(source) == ["a", "b"])
            until(lambda: server.streams == 2)
            assert source.read().problems == ()
        assert server.count("pods", watch=False) == 1, "no second list"

    def test_a_bookmark_keeps_the_version_young(self, server: KubeApiServer) -> None:
        listed = server.version
        with watching(server):
            server.bookmark()
            until(lambda: server.sent == dict.fromkeys(("pods", "nodes"), server.version))
            server.disconnect()
            until(lambda: server.count("nodes", watch=True) == 2)
            until(lambda: server.count("pods", watch=True) == 2)
            until(lambda: server.streams == 2)
        resumed = {r.resource: int(r.query["resourceVersion"]) for r in server.requests if r.watch}
        assert resumed == {"pods": listed + 1, "nodes": listed + 2}

    @pytest.mark.parametrize("how", ["in the stream", "as a status"])
    def test_lists_again_when_the_version_is_gone(self, server: KubeApiServer, how: str) -> None:
        server.put("pods", pod("a"))
        server.put("pods", pod("b"))
        with watching(server) as source:
            server.hang = True
            server.disconnect()
            server.delete("pods", "a", "ml")
            if how == "in the stream":
                server.forget()
            else:
                server.refusals = {"pods": [410]}
            server.hang = False
            until(lambda: names(source) == ["b"])
            until(lambda: server.streams == 2)
            assert source.read().problems == ()
        assert server.count("pods", watch=False) == 2

    def test_asks_etcd_when_the_cache_itself_is_too_old(self, server: KubeApiServer) -> None:
        server.refusals = {"pods": [200, 410]}
        with watching(server):
            pass
        lists = [r.query for r in server.requests if not r.watch and r.resource == "pods"]
        assert [query.get("resourceVersion") for query in lists] == ["0", None]

    def test_notices_a_connection_that_says_nothing(self, server: KubeApiServer) -> None:
        with watching(server, pace=Pace(backoff_first=0.02, idle_most=0.2)) as source:
            until(lambda: server.count("pods", watch=True) >= 3)
            assert source.read().problems == ()
            server.put("pods", pod("a"))
            until(lambda: names(source) == ["a"])
        assert server.count("pods", watch=False) == 1

    def test_waits_longer_and_longer_for_a_failing_server(self, server: KubeApiServer) -> None:
        server.refusals = {"pods": [503] * 10_000}
        pace = Pace(backoff_first=0.05, backoff_most=0.4)
        with watching(server, pace=pace, settled=False):
            until(lambda: server.count("pods", watch=False) >= 3)
            began, before = time.monotonic(), server.count("pods", watch=False)
            time.sleep(1.0)
            took = time.monotonic() - began
            assert server.count("pods", watch=False) - before <= took / 0.05


class TestBadEvents:
    def test_a_malformed_object_is_skipped_and_said(self, server: KubeApiServer) -> None:
        with watching(server) as source:
            bad = {"type": "ADDED", "object": {"metadata": {"name": 7, "resourceVersion": "1"}}}
            server.send(json.dumps(bad).encode() + b"\n")
            server.put("pods", pod("good"))
            until(lambda: names(source) == ["good"])
            assert kinds(source.read()) == ["malformed"]
        assert server.count("pods", watch=False) == 1

    @pytest.mark.parametrize("line", [b"not json\n", b'{"type": "ADDED"}\n', b"\xff\xfe\n"])
    def test_what_is_no_event_is_gone_round_by_a_list(
        self, server: KubeApiServer, line: bytes
    ) -> None:
        with watching(server) as source:
            server.send(line)
            until(lambda: server.count("pods", watch=False) == 2)
            server.put("pods", pod("good"))
            until(lambda: names(source) == ["good"])

    def test_an_event_above_the_limit_is_refused(
        self, server: KubeApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kube_watch, "MAX_EVENT_BYTES", 100_000)
        with watching(server) as source:
            server.send(b'{"type": "ADDED", "object": "' + b"x" * 1_000_000)
            until(lambda: server.count("pods", watch=False) == 2)
            server.put("pods", pod("good"))
            until(lambda: names(source) == ["good"])

    def test_a_list_above_the_limit_is_refused(
        self, server: KubeApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kube_watch, "MAX_LIST_BYTES", 10_000)
        server.put("pods", pod("huge", labels={"x": "y" * 20_000}))
        with watching(server, settled=False) as source:
            until(lambda: server.count("pods", watch=False) >= 2)
            until(lambda: _node_known(source))
            read = source.read()
        assert read.pods is None
        assert kinds(read) == ["too_large"]

    def test_a_malformed_list_is_an_error_and_not_an_empty_node(
        self, server: KubeApiServer
    ) -> None:
        server.put("pods", {**pod("a"), "status": "Running"})
        with watching(server, settled=False) as source:
            until(lambda: _node_known(source) and server.count("pods", watch=False) >= 2)
            read = source.read()
        assert read.pods is None
        assert kinds(read) == ["malformed"]


class TestFailing:
    def test_before_any_answer_it_is_starting(self, server: KubeApiServer) -> None:
        server.hang = True
        with watching(server, settled=False) as source:
            assert failure(source).kind == "starting"

    def test_a_server_that_does_not_answer_is_a_timeout(self, server: KubeApiServer) -> None:
        server.hang = True
        with watching(server, timeout_seconds=0.2, settled=False) as source:
            source.wait(20)
            until(lambda: failure(source).kind == "timeout")
            assert failure(source).remedy

    def test_nobody_there_is_unreachable(self) -> None:
        with KubeApiServer() as gone:
            pass
        with watching(gone, settled=False) as source:
            source.wait(20)
            until(lambda: failure(source).kind == "unreachable")

    def test_missing_rights_say_which(self, server: KubeApiServer) -> None:
        server.refusals = {"pods": [403] * 10_000, "nodes": [403] * 10_000}
        with watching(server, settled=False) as source:
            source.wait(20)
            error = failure(source)
        assert error.kind == "forbidden"
        assert "list, watch" in error.remedy
        assert "pods" in error.remedy

    def test_without_rights_on_nodes_the_pods_are_known(self, server: KubeApiServer) -> None:
        server.put("pods", pod("a"))
        server.refusals = {"nodes": [403] * 10_000}
        with watching(server, settled=False) as source:
            source.wait(20)
            until(lambda: names(source) == ["a"])
            read = source.read()
        assert read.node is None
        assert kinds(read) == ["forbidden"]
        assert "nodes" in read.problems[0].remedy

    def test_what_was_known_stays_when_the_server_goes_and_is_called_stale(self) -> None:
        with KubeApiServer() as server:
            server.put("nodes", node())
            server.put("pods", pod("a"))
            with watching(server) as source:
                server.__exit__(None, None, None)
                until(lambda: kinds(source.read()) == ["stale", "stale"])
                assert names(source) == ["a"]
                stale = source.read()
                assert stale.node is not None
                assert stale.stale

    def test_a_short_absence_is_no_problem(self, server: KubeApiServer) -> None:
        server.put("pods", pod("a"))
        pace = Pace(backoff_first=0.02, backoff_most=0.1, stale_after=3600)
        with watching(server, pace=pace) as source:
            server.refusals = {"pods": [503] * 5}
            server.disconnect()
            until(lambda: not server.refusals["pods"])
            assert source.read().problems == ()
            until(lambda: server.streams == 2)

    def test_a_node_that_the_cluster_does_not_have_is_said(self) -> None:
        with KubeApiServer() as server, watching(server) as source:
            assert kinds(source.read()) == ["node_unknown"]

    def test_a_node_name_that_is_not_known_is_said(self) -> None:
        source = KubernetesSource(Kubernetes(), Dcgm(), "")
        source.start()
        source.wait(0)
        assert failure(source).kind == "node_unknown"
        source.close()

    def test_credentials_that_cannot_be_read_are_said(self, server: KubeApiServer) -> None:
        def broken() -> Configuration:
            raise RuntimeError("the exec plugin failed")

        with watching(server, configure=broken, settled=False) as source:
            source.wait(20)
            assert failure(source).kind == "credentials"

    def test_outside_a_cluster_it_is_absent(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from kubernetes import config  # noqa: PLC0415 - only here

        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
        source = KubernetesSource(Kubernetes(), Dcgm(), "gpu-1", pace=FAST)
        source.start()
        source.wait(20)
        assert failure(source).kind == "absent"
        source.close()


class TestClosing:
    @pytest.mark.parametrize("state", ["watching", "hanging", "failing"])
    def test_it_is_quick_and_leaves_no_thread(self, server: KubeApiServer, state: str) -> None:
        before = threading.active_count()
        server.hang = state == "hanging"
        if state == "failing":
            server.refusals = {"pods": [500] * 10_000, "nodes": [500] * 10_000}
        pace = Pace(backoff_first=30.0)
        with watching(
            server, pace=pace, timeout_seconds=1.0, settled=state == "watching"
        ) as source:
            until(lambda: len(server.requests) >= 2)
            began = time.monotonic()
            source.close()
            assert time.monotonic() - began < 10
        server.hang = False
        until(lambda: threading.active_count() <= before + server.streams)

    def test_nothing_comes_after_it(self, server: KubeApiServer) -> None:
        with watching(server) as source:
            source.close()
            server.put("pods", pod("late"))
            until(lambda: server.sent.get("pods") == server.version or server.streams == 0)
            assert names(source) == []


class TestCredentials:
    """Over TLS, with the service account's own loader."""

    def test_a_rotated_token_is_followed(self, tmp_path: Path) -> None:
        loaders: list[InClusterConfigLoader] = []
        context = _certificate(tmp_path)
        (tmp_path / "token").write_text("first\n")
        with KubeApiServer(context) as server:
            server.put("nodes", node())
            server.accepts("first")
            with watching(server, configure=lambda: _in_cluster(server, tmp_path, loaders)) as s:
                (tmp_path / "token").write_text("second\n")
                server.accepts("second")
                # The loader reads the file again once a minute; let the minute be over.
                loaders[0].token_expires_at = dt.datetime.now()  # noqa: DTZ005 - as it does
                server.disconnect()
                server.put("pods", pod("a"))
                until(lambda: names(s) == ["a"])
                until(lambda: server.streams == 2)
            assert {r.token for r in server.requests} == {"first", "second"}
            assert len(loaders) == 1, "without a 401"

    def test_a_refused_token_is_read_anew(self, tmp_path: Path) -> None:
        loaders: list[InClusterConfigLoader] = []
        context = _certificate(tmp_path)
        (tmp_path / "token").write_text("old")
        with KubeApiServer(context) as server:
            server.put("nodes", node())
            server.accepts("new")
            with watching(
                server, configure=lambda: _in_cluster(server, tmp_path, loaders), settled=False
            ) as source:
                source.wait(20)
                assert failure(source).kind == "unauthorized"
                (tmp_path / "token").write_text("new")
                until(lambda: server.streams == 2)
                assert source.read().problems == ()

    def test_a_server_with_another_certificate_gets_no_token(self, tmp_path: Path) -> None:
        loaders: list[InClusterConfigLoader] = []
        (tmp_path / "other").mkdir()
        _certificate(tmp_path)
        (tmp_path / "token").write_text("secret")
        with KubeApiServer(_certificate(tmp_path / "other")) as server:
            with watching(
                server, configure=lambda: _in_cluster(server, tmp_path, loaders), settled=False
            ) as source:
                source.wait(20)
                error = failure(source)
            assert error.kind == "unreachable"
            assert "secret" not in str(error)
            assert server.requests == []

    def test_a_redirect_is_not_followed(self, server: KubeApiServer) -> None:
        server.refusals = {"pods": [302] * 10_000, "nodes": [302] * 10_000}
        with watching(server, settled=False) as source:
            source.wait(20)
            assert failure(source).kind == "failed"


def test_no_typed_model_and_no_client_is_imported_before_it_is_needed() -> None:
    """The kubernetes package costs 14 MiB, its models tens more."""
    code = (
        "import sys; import gpucost.sources.kubernetes;"
        "assert not any(m.split('.')[0] == 'kubernetes' for m in sys.modules);"
        "from gpucost.config import Dcgm, Kubernetes;"
        "s = gpucost.sources.kubernetes.KubernetesSource(Kubernetes(), Dcgm(), 'n');"
        "s.start(); s.wait(20); s.close();"
        "assert not any(m.startswith('kubernetes.client.models.v1_pod') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _phase(source: KubernetesSource, name: str) -> str:
    pods = source.read().pods
    assert pods is not None
    return pods["ml", name].phase


def _capacity(source: KubernetesSource) -> str:
    found = source.read().node
    return "" if found is None else found.capacity_type


def _node_known(source: KubernetesSource) -> bool:
    try:
        return source.read().node is not None
    except SourceError:
        return False


def _in_cluster(
    server: KubeApiServer, directory: Path, loaders: list[InClusterConfigLoader]
) -> Configuration:
    _, _, port = server.host.rpartition(":")
    loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]
        token_filename=str(directory / "token"),
        cert_filename=str(directory / "ca.crt"),
        environ={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port},
    )
    loaders.append(loader)
    configuration = Configuration()
    loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    return configuration


def _certificate(directory: Path) -> ssl.SSLContext:
    """A server's context; its certificate is written to ca.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.crt", directory / "key.pem")
    return context
