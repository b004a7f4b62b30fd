"""HAMi's annotation: every form that its releases write, and none that is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.model import Reserved
from gpucost.sources.hami import parse_reserved

GPU = "GPU-0aa6b97c-d386-26ba-a94a-b9d27c2e3a71"
OTHER = "GPU-2409b7b6-2df6-0343-90dd-2d73da18e0e8"
MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "asking", "reserved"),
    [
        (f"{GPU},NVIDIA,5000,30:;", ["a"], [Reserved("a", GPU, 5000 * MIB, 0.3)]),
        # Two devices of one container
        (
            f"{GPU},NVIDIA,1000,0:{OTHER},NVIDIA-Tesla V100,2000,0:;",
            ["a"],
            [Reserved("a", GPU, 1000 * MIB), Reserved("a", OTHER, 2000 * MIB)],
        ),
        # Two containers, and places for containers without a GPU in every known form
        (
            f"{GPU},NVIDIA,1000,0:;{OTHER},NVIDIA,0,50:;",
            ["a", "b"],
            [Reserved("a", GPU, 1000 * MIB), Reserved("b", OTHER, 0, 0.5)],
        ),
        (f";{GPU},NVIDIA,6144,30:;", ["a"], [Reserved("a", GPU, 6144 * MIB, 0.3)]),
        (f",,0,0:;{GPU},NVIDIA,1000,0:;,,0,0:;", ["a"], [Reserved("a", GPU, 1000 * MIB)]),
        (f"{GPU},NVIDIA,1000,0:;;,,0,0:;,,0,0:;", ["b"], [Reserved("b", GPU, 1000 * MIB)]),
        # More places than containers ask: all is the pod's all the same
        (
            f"{GPU},NVIDIA,1000,0:;{OTHER},NVIDIA,1000,0:;",
            ["a"],
            [Reserved("a", GPU, 1000 * MIB), Reserved("a", OTHER, 1000 * MIB)],
        ),
        # Cores over 100 are all of them
        (f"{GPU},NVIDIA,1000,200:;", ["a"], [Reserved("a", GPU, 1000 * MIB, 1.0)]),
        (";", ["a"], []),
        ("", ["a"], []),
        # Not understood
        (f"{GPU},NVIDIA,1000:;", ["a"], []),
        (f"{GPU},NVIDIA,much,0:;", ["a"], []),
        (f"{GPU},NVIDIA,-5,0:;", ["a"], []),
        (f"{GPU},NVIDIA,{'9' * 5000},0:;", ["a"], []),
        (f"{GPU},MLU,1000,0:;", ["a"], []),
        (f",NVIDIA,1000,0:;{GPU},NVIDIA,1000,0:;", ["a"], []),
        (f"{GPU},NVIDIA,1000,0:;", [], []),
        (f"{GPU},NVIDIA,1000,0:;" * 4000, ["a"], []),
    ],
)
def test_every_known_form_is_read_and_no_other(
    text: str, asking: list[str], reserved: list[Reserved]
) -> None:
    assert list(parse_reserved(text, asking)) == reserved


def test_what_an_init_container_reserved_is_not_held_on() -> None:
    text = f"{GPU},NVIDIA,1000,0:;{OTHER},NVIDIA,2000,0:;"
    assert parse_reserved(text, ["init", "main"], {"init"}) == (
        Reserved("main", OTHER, 2000 * MIB),
    )


@given(st.text(alphabet=f"{GPU},:;NVIDIA09 ", max_size=200), st.lists(st.text(max_size=3)))
def test_any_text_gives_parts_or_none(text: str, asking: list[str]) -> None:
    for part in parse_reserved(text, asking):
        assert part.container in asking
        assert part.uuid
        assert 0 <= part.cores_ratio <= 1
        assert part.memory_bytes >= 0
