"""Inference engines as a table: which of their series count which work, one row each.

A new engine, or a new name in an engine's next version, is a row or a word here and nothing else.
Names, labels and units are from the engines' own sources and documents, as of 2026-08; the order
matters: a page is the first row's that knows it (vLLM inside Triton or KServe is vLLM).

What the names hide, and the rows say:
  - a "success" may be any end (vLLM counts aborted and failed requests there too), and a count of
    all requests holds the failed ones (FINISHED: what is left of it are the successes);
  - a name in `_total` may be a histogram's, and `_count` a counter's own (TGI);
  - tokens of the prompt hold those from the prefix cache, or do not (`cached_in_prompt`);
  - time may be in micro- or milliseconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct, field

from gpucost.model import Count
from gpucost.series import Terms, parse_series

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Figure = tuple[str, ...]
"""Alternatives in order of preference: the first of which the page has a series."""


class Engine(Struct, frozen=True):
    """How the pages of one kind of engine are read.

    A page is this engine's if it has a series of `marks`, or where those are empty of any of its
    counts. `model` are the labels that name the served model. Series that carry a label of
    `foreign` are another's: a router's copy of what its engines count.
    """

    name: str
    counts: Mapping[Count, Figure]
    model: Figure = ()
    running: Figure = ()
    waiting: Figure = ()
    batch: Figure = ()
    marks: Figure = ()
    foreign: Figure = ()
    copies: Figure = ()
    """Labels whose series show the same gauge again: the highest counts, not the sum."""
    cached_in_prompt: bool = True
    beside: bool = False
    """Whether it also counts models that an engine inside it does not name."""
    parts: Mapping[str, Figure] = field(default_factory=dict)
    """Models that are steps of another, by that one's name: their requests are its own.

    What only a step tells (the tokens, the queue) is told of the whole.
    """


_VLLM_COUNTS = {
    # finished_reason: stop, length, repetition, abort, error (vllm/v1/metrics/loggers.py).
    # Until 0.4 there was no count but the histogram's.
    Count.SUCCESS: (
        'vllm:request_success_total{finished_reason!~"abort|error"}',
        "vllm:e2e_request_latency_seconds_count",
    ),
    Count.FAILURE: ('vllm:request_success_total{finished_reason="error"}',),
    Count.ABORTED: ('vllm:request_success_total{finished_reason="abort"}',),
    Count.PROMPT: ("vllm:prompt_tokens_total",),
    # Both in tokens. V0's hits (gpu_prefix_cache_hit_rate) are a ratio, and no count.
    Count.CACHED: (
        "vllm:prompt_tokens_cached_total",
        "vllm:prefix_cache_hits_total + vllm:external_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
    ),
    Count.OUTPUT: ("vllm:generation_tokens_total",),
    # Not request_time_per_output_token_seconds: its sum is one of means of each request.
    Count.PREFILL_SECONDS: ("vllm:request_prefill_time_seconds_sum",),
    Count.DECODE_SECONDS: ("vllm:request_decode_time_seconds_sum",),
    Count.COMPUTE_SECONDS: ("vllm:request_inference_time_seconds_sum",),
    # One token of each running sequence a step; a histogram, despite its name.
    Count.BATCHED: ("vllm:generation_tokens_total",),
    Count.BATCHES: ("vllm:iteration_tokens_total_count",),
}
_VLLM_RUNNING, _VLLM_WAITING = ("vllm:num_requests_running",), ("vllm:num_requests_waiting",)


_RAY_PREFIXES = ("ray_vllm_", "ray_vllm:")


def _as_ray_writes(figure: Figure) -> Figure:
    """Ray's metrics agent puts `ray_` before a name and, since 2.44, `_` for its colon.

    Before that it showed counters without `_total` too.
    """
    return tuple(
        name
        for it in figure
        for written in (it.replace("vllm:", prefix) for prefix in _RAY_PREFIXES)
        for name in dict.fromkeys((written, re.sub(r"_total\b", "", written)))
    )


_LMDEPLOY_FAILED = "error|.*(ERROR|REPEAT|NOT_EXIST|CONFLICT|NO_QUEUE).*"
_LMDEPLOY_ABORTED = "abort|.*CANCEL.*"


def _lmdeploy_ended(how: str) -> str:
    return f"lmdeploy:request_success_total{{finished_reason{how}}}"


_BENTO_WORK = (
    'endpoint!~"/|/static_content/.*|/(docs\\\\.json|schema\\\\.json|healthz|livez|readyz|metrics)"'
)
"""Matchers of what is asked of a service, and not of its pages."""
_BENTO_SERVERS = ("bentoml_service", "bentoml_api_server")


def _of_bento(rest: str) -> Figure:
    return tuple(f"{server}_{rest}" for server in _BENTO_SERVERS)


ENGINES = (
    Engine(
        name="vllm",
        model=("model_name", "model"),  # `model` inside Triton
        counts=_VLLM_COUNTS,
        running=_VLLM_RUNNING,
        waiting=_VLLM_WAITING,
        foreign=("server",),  # production-stack's router
    ),
    Engine(
        name="vllm",  # inside Ray: RayPrometheusStatLogger
        model=("model_name",),
        counts={count: _as_ray_writes(figure) for count, figure in _VLLM_COUNTS.items()},
        running=_as_ray_writes(_VLLM_RUNNING),
        waiting=_as_ray_writes(_VLLM_WAITING),
    ),
    Engine(
        # Only with --enable-metrics. Counters move when a request finishes.
        name="sglang",
        model=("model_name",),
        counts={
            # Up to 0.4.0 there was no count but the histogram's.
            Count.SUCCESS: (
                "sglang:num_requests_total",
                "sglang:e2e_request_latency_seconds_count",
            ),
            Count.ABORTED: ("sglang:num_aborted_requests_total",),
            Count.PROMPT: ("sglang:prompt_tokens_total",),
            # `total` is the sum of the others where it is there.
            Count.CACHED: (
                'sglang:cached_tokens_total{cache_source="total"}',
                "sglang:cached_tokens_total",
            ),
            Count.OUTPUT: ("sglang:generation_tokens_total",),
        },
        running=('sglang:num_running_reqs{priority=""}',),
        waiting=('sglang:num_queue_reqs{priority=""}',),
        copies=("tp_rank", "pp_rank", "moe_ep_rank", "pid"),
    ),
    Engine(
        # Tokens and times since 1.2. It has no series for what it has not counted yet.
        name="tensorrt_llm",
        model=("model_name", "model"),
        counts={
            Count.SUCCESS: (
                'trtllm_request_success_total{finished_reason!~"cancelled|timeout|abort|error"}',
            ),
            Count.FAILURE: (
                "trtllm_request_error_total",
                'trtllm_request_success_total{finished_reason=~"timeout|error"}',
            ),
            Count.ABORTED: ('trtllm_request_success_total{finished_reason=~"cancelled|abort"}',),
            Count.PROMPT: ("trtllm_prompt_tokens_total",),
            Count.CACHED: ("trtllm_prompt_cached_tokens_total",),
            Count.OUTPUT: ("trtllm_generation_tokens_total",),
            Count.PREFILL_SECONDS: ("trtllm_request_prefill_time_seconds_sum",),
            Count.DECODE_SECONDS: ("trtllm_request_decode_time_seconds_sum",),
            Count.COMPUTE_SECONDS: ("trtllm_request_inference_time_seconds_sum",),
        },
        running=("trtllm_num_requests_running",),
        waiting=("trtllm_num_requests_waiting",),
    ),
    Engine(
        # finished_reason is the name of a ResponseType, of which SUCCESS and FINISH are good ends
        # (lmdeploy/messages.py); the first versions had no count but the histogram's.
        name="lmdeploy",
        model=("model_name",),
        counts={
            Count.SUCCESS: (
                _lmdeploy_ended(f'!~"{_LMDEPLOY_FAILED}|{_LMDEPLOY_ABORTED}"'),
                "lmdeploy:e2e_request_latency_seconds_count",
            ),
            Count.FAILURE: (_lmdeploy_ended(f'=~"{_LMDEPLOY_FAILED}"'),),
            Count.ABORTED: (_lmdeploy_ended(f'=~"{_LMDEPLOY_ABORTED}"'),),
            Count.PROMPT: ("lmdeploy:prompt_tokens_total",),
            Count.CACHED: ("lmdeploy:cached_tokens_total",),
            Count.OUTPUT: ("lmdeploy:generation_tokens_total",),
            Count.PREFILL_SECONDS: ("lmdeploy:request_prefill_time_seconds_sum",),
            Count.DECODE_SECONDS: ("lmdeploy:request_decode_time_seconds_sum",),
            Count.BATCHED: ("lmdeploy:generation_tokens_total",),
            Count.BATCHES: ("lmdeploy:iteration_tokens_total_count",),
        },
        running=("lmdeploy:num_requests_running",),
        waiting=("lmdeploy:num_requests_waiting",),
    ),
    Engine(
        # request_count and request_success are counters without `_total`; tokens only as the sums
        # of histograms, those of the prompt at validation, so before the request has succeeded.
        name="tgi",
        marks=("tgi_request_count", "tgi_request_success", "tgi_queue_size"),
        counts={
            Count.SUCCESS: ("tgi_request_success",),
            Count.FAILURE: ('tgi_request_failure{err!="dropped"}',),
            Count.ABORTED: ('tgi_request_failure{err="dropped"}',),
            Count.PROMPT: ("tgi_request_input_length_sum",),
            Count.OUTPUT: ("tgi_request_generated_tokens_sum",),
            Count.COMPUTE_SECONDS: ("tgi_request_inference_duration_sum",),
        },
        running=("tgi_batch_current_size",),
        waiting=("tgi_queue_size",),
        batch=("tgi_batch_current_size",),
    ),
    Engine(
        name="tei",
        marks=("te_request_count", "te_request_success", "te_queue_size"),
        counts={
            Count.SUCCESS: ("te_request_success",),
            Count.FAILURE: ("te_request_failure",),
            Count.PROMPT: ("te_request_input_length_sum",),
            Count.COMPUTE_SECONDS: ("te_request_inference_duration_sum",),
            Count.BATCHED: ("te_batch_next_size_sum",),
            Count.BATCHES: ("te_batch_next_size_count",),
        },
        waiting=("te_queue_size",),
    ),
    Engine(
        # With --metrics; no count of finished requests, and no labels. Prompt tokens are those
        # that were processed: what came from the cache is not among them.
        name="llama_cpp",
        counts={
            Count.PROMPT: ("llamacpp:prompt_tokens_total",),
            Count.OUTPUT: ("llamacpp:tokens_predicted_total",),
            Count.PREFILL_SECONDS: ("llamacpp:prompt_seconds_total",),
            Count.DECODE_SECONDS: ("llamacpp:tokens_predicted_seconds_total",),
        },
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        batch=("llamacpp:n_busy_slots_per_decode",),
        cached_in_prompt=False,
    ),
    Engine(
        # Its names have no prefix, so the one that nobody else has must be there.
        name="nim",
        model=("model_name",),
        marks=("num_request_max",),
        counts={
            Count.SUCCESS: (
                'request_finish_total{finished_reason!~"abort|error"}',
                "request_success_total",
                "e2e_request_latency_seconds_count",
            ),
            Count.FAILURE: ("request_failure_total",),
            Count.ABORTED: ('request_finish_total{finished_reason="abort"}',),
            Count.PROMPT: ("prompt_tokens_total",),
            Count.OUTPUT: ("generation_tokens_total",),
        },
        running=("num_requests_running",),
        waiting=("num_requests_waiting",),
    ),
    Engine(
        # A worker whose engine shows nothing itself (DYN_SYSTEM_PORT). The frontend has no GPU.
        name="dynamo",
        model=("model",),
        counts={
            Count.FINISHED: ('dynamo_component_requests_total{dynamo_endpoint="generate"}',),
            Count.FAILURE: ('dynamo_component_errors_total{dynamo_endpoint="generate"}',),
            Count.COMPUTE_SECONDS: (
                'dynamo_component_request_duration_seconds_sum{dynamo_endpoint="generate"}',
            ),
        },
        running=('dynamo_component_inflight_requests{dynamo_endpoint="generate"}',),
    ),
    Engine(
        # Counters without `_total`, durations in microseconds; nv_inference_count counts a batch
        # of n requests' inferences n times. nv_trt_llm_* are all gauges; the TensorRT-LLM backend
        # counts tokens in histograms called nv_llm_*, since 0.17.
        name="triton",
        model=("model",),
        marks=("nv_inference_request_success",),
        counts={
            Count.SUCCESS: ("nv_inference_request_success",),
            Count.FAILURE: ('nv_inference_request_failure{reason!="CANCELED"}',),
            Count.ABORTED: ('nv_inference_request_failure{reason="CANCELED"}',),
            Count.COMPUTE_SECONDS: (
                " + ".join(
                    f"nv_inference_compute_{step}_duration_us * 1e-6"
                    for step in ("input", "infer", "output")
                ),
            ),
            Count.PROMPT: ("nv_llm_input_token_len_sum",),
            Count.OUTPUT: ("nv_llm_output_token_len_sum",),
            Count.BATCHED: ("nv_inference_count",),
            Count.BATCHES: ("nv_inference_exec_count",),
        },
        running=('nv_trt_llm_request_metrics{request_type="scheduled"}',),
        waiting=(
            'nv_trt_llm_request_metrics{request_type="waiting"}',
            "nv_inference_pending_request_count",
        ),
        beside=True,
        parts={
            "ensemble": ("preprocessing", "tensorrt_llm", "postprocessing"),
            "tensorrt_llm_bls": ("preprocessing", "tensorrt_llm", "postprocessing"),
        },
    ),
    Engine(
        name="torchserve",
        model=("model_name",),
        counts={
            Count.SUCCESS: ("ts_inference_requests_total",),
            Count.COMPUTE_SECONDS: ("ts_inference_latency_microseconds * 1e-6",),
        },
    ),
    Engine(
        name="kserve",
        model=("model_name",),
        counts={
            Count.SUCCESS: ("request_predict_seconds_count",),
            Count.COMPUTE_SECONDS: ("request_predict_seconds_sum",),
        },
    ),
    Engine(
        # The node agent's page. A request that failed is counted as an error instead.
        name="ray_serve",
        model=("deployment",),
        counts={
            Count.SUCCESS: (
                "ray_serve_deployment_request_counter_total",
                "ray_serve_deployment_request_counter",
            ),
            Count.FAILURE: (
                "ray_serve_deployment_error_counter_total",
                "ray_serve_deployment_error_counter",
            ),
            Count.COMPUTE_SECONDS: ("ray_serve_deployment_processing_latency_ms_sum * 0.001",),
        },
        running=("ray_serve_replica_processing_queries",),
        waiting=("ray_serve_deployment_queued_queries",),
    ),
    Engine(
        # It counts its own pages too. Before 1.2 the API server was apart from its runners.
        name="bentoml",
        model=("service_name",),
        marks=tuple(f"{server}_request_total" for server in _BENTO_SERVERS),
        counts={
            Count.SUCCESS: _of_bento(f'request_total{{{_BENTO_WORK},http_response_code=~"2.."}}'),
            Count.FAILURE: _of_bento(
                f'request_total{{{_BENTO_WORK},http_response_code!~"2..|499"}}'
            ),
            Count.ABORTED: _of_bento(f'request_total{{{_BENTO_WORK},http_response_code="499"}}'),
            Count.COMPUTE_SECONDS: _of_bento(f"request_duration_seconds_sum{{{_BENTO_WORK}}}"),
        },
        running=_of_bento("request_in_progress"),
    ),
)


ENGINE_NAMES = frozenset(engine.name for engine in ENGINES)


class Reads(Struct, frozen=True):
    """An engine's row with its series parsed."""

    engine: Engine
    counts: Mapping[Count, tuple[Terms, ...]]
    running: tuple[Terms, ...]
    waiting: tuple[Terms, ...]
    batch: tuple[Terms, ...]
    marks: tuple[str, ...]

    def names(self) -> set[str]:
        """Every series that the row looks at."""
        figures = (*self.counts.values(), self.running, self.waiting, self.batch)
        written = {term.name for figure in figures for terms in figure for term in terms}
        return written | set(self.marks)


class EngineTable(Struct, frozen=True):
    """Rows in the order in which a page is asked whose it is, and all the names they look at."""

    rows: tuple[Reads, ...]
    names: frozenset[bytes]
    beginnings: tuple[bytes, ...]
    """Of the names: what most lines of a page can be told by."""

    def named(self, engine: str) -> tuple[Reads, ...]:
        """The rows of that name; all of them for an empty one."""
        return tuple(row for row in self.rows if engine in ("", row.engine.name))


PROCESS_START = "process_start_time_seconds"
"""As every Prometheus client library names it."""

_BEGINNING = 4


def table_of(more: Iterable[Engine] = ()) -> EngineTable:
    """The table with the user's own rows before it. Raises ValueError for a series in them."""
    rows = tuple(_read(engine) for engine in (*more, *ENGINES))
    names = {PROCESS_START, *(name for row in rows for name in row.names())}
    return EngineTable(
        rows,
        frozenset(name.encode() for name in names),
        tuple(sorted({name[:_BEGINNING].encode() for name in names})),
    )


def _read(engine: Engine) -> Reads:
    counts = {count: tuple(map(parse_series, it)) for count, it in engine.counts.items()}
    every = {term.name for it in counts.values() for terms in it for term in terms}
    return Reads(
        engine=engine,
        counts=counts,
        running=tuple(map(parse_series, engine.running)),
        waiting=tuple(map(parse_series, engine.waiting)),
        batch=tuple(map(parse_series, engine.batch)),
        marks=engine.marks or tuple(sorted(every)),
    )
