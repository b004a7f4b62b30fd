"""Pages of inference servers, read by the table of engines: real ones, and every trap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.config import CustomEngine, Requests
from gpucost.engines import ENGINES, table_of
from gpucost.model import Count, ModelReading
from gpucost.sources.base import SourceError
from gpucost.sources.engine_endpoints import engine_table
from gpucost.sources.engine_page import EnginePage, parse_engine_page
from programs import ROOT

SAMPLES = ROOT / "tests/samples/engines"
TABLE = table_of()


def read(page: str | bytes, engine: str = "", only: tuple[str, ...] = ()) -> list[ModelReading]:
    text = page.encode() if isinstance(page, str) else page
    return list(parse_engine_page(text, TABLE, engine, only))


def one(page: str | bytes) -> ModelReading:
    [model] = read(page)
    return model


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.prom").read_bytes()


def failure(page: str | bytes) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(page)
    assert caught.value.remedy
    return caught.value


# --- Real pages -------------------------------------------------------------------------------


def test_vllm_v0_is_read() -> None:
    served, other = read(sample("vllm_v0"))
    assert (served.engine, served.served_model) == (
        "vllm",
        "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8",
    )
    assert {it: served.totals()[it] for it in (Count.SUCCESS, Count.PROMPT, Count.OUTPUT)} == {
        Count.SUCCESS: 6,
        Count.PROMPT: 90,
        Count.OUTPUT: 2546,
    }
    assert (served.running, served.waiting) == (3, 2)
    assert Count.CACHED not in served.totals()  # V0 does not count it: unknown, not 0
    assert served.started_at == pytest.approx(1723656838.94)
    assert (other.served_model, other.waiting, other.totals()) == ("other/OTHER", 3, {})


def test_vllm_v1_is_read() -> None:
    model = one(sample("vllm_v1"))
    assert model.served_model == "meta-llama/Llama-3.1-8B-Instruct"
    assert model.totals()[Count.SUCCESS] == 132
    assert model.totals()[Count.ABORTED] == 0
    assert model.totals()[Count.OUTPUT] == 27453
    assert model.running == 8


def test_triton_with_tensorrt_llm_is_read() -> None:
    model = one(sample("triton_tensorrt_llm"))
    assert (model.engine, model.served_model) == ("triton", "tensorrt_llm")
    assert model.totals() == {
        Count.SUCCESS: 0,
        Count.FAILURE: 0,
        Count.COMPUTE_SECONDS: 0,
        Count.BATCHED: 0,
        Count.BATCHES: 0,
    }
    assert (model.running, model.waiting) == (1, 1)


def test_torchserve_is_read_with_its_trailing_commas_and_microseconds() -> None:
    model = one(sample("torchserve"))
    assert (model.engine, model.served_model) == ("torchserve", "resnet18")
    assert model.totals() == {
        Count.SUCCESS: 3,
        Count.COMPUTE_SECONDS: pytest.approx(0.290371129),
    }


@pytest.mark.parametrize("name", ["litellm", "ingress_nginx", "llm_d_epp"])
def test_a_proxy_is_no_engine(name: str) -> None:
    """They hold no GPU: their requests come by the rules, of the Prometheus that scrapes them."""
    assert failure(sample(name)).kind == "unrecognised"


# --- vLLM's traps -----------------------------------------------------------------------------


VLLM = """\
vllm:request_success_total{finished_reason="stop",model_name="m"} 70
vllm:request_success_total{finished_reason="length",model_name="m"} 20
vllm:request_success_total{finished_reason="repetition",model_name="m"} 1
vllm:request_success_total{finished_reason="abort",model_name="m"} 6
vllm:request_success_total{finished_reason="error",model_name="m"} 3
vllm:request_success_created{finished_reason="stop",model_name="m"} 1.7e9
vllm:prompt_tokens_total{model_name="m"} 5000
vllm:prompt_tokens_created{model_name="m"} 1.7e9
vllm:prompt_tokens_cached_total{model_name="m"} 2000
vllm:prompt_tokens_by_source_total{source="local_cache_hit",model_name="m"} 2000
vllm:prefix_cache_hits_total{model_name="m"} 9999
vllm:generation_tokens_total{model_name="m"} 800
vllm:iteration_tokens_total_bucket{le="+Inf",model_name="m"} 100
vllm:iteration_tokens_total_count{model_name="m"} 100
vllm:iteration_tokens_total_sum{model_name="m"} 3800
vllm:request_prefill_time_seconds_sum{model_name="m"} 3
vllm:request_decode_time_seconds_sum{model_name="m"} 9
vllm:request_time_per_output_token_seconds_sum{model_name="m"} 0.5
vllm:num_requests_running{model_name="m"} 4
vllm:num_requests_waiting{model_name="m"} 2
vllm:num_requests_waiting_by_reason{model_name="m",reason="capacity"} 2
"""


def test_vllms_success_counts_every_end_and_the_outcomes_are_told_apart() -> None:
    counts = one(VLLM).totals()
    assert (counts[Count.SUCCESS], counts[Count.FAILURE], counts[Count.ABORTED]) == (91, 3, 6)


def test_an_outcome_that_has_not_happened_is_not_looked_for_under_another_name() -> None:
    """V0 makes the series of a reason at its first request; the histogram counts aborted ones."""
    counts = one("""\
vllm:request_success_total{finished_reason="abort",model_name="m"} 2
vllm:e2e_request_latency_seconds_count{model_name="m"} 2
""").totals()
    assert counts == {Count.ABORTED: 2}


def test_vllms_created_times_and_its_histogram_named_total_are_not_counted() -> None:
    counts = one(VLLM).totals()
    assert (counts[Count.PROMPT], counts[Count.OUTPUT]) == (5000, 800)
    assert (counts[Count.BATCHED], counts[Count.BATCHES]) == (800, 100)


def test_vllms_decode_time_is_the_sum_of_times_and_not_of_means() -> None:
    counts = one(VLLM).totals()
    assert (counts[Count.PREFILL_SECONDS], counts[Count.DECODE_SECONDS]) == (3, 9)


def test_vllms_cached_tokens_are_by_their_newest_name_and_else_by_older_ones() -> None:
    assert one(VLLM).totals()[Count.CACHED] == 2000
    older = VLLM.replace("vllm:prompt_tokens_cached_total", "vllm:not_yet_there")
    assert one(older).totals()[Count.CACHED] == 9999


def test_a_router_that_shows_vllms_names_is_no_engine() -> None:
    router = """\
vllm:num_requests_running{server="http://10.0.0.1:8000"} 4
vllm:num_incoming_requests_total{model="m"} 9
"""
    assert failure(router).kind == "unrecognised"
    both = one(VLLM + router)
    assert both.running == 4  # not 8


def test_vllm_with_several_engine_cores_is_added_up() -> None:
    page = """\
vllm:generation_tokens_total{engine="0",model_name="m"} 5
vllm:generation_tokens_total{engine="1",model_name="m"} 7
vllm:num_requests_running{engine="0",model_name="m"} 1
vllm:num_requests_running{engine="1",model_name="m"} 2
"""
    model = one(page)
    assert (model.totals()[Count.OUTPUT], model.running) == (12, 3)


@pytest.mark.parametrize("prefix", ["ray_vllm_", "ray_vllm:"])
def test_vllm_inside_ray_is_vllm(prefix: str) -> None:
    page = VLLM.replace("vllm:", prefix).replace("{", '{WorkerId="w1",ReplicaId="r1",', 1)
    model = one(page + 'ray_serve_deployment_request_counter_total{deployment="LLM"} 91\n')
    assert (model.engine, model.served_model) == ("vllm", "m")
    assert model.totals() == one(VLLM).totals()


def test_vllm_inside_triton_is_counted_once_and_what_stands_beside_it_too() -> None:
    page = VLLM.replace('model_name="m"', 'model="m",version="1"') + (
        'nv_inference_request_success{model="m",version="1"} 100\n'
        'nv_inference_request_success{model="resnet",version="1"} 5\n'
    )
    models = {model.served_model: model for model in read(page)}
    assert models["m"].engine == "vllm"
    assert models["m"].totals()[Count.SUCCESS] == 91
    assert models["resnet"].engine == "triton"
    assert models["resnet"].totals()[Count.SUCCESS] == 5


# --- The others' ------------------------------------------------------------------------------


def test_sglang_ranks_show_one_queue_and_its_cached_total_is_a_sum() -> None:
    page = "".join(
        f'sglang:num_running_reqs{{model_name="m",tp_rank="{tp}",dp_rank="{dp}",pp_rank="0"}} 3\n'
        f'sglang:num_queue_reqs{{model_name="m",tp_rank="{tp}",dp_rank="{dp}",pp_rank="0"}} 1\n'
        for tp in range(2)
        for dp in range(2)
    ) + (
        'sglang:num_running_reqs{model_name="m",tp_rank="0",dp_rank="0",priority="5"} 2\n'
        'sglang:num_requests_total{model_name="m",is_streaming="true"} 8\n'
        'sglang:num_requests_total{model_name="m",is_streaming="false"} 2\n'
        'sglang:num_aborted_requests_total{model_name="m"} 1\n'
        'sglang:prompt_tokens_total{model_name="m"} 100\n'
        'sglang:cached_tokens_total{model_name="m",cache_source="device"} 30\n'
        'sglang:cached_tokens_total{model_name="m",cache_source="host"} 10\n'
        'sglang:cached_tokens_total{model_name="m",cache_source="total"} 40\n'
    )
    model = one(page)
    assert (model.running, model.waiting) == (6, 2)
    assert model.totals()[Count.SUCCESS] == 10
    assert model.totals()[Count.ABORTED] == 1
    assert model.totals()[Count.CACHED] == 40


def test_tgi_counts_without_total_and_its_tokens_are_sums_of_histograms() -> None:
    model = one("""\
tgi_request_count 12
tgi_request_success 9
tgi_request_failure{err="overloaded"} 2
tgi_request_failure{err="dropped"} 1
tgi_request_input_length_bucket{le="+Inf"} 12
tgi_request_input_length_sum 240
tgi_request_input_length_count 12
tgi_request_generated_tokens_sum 90
tgi_queue_size 3
tgi_batch_current_size 4
""")
    assert (model.engine, model.served_model) == ("tgi", "")
    assert model.totals() == {
        Count.SUCCESS: 9,
        Count.FAILURE: 2,
        Count.ABORTED: 1,
        Count.PROMPT: 240,
        Count.OUTPUT: 90,
    }
    assert (model.running, model.waiting, model.batch) == (4, 3, 4)


def test_an_ensembles_steps_are_its_own_and_its_durations_are_microseconds() -> None:
    page = "".join(
        f'nv_inference_request_success{{model="{model}",version="1"}} 10\n'
        f'nv_inference_request_failure{{model="{model}",reason="OTHER",version="1"}} 1\n'
        f'nv_inference_request_failure{{model="{model}",reason="CANCELED",version="1"}} 2\n'
        f'nv_inference_compute_input_duration_us{{model="{model}",version="1"}} 1e6\n'
        f'nv_inference_compute_infer_duration_us{{model="{model}",version="1"}} 5e6\n'
        f'nv_inference_compute_output_duration_us{{model="{model}",version="1"}} 1e6\n'
        for model in ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")
    )
    model = one(page)
    assert model.served_model == "ensemble"
    assert model.totals() == {
        Count.SUCCESS: 10,
        Count.FAILURE: 1,
        Count.ABORTED: 2,
        Count.COMPUTE_SECONDS: pytest.approx(7),
    }


def test_other_steps_are_left_out_by_naming_the_models_that_count() -> None:
    page = 'nv_inference_request_success{model="a"} 1\nnv_inference_request_success{model="b"} 1\n'
    assert [model.served_model for model in read(page, only=("b",))] == ["b"]


def test_nims_bare_names_are_its_own_only_where_num_request_max_stands() -> None:
    page = 'request_success_total{model_name="m"} 4\nprompt_tokens_total{model_name="m"} 40\n'
    assert failure(page).kind == "unrecognised"
    model = one(page + 'num_request_max{model_name="m"} 128\n')
    assert (model.engine, model.totals()[Count.SUCCESS]) == ("nim", 4)


def test_llama_cpp_has_tokens_and_no_requests() -> None:
    model = one("""\
llamacpp:prompt_tokens_total 500
llamacpp:prompt_seconds_total 2.5
llamacpp:tokens_predicted_total 100
llamacpp:tokens_predicted_seconds_total 7.5
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
llamacpp:n_busy_slots_per_decode 1.5
""")
    assert Count.SUCCESS not in model.totals()
    assert (model.totals()[Count.PREFILL_SECONDS], model.totals()[Count.DECODE_SECONDS]) == (
        2.5,
        7.5,
    )
    assert (model.running, model.waiting, model.batch) == (1, 0, 1.5)


def test_bentomls_own_pages_are_no_work() -> None:
    def request(endpoint: str, code: int, count: int) -> str:
        return (
            f'bentoml_service_request_total{{endpoint="{endpoint}",service_name="s",'
            f'http_response_code="{code}"}} {count}\n'
        )

    model = one(
        request("/predict", 200, 5)
        + request("/predict", 500, 2)
        + request("/", 200, 50)
        + request("/docs.json", 200, 50)
        + request("/static_content/x.js", 200, 50)
        + request("/readyz", 200, 500)
    )
    assert model.served_model == "s"
    assert (model.totals()[Count.SUCCESS], model.totals()[Count.FAILURE]) == (5, 2)


def test_dynamos_count_of_all_requests_is_no_count_of_successes() -> None:
    model = one("""\
dynamo_component_requests_total{dynamo_endpoint="generate",model="m"} 10
dynamo_component_requests_total{dynamo_endpoint="clear_kv_blocks",model="m"} 3
dynamo_component_errors_total{dynamo_endpoint="generate",model="m"} 2
""")
    assert model.totals() == {Count.FINISHED: 10, Count.FAILURE: 2}


@pytest.mark.parametrize(
    ("page", "engine", "requests"),
    [
        (
            'trtllm_request_success_total{model_name="m",finished_reason="stop"} 3\n',
            "tensorrt_llm",
            3,
        ),
        (
            'lmdeploy:request_success_total{model_name="m",finished_reason="stop"} 3\n',
            "lmdeploy",
            3,
        ),
        ('te_request_success{method="single"} 2\nte_request_success{method="batch"} 1\n', "tei", 3),
        ('request_predict_seconds_count{model_name="m"} 3\n', "kserve", 3),
        ('ray_serve_deployment_request_counter_total{deployment="d"} 3\n', "ray_serve", 3),
    ],
)
def test_every_other_engine_is_known_by_its_series(page: str, engine: str, requests: int) -> None:
    model = one(page)
    assert (model.engine, model.totals()[Count.SUCCESS]) == (engine, requests)


def test_every_engine_of_the_table_has_a_row_that_reads() -> None:
    assert {engine.name for engine in ENGINES} >= {
        *("vllm", "sglang", "tgi", "tei", "nim", "triton", "tensorrt_llm", "lmdeploy", "llama_cpp"),
        *("torchserve", "kserve", "ray_serve", "bentoml", "dynamo"),
    }


def test_a_server_of_ones_own_is_a_row_of_the_settings() -> None:
    table = engine_table(
        Requests(
            engines=(
                CustomEngine(
                    name="mine",
                    model_label="net",
                    finished="jobs_total",
                    failure='jobs_total{code=~"5.."}',
                    input_tokens="in_total",
                    cached_input_tokens="hit_total",
                    cached_in_input=False,
                    compute_seconds="busy_ms_total * 0.001",
                ),
            )
        )
    )
    page = b"""\
jobs_total{net="a",code="200"} 8
jobs_total{net="a",code="503"} 2
in_total{net="a"} 100
hit_total{net="a"} 50
busy_ms_total{net="a"} 2000
"""
    [model] = parse_engine_page(page, table)
    assert (model.engine, model.served_model) == ("mine", "a")
    assert model.totals() == {
        Count.FINISHED: 10,
        Count.FAILURE: 2,
        Count.PROMPT: 150,
        Count.CACHED: 50,
        Count.COMPUTE_SECONDS: 2,
    }


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "-Inf"])
def test_a_counter_that_cannot_be_refuses_the_page(value: str) -> None:
    page = VLLM.replace(
        'vllm:prompt_tokens_total{model_name="m"} 5000', f"vllm:prompt_tokens_total {value}"
    )
    assert failure(page).kind == "malformed"


def test_a_gauge_that_is_no_number_is_not_known() -> None:
    model = one(VLLM.replace('running{model_name="m"} 4', 'running{model_name="m"} NaN'))
    assert model.running is None
    assert model.waiting == 2


def test_the_same_series_twice_refuses_the_page() -> None:
    line = 'vllm:prompt_tokens_total{model_name="m"} 5000\n'
    assert failure(VLLM + line).kind == "malformed"


def test_a_page_that_may_be_cut_off_is_refused_and_one_that_is_whole_needs_no_last_line_end() -> (
    None
):
    """A connection that ends after `2` may have lost the `3` behind it."""
    page = EnginePage(TABLE)
    page.feed(VLLM.encode()[:-1])
    with pytest.raises(SourceError, match="may be cut off") as caught:
        page.models()
    assert caught.value.kind == "malformed"
    page.end()
    assert page.models() == tuple(read(VLLM))


def test_blanks_before_a_line_and_line_ends_of_windows_are_no_part_of_it() -> None:
    page = "".join(f" \t{line}\r\n" for line in VLLM.splitlines()) + "  \r\n"
    assert one(page) == one(VLLM)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:prompt_tokens_total",
        "vllm:prompt_tokens_total{",
        'vllm:prompt_tokens_total{a="1",a="2"} 1',
    ],
)
def test_a_line_of_the_table_that_is_no_sample_refuses_the_page(line: str) -> None:
    assert failure(f"{line}\n").kind == "malformed"


def test_what_is_not_in_the_table_is_not_looked_at() -> None:
    assert one(VLLM + "vllm:new_thing{{{ nonsense\nhtml <b>\n\r\n").totals() == one(VLLM).totals()


def test_a_page_of_too_many_models_is_refused_unless_some_are_named() -> None:
    page = "".join(f'vllm:prompt_tokens_total{{model_name="m{n}"}} 1\n' for n in range(100))
    assert failure(page).kind == "too_many_models"


def test_a_page_of_too_many_series_or_one_endless_line_is_refused() -> None:
    many = "".join(f'vllm:prompt_tokens_total{{n="{n}"}} 1\n' for n in range(4001))
    assert failure(many).kind == "too_large"
    page = EnginePage(TABLE)
    with pytest.raises(SourceError, match="a line has more"):
        page.feed(b"x" * 100_000)


@pytest.mark.parametrize("page", [b"", b"\n\n", b"<html>not found</html>\n", b"\x00\xff\n"])
def test_a_page_of_something_else_is_not_recognised(page: bytes) -> None:
    assert failure(page).kind == "unrecognised"


@given(st.integers(1, 300), st.sampled_from(["vllm_v0", "triton_tensorrt_llm", "torchserve"]))
def test_in_how_many_pieces_a_page_comes_does_not_matter(size: int, name: str) -> None:
    text = sample(name)
    page = EnginePage(TABLE)
    for start in range(0, len(text), size):
        page.feed(text[start : start + size])
    assert page.models() == parse_engine_page(text, TABLE)


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "triton_tensorrt_llm", "torchserve"])
def test_the_lines_that_are_kept_read_the_same(name: str) -> None:
    page = EnginePage(TABLE)
    page.feed(sample(name))
    assert parse_engine_page(page.kept(), TABLE) == page.models()


_NAMES = st.sampled_from(sorted(name.decode() for name in TABLE.names))
_LINES = st.builds(
    lambda name, label, value: f"{name}{label} {value}",
    _NAMES,
    st.sampled_from(["", '{model_name="m"}', '{model="x",version="1"}', "{", '{a="\\'])
    | st.text(max_size=12),
    st.sampled_from(["0", "1", "1e300", "NaN", "-3", "", "1 2 3"]) | st.text(max_size=4),
)


@given(st.lists(_LINES, max_size=12).map("\n".join).map(str.encode) | st.binary(max_size=200))
def test_any_page_is_read_or_refused(page: bytes) -> None:
    try:
        models = parse_engine_page(page, TABLE)
    except SourceError:
        return
    for model in models:
        assert all(value >= 0 for value in model.totals().values())
