"""How much of a GPU's roof an inference engine reaches: the few constants of every estimate.

They are fitted to published figures by scripts/fit_sizing.py, which says by how much estimates
miss; tests/unit/test_sizing_figures.py holds them to it.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace


class Engine(Struct, frozen=True):
    """An inference engine.

    `bandwidth` and `compute` are the parts reached of the memory's and the tensor cores' rates. A
    step costs `layer_seconds` a layer (launches) and `request_seconds` a running request
    (scheduling, sampling) beside them. `link` is the part reached of the rate between GPUs, and
    `link_seconds` what adding up over them takes however little it is. `stream_gb_s` bounds what
    reading weights once can keep in flight, where kernels are written for one stream.
    `kv_follows` says that FP8 weights bring an FP8 cache. `missed` is the median part by which
    estimates are off so many published `figures` that they were not fitted to; None where none
    says its lengths.
    """

    name: str
    also: tuple[str, ...]
    bandwidth: float
    compute: float
    layer_seconds: float
    request_seconds: float
    max_batch: int
    link: float = 0.485
    link_seconds: float = 18e-6
    kv_follows: bool = False
    stream_gb_s: float | None = None
    missed: float | None = None
    figures: int = 0

    def times(self, factor: float) -> Engine:
        """The same engine where measured work ran `factor` times as fast as estimated."""
        return replace(
            self,
            bandwidth=self.bandwidth * factor,
            compute=self.compute * factor,
            layer_seconds=self.layer_seconds / factor,
            request_seconds=self.request_seconds / factor,
        )


ENGINES: dict[str, Engine] = {
    it.name: it
    for it in (
        Engine(
            "tensorrt-llm", ("tensorrt", "trt", "nim", "tensorrt_llm", "triton"),
            bandwidth=0.89, compute=0.76, layer_seconds=108e-6, request_seconds=7.6e-6,
            max_batch=2048, kv_follows=True, missed=0.09, figures=141,
        ),
        # What many requests at once cost its scheduler is taken from TensorRT-LLM: no figure of it
        # with known lengths shows that. (Fitted to those there are, it comes out as nothing.)
        Engine(
            "vllm", ("sglang", "tgi", "lmdeploy"),
            bandwidth=0.95, compute=0.551, layer_seconds=57.2e-6, request_seconds=7.6e-6,
            max_batch=256, missed=0.06, figures=13,
        ),
        # Before 0.6 the host was slower than a fast GPU.
        Engine(
            "vllm-0.5", (),
            bandwidth=0.95, compute=0.551, layer_seconds=57.2e-6, request_seconds=278e-6,
            max_batch=256, missed=0.34, figures=6,
        ),
        Engine(
            "transformers", ("hf", "pytorch"),
            bandwidth=0.6, compute=0.3, layer_seconds=500e-6, request_seconds=10e-6,
            max_batch=256,
        ),
        Engine(
            "llama.cpp", ("llama_cpp", "ollama", "gguf"),
            bandwidth=0.82, compute=0.3, layer_seconds=10e-6, request_seconds=10e-6,
            max_batch=256, stream_gb_s=979.0, missed=0.1, figures=21,
        ),
    )
}  # fmt: skip

DEFAULT_ENGINE = "vllm"


def engine_named(name: str) -> Engine | None:
    """The engine of this name, or the class that it belongs to."""
    wanted = name.casefold()
    return next((it for it in ENGINES.values() if wanted in (it.name, *it.also)), None)
