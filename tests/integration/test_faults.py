"""What the exporter looks at fails and comes back: each fault shows, and none loses a second.

The real program over real sockets; tests/e2e has those faults that take a real node.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

import fake_nvml
from gpucost.ledger import imbalance_usd
from kube_api import pod
from lives import (
    PATIENCE,
    Exporter,
    Series,
    charged_seconds,
    counters,
    playing,
    problems,
    sources_up,
)
from page_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_nvml import Gpu, World
    from gpucost.checkpoint import Checkpoint
    from kubelet_socket import KubeletSocket
    from page_server import Handler

LASTS_SECONDS = 3.0
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
"""nvml.h, nvmlReturn_t."""


class Fault(NamedTuple):
    """How it begins and ends, and what a page shows meanwhile: a problem, and a source down."""

    strike: Callable[[Exporter], None]
    mend: Callable[[Exporter], None]
    problem: tuple[str, str]
    down: bool = True
    states: frozenset[str] = frozenset()
    """Those that grow while it lasts, beside those of a healthy node."""


HEALTHY = frozenset({"used", "underused", "unallocated"})
UNHEALTHY = frozenset({"unhealthy"})
UNMEASURED = frozenset({"unmeasured"})


def _driver(strike: Callable[[World], object]) -> Callable[[Exporter], None]:
    """A fault of the driver's."""

    def struck(exporter: Exporter) -> None:
        strike(exporter.node.world)

    return struck


def _driver_unloads(world: World) -> None:
    world.init_code = DRIVER_NOT_LOADED
    world.fail("*", DRIVER_NOT_LOADED)


def _driver_is_back(world: World) -> None:
    world.init_code = 0
    world.heal()


def _kubelet(change: Callable[[KubeletSocket], object]) -> Callable[[Exporter], None]:
    """A fault of the kubelet's. It is asked at once, since a pod has changed; else every 30 s."""

    def changed(exporter: Exporter) -> None:
        change(exporter.node.kubelet)
        exporter.node.api.put("pods", pod("other", phase=f"at {time.monotonic()}"))

    return changed


def _hang(kubelet: KubeletSocket) -> None:
    kubelet.hang = True


def _answer(kubelet: KubeletSocket) -> None:
    kubelet.hang = False
    kubelet.stop()
    kubelet.start()


def _leave_the_bus(exporter: Exporter) -> None:
    exporter.node.lost.append(exporter.node.world.gpus.pop())
    exporter.node.world.write()


def _come_back(exporter: Exporter) -> None:
    exporter.node.world.gpus.append(exporter.node.lost.pop())
    exporter.node.world.write()


def _delete_the_config(exporter: Exporter) -> None:
    exporter.config.rename(exporter.config.with_suffix(".away"))


def _write_half_of_the_config(exporter: Exporter) -> None:
    text = exporter.config.read_text("utf-8")
    exporter.config.with_suffix(".away").write_text(text, "utf-8")
    exporter.config.write_text(text[: text.index("fallback: {") + 12], "utf-8")


def _put_the_config_back(exporter: Exporter) -> None:
    exporter.config.with_suffix(".away").replace(exporter.config)


FAULTS = {
    "kubelet hung": Fault(_kubelet(_hang), _kubelet(_answer), ("kubelet", "timeout")),
    "kubelet gone": Fault(
        _kubelet(lambda it: it.stop()), _kubelet(lambda it: it.start()), ("kubelet", "unreachable")
    ),
    "driver hung": Fault(
        _driver(lambda it: it.fail("*", delay_ms=600_000)),
        _driver(_driver_is_back),
        ("nvml", "timeout"),
        states=UNMEASURED,
    ),
    "driver unloaded and back": Fault(
        _driver(_driver_unloads),
        _driver(_driver_is_back),
        ("nvml", "driver_not_loaded"),
        states=UNMEASURED,
    ),
    "GPU lost": Fault(
        _driver(lambda it: it.fail("*", GPU_IS_LOST, gpu=1)),
        _driver(_driver_is_back),
        ("nvml", "gpu_lost"),
        down=False,
        states=UNHEALTHY,
    ),
    "GPU off the bus": Fault(
        _leave_the_bus, _come_back, ("nvml", "gpu_missing"), down=False, states=UNHEALTHY
    ),
    "config deleted": Fault(
        _delete_the_config, _put_the_config_back, ("config", "invalid"), down=False
    ),
    "config half written": Fault(
        _write_half_of_the_config, _put_the_config_back, ("config", "invalid"), down=False
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows_and_loses_no_second(tmp_path: Path, name: str) -> None:
    with playing(tmp_path / "node", fake_nvml.h100()) as exporter:
        endure(exporter, FAULTS[name])


def test_a_dcgm_exporter_that_goes_shows_and_loses_no_second(tmp_path: Path) -> None:
    with playing(tmp_path / "node", fake_nvml.h100()) as exporter:
        page = dcgm_page(exporter.node.world.gpus)

        def works(handler: Handler) -> None:
            handler.send(page)

        def refuses(handler: Handler) -> None:
            handler.send(b"", status=503)

        with serving(works) as dcgm:
            config = exporter.config.read_text("utf-8")
            exporter.config.write_text(f"{config}dcgm: {{url: {dcgm.url}}}\n", "utf-8")
            endure(
                exporter,
                Fault(
                    lambda _: setattr(dcgm, "answer", refuses),
                    lambda _: setattr(dcgm, "answer", works),
                    ("dcgm", "http_status"),
                ),
            )


def test_mig_partitioned_anew_is_charged_as_it_is_then(tmp_path: Path) -> None:
    spare = fake_nvml.h100(["3g.40gb", "3g.40gb"])
    with playing(tmp_path / "node", spare) as exporter:
        exporter.start()
        exporter.shows_counters()
        before = exporter.kept()
        # A seventh, while two instances of three slices are all there is.
        until(exporter, lambda page: stranded_seconds(page) > 0)
        spare.partition(["1g.10gb"] * 7)
        exporter.node.world.write()
        page = until(exporter, lambda page: len(instances(page)) == 7)
        time.sleep(LASTS_SECONDS)
        assert stranded_seconds(exporter.first_page()) == stranded_seconds(page)
        assert check(exporter, before) == HEALTHY | {"stranded"}


def dcgm_page(gpus: list[Gpu]) -> bytes:
    """What a dcgm-exporter shows of these."""
    lines = ["# TYPE DCGM_FI_DEV_GPU_TEMP gauge"]
    lines += [
        f'DCGM_FI_DEV_GPU_TEMP{{gpu="{index}",UUID="{gpu.uuid}",modelName="{gpu.model}"}} 40'
        for index, gpu in enumerate(gpus)
    ]
    return ("\n".join(lines) + "\n").encode()


def instances(page: dict[Series, float]) -> list[Series]:
    return [series for series in page if series[0] == "gpucost_mig_info"]


def stranded_seconds(page: dict[Series, float]) -> float:
    return sum(
        value
        for (name, labels), value in page.items()
        if name == "gpucost_gpu_seconds_total" and ("state", "stranded") in labels
    )


def endure(exporter: Exporter, fault: Fault) -> None:
    """Have a fault come and go."""
    exporter.start()
    exporter.shows_counters()
    page = until(exporter, lambda page: all(sources_up(page).values()))
    healthy, scraped, process = problems(page), counters(page), exporter.process
    before = exporter.kept()

    fault.strike(exporter)
    page = until(exporter, lambda page: fault.problem in problems(page))
    assert problems(page) - healthy == {fault.problem}
    time.sleep(LASTS_SECONDS)
    page = exporter.first_page()
    down = {source for source, up in sources_up(page).items() if not up}
    assert down == ({fault.problem[0]} if fault.down else set())
    scraped = not_fallen(scraped, page)

    fault.mend(exporter)
    page = until(exporter, lambda page: problems(page) == healthy)
    assert all(sources_up(page).values())
    not_fallen(scraped, page)
    assert exporter.process is process
    assert check(exporter, before) == HEALTHY | fault.states


def check(exporter: Exporter, before: Checkpoint) -> frozenset[str]:
    """Every GPU-second since is charged once; in which states."""
    after = exporter.kept()
    passed = after.monotonic_seconds - before.monotonic_seconds
    charged = charged_seconds(after) - charged_seconds(before)
    assert charged == pytest.approx(len(after.ledger.gpus) * passed)
    assert abs(imbalance_usd(after.ledger)) < 1e-9
    return frozenset(
        str(state)
        for uuid, gpu in after.ledger.gpus.items()
        for state, seconds in gpu.account.seconds.items()
        if seconds > before.ledger.gpus[uuid].account.seconds.get(state, 0.0)
    )


def until(exporter: Exporter, holds: Callable[[dict[Series, float]], bool]) -> dict[Series, float]:
    """The first page of which something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds(page := exporter.first_page()):
        assert time.monotonic() < deadline, (problems(page), sources_up(page), exporter.log)
        time.sleep(0.2)
    return page


def not_fallen(before: dict[Series, float], page: dict[Series, float]) -> dict[Series, float]:
    """The page's counters, none of which is lower than it was or gone."""
    now = counters(page)
    assert before.keys() <= now.keys()
    assert all(now[key] >= value for key, value in before.items())
    return now
