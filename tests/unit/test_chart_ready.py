"""`helm test`'s program, as the chart hands it to the image's Python, against real servers."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import bcrypt

from certificates import Authority
from gpucost.config import Http
from gpucost.server import Server
from gpucost.web_config import WebConfig
from helm_chart import install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Shown:
    """What an exporter shows; no page before its first report."""

    def __init__(self, page: bytes | None) -> None:
        self.page = page

    def metrics(self, openmetrics: bool) -> bytes | None:  # noqa: ARG002, FBT001 - the Protocol's
        return self.page

    def status(self) -> bytes | None:
        return self.page

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        return self.page is not None


READY = Shown(b'# TYPE gpucost_build_info gauge\ngpucost_build_info{node="n"} 1.0\n')


@contextmanager
def serving(pages: Shown) -> Iterator[int]:
    server = Server("127.0.0.1", 0, pages=pages, settings=Http())
    server.start()
    try:
        yield server.port
    finally:
        server.close()


def helm_test(host: str, port: int, *scheme: str) -> subprocess.CompletedProcess[str]:
    [container] = install().one("Pod")["spec"]["containers"]
    assert container["command"] == ["python3", "-c"]
    return subprocess.run(
        [sys.executable, "-c", container["args"][0], host, str(port), *scheme],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_a_ready_exporter_passes() -> None:
    with serving(READY) as port:
        ran = helm_test("127.0.0.1", port)
    assert (ran.returncode, ran.stdout) == (0, "127.0.0.1: ready\n"), ran.stderr


def test_one_that_has_no_report_yet_fails() -> None:
    with serving(Shown(None)) as port:
        ran = helm_test("127.0.0.1", port)
    assert ran.returncode == 1
    assert "/-/ready answers 503" in ran.stdout


def test_one_that_shows_nothing_of_gpucost_fails() -> None:
    with serving(Shown(b"# EOF\n")) as port:
        ran = helm_test("127.0.0.1", port)
    assert ran.returncode == 1
    assert "no gpucost_build_info" in ran.stdout


def test_nobody_there_fails_with_what_to_look_at() -> None:
    ran = helm_test("gpucost.nowhere.invalid", 10190)
    assert ran.returncode == 1
    assert "no exporter is ready" in ran.stdout


def test_one_behind_tls_and_a_password_passes_without_knowing_either(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("exporter")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    web = tmp_path / "web.yaml"
    web.write_text(
        "tls_server_config: {cert_file: exporter.pem, key_file: exporter.key}\n"
        f'basic_auth_users: {{prometheus: "{hashed}"}}\n'
    )
    server = Server("127.0.0.1", 0, pages=READY, settings=Http(), web=WebConfig(web))
    server.start()
    try:
        ran = helm_test("127.0.0.1", server.port, "https")
    finally:
        server.close()
    assert (ran.returncode, ran.stdout) == (0, "127.0.0.1: ready\n"), ran.stderr
