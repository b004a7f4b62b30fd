"""The requests source on real servers: at its own pace, and one pod never disturbs another."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.config import RequestRule, Requests
from gpucost.model import Count, Endpoint, Pod, Serving
from gpucost.sources.requests import GRACE_SECONDS, UNKNOWN_MODEL, RequestsSource
from page_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from gpucost.sources.base import RequestsRead
    from gpucost.sources.requests import PodKey
    from page_server import Handler, Server

BOUND_SECONDS = 60.0
"""How long is waited for what must come; it comes much sooner."""

FAST = Requests(interval_seconds=1, timeout_seconds=5)


def pod(
    name: str, *servers: Server | str, uid: str = "", stated: bool = True, **serving_fields: object
) -> Pod:
    urls = [it if isinstance(it, str) else it.url for it in servers]
    endpoints = tuple(Endpoint(url, stated=stated) for url in urls)
    return Pod(
        namespace="serving",
        name=name,
        uid=uid or f"uid-{name}",
        phase="Running",
        workload=name,
        workload_kind="Deployment",
        team="",
        serving=Serving(endpoints, **serving_fields),  # type: ignore[arg-type]
    )


def by_key(*pods: Pod) -> Mapping[PodKey, Pod]:
    return {(it.namespace, it.name): it for it in pods}


@contextmanager
def following(
    *pods: Pod, settings: Requests = FAST, clock: Callable[[], float] = time.monotonic
) -> Iterator[RequestsSource]:
    source = RequestsSource(settings, clock)
    try:
        source.follow(by_key(*pods))
        yield source
    finally:
        source.close()


def until(source: RequestsSource, condition: Callable[[RequestsRead], bool]) -> RequestsRead:
    """What the source reads when the condition holds."""
    deadline = time.monotonic() + BOUND_SECONDS
    while time.monotonic() < deadline:
        read = source.read()
        if read is not None and condition(read):
            return read
        time.sleep(0.02)
    raise AssertionError(f"never: {source.read()}")


def outputs(read: RequestsRead) -> dict[str, float]:
    """Output tokens by pod."""
    return {
        name: sum(model.totals()[Count.OUTPUT] for model in reading.models)
        for (_, name), reading in read.pods.items()
    }


def page(tokens: int, model: str = "m") -> bytes:
    return f'vllm:generation_tokens_total{{model_name="{model}"}} {tokens}\n'.encode()


def test_every_pod_is_asked_again_and_again() -> None:
    asked = iter(range(1, 10_000))
    with (
        serving(lambda handler: handler.send(page(next(asked)))) as server,
        following(pod("a", server)) as source,
    ):
        until(source, lambda read: outputs(read).get("a", 0) >= 3)


def test_no_pod_that_shows_metrics_is_no_source() -> None:
    with following() as source:
        assert source.read() is None
        source.follow(None)
        assert source.read() is None


def test_the_same_value_is_given_while_nothing_new_was_read() -> None:
    settings = Requests(interval_seconds=3600)
    with (
        serving(lambda handler: handler.send(page(1))) as server,
        following(pod("a", server), settings=settings) as source,
    ):
        first = until(source, lambda read: bool(read.pods))
        assert source.read() is first


def test_a_pod_that_hangs_keeps_no_other_waiting() -> None:
    def hang(handler: Handler) -> None:
        handler.server.stopping.wait(BOUND_SECONDS)

    with (
        serving(hang) as bad,
        serving(lambda handler: handler.send(page(1))) as good,
        following(pod("bad", bad), pod("good", good)) as source,
    ):
        read = until(source, lambda read: bool(read.problems) and bool(read.pods))
        assert outputs(read) == {"good": 1}
        assert [(p.source, p.kind) for p in read.problems] == [("requests", "timeout")]
        assert "serving/bad" in read.problems[0].message
        bad.stopping.set()


def test_a_pod_that_redirects_to_a_metadata_service_is_a_problem_of_its_own() -> None:
    def away(handler: Handler) -> None:
        handler.send(b"", 302, Location="http://169.254.169.254/latest/meta-data/")

    with (
        serving(away) as bad,
        serving(lambda handler: handler.send(page(1))) as good,
        following(pod("bad", bad), pod("good", good)) as source,
    ):
        read = until(source, lambda read: bool(read.problems) and bool(read.pods))
        assert outputs(read) == {"good": 1}
        assert read.problems[0].kind == "redirect"


def test_what_a_pod_said_stays_for_two_intervals_and_is_then_unknown() -> None:
    answers = iter([page(7)])
    now = [0.0]

    def answer(handler: Handler) -> None:
        body = next(answers, b"")
        handler.send(body, 200 if body else 500)

    settings = Requests(interval_seconds=10, timeout_seconds=5)
    with (
        serving(answer) as server,
        following(pod("a", server), settings=settings, clock=lambda: now[0]) as source,
    ):
        now[0] = 6.0
        source.follow(by_key(pod("a", server)))  # wakes it
        assert outputs(until(source, lambda read: bool(read.pods))) == {"a": 7}
        now[0] = 30.0
        source.follow(by_key(pod("a", server)))
        read = until(source, lambda read: bool(read.problems))
        assert outputs(read) == {"a": 7}
        now[0] = 32.0
        assert outputs(until(source, lambda read: not read.pods)) == {}


def test_a_pod_that_goes_is_forgotten_at_once() -> None:
    with (
        serving(lambda handler: handler.send(page(1))) as server,
        following(pod("a", server), pod("b", server)) as source,
    ):
        until(source, lambda read: len(read.pods) == 2)
        source.follow(by_key(pod("b", server)))
        assert list(outputs(until(source, lambda _: True))) == ["b"]
        source.follow({})
        assert source.read() is None


def test_a_new_pod_of_an_old_name_begins_anew() -> None:
    with (
        serving(lambda handler: handler.send(page(1))) as server,
        following(pod("a", server), settings=Requests(interval_seconds=3600)) as source,
    ):
        first = until(source, lambda read: bool(read.pods))
        source.follow(by_key(pod("a", server, uid="another")))
        assert until(source, lambda read: read is not first and bool(read.pods))


def test_a_server_that_never_answered_may_be_loading_for_a_while() -> None:
    now = [0.0]
    with following(pod("a", "http://127.0.0.1:9/metrics"), clock=lambda: now[0]) as source:
        now[0] = 5.0
        source.follow(by_key(pod("a", "http://127.0.0.1:9/metrics")))
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            read = source.read()
            assert read is not None
            assert not read.problems
            time.sleep(0.05)
        now[0] = GRACE_SECONDS + 6
        source.follow(by_key(pod("a", "http://127.0.0.1:9/metrics")))
        assert until(source, lambda read: bool(read.problems)).problems[0].kind == "unreachable"


def test_a_page_that_was_not_meant_for_us_is_no_problem_and_asked_less_often() -> None:
    with (
        serving(lambda handler: handler.send(b"training_loss 0.1\n")) as other,
        serving(lambda handler: handler.send(page(1))) as engine,
        following(pod("train", other, stated=False), pod("llm", engine)) as source,
    ):
        deadline = time.monotonic() + BOUND_SECONDS
        while len(engine.requests) < 4 and time.monotonic() < deadline:
            read = source.read()
            assert read is None or not read.problems
            time.sleep(0.05)
        assert len(other.requests) < len(engine.requests)


def test_a_page_that_was_stated_and_is_none_of_an_engine_is_a_problem() -> None:
    with (
        serving(lambda handler: handler.send(b"training_loss 0.1\n")) as server,
        following(pod("train", server)) as source,
    ):
        read = until(source, lambda read: bool(read.problems))
        assert read.problems[0].kind == "unrecognised"


def test_an_engine_that_names_no_model_serves_what_the_pod_says_or_unknown() -> None:
    body = b"tgi_request_success 1\ntgi_request_generated_tokens_sum 9\n"
    with serving(lambda handler: handler.send(body)) as server:
        pods = pod("named", server, served_model="llama"), pod("not", server)
        with following(*pods) as source:
            read = until(source, lambda read: len(read.pods) == 2)
            assert {
                name: reading.models[0].served_model for (_, name), reading in read.pods.items()
            } == {"named": "llama", "not": UNKNOWN_MODEL}


def test_a_pod_of_two_servers_is_what_both_say() -> None:
    with (
        serving(lambda handler: handler.send(page(1, "a"))) as one,
        serving(lambda handler: handler.send(page(2, "b"))) as two,
        following(pod("p", one, two)) as source,
    ):
        assert outputs(until(source, lambda read: bool(read.pods))) == {"p": 3}


def test_at_most_as_many_are_asked_at_once_as_the_settings_say() -> None:
    lock = threading.Lock()
    present, most = [0], [0]

    def slow(handler: Handler) -> None:
        with lock:
            present[0] += 1
            most[0] = max(most[0], present[0])
        time.sleep(0.05)
        with lock:
            present[0] -= 1
        handler.send(page(1))

    with serving(slow) as server:
        pods = [pod(f"p{n}", server) for n in range(10)]
        settings = Requests(interval_seconds=1, max_concurrent=2)
        with following(*pods, settings=settings) as source:
            until(source, lambda read: len(read.pods) == 10)
    assert most[0] <= 2


def test_a_rules_token_goes_to_its_pods_and_to_no_other(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    rule = RequestRule(pod_selector={"app": "x"}, port=1, bearer_token_file=str(token))
    settings = Requests(interval_seconds=1, rules=(rule,))
    with (
        serving(lambda handler: handler.send(page(1))) as ruled,
        serving(lambda handler: handler.send(page(1))) as other,
    ):
        mine = replace(pod("mine"), serving=Serving((Endpoint(ruled.url, rule=0),)))
        with following(mine, pod("other", other), settings=settings) as source:
            until(source, lambda read: len(read.pods) == 2)
        assert ruled.requests[0].headers["Authorization"] == "Bearer s3cret"
        assert "Authorization" not in other.requests[0].headers


def test_closing_ends_the_threads() -> None:
    with (
        serving(lambda handler: handler.send(page(1))) as server,
        following(pod("a", server)) as source,
    ):
        until(source, lambda read: bool(read.pods))
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("source-requests") for name in names)
