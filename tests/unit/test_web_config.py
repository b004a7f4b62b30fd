"""The web config file: refused by name or done, re-read, and never taken down by accident."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import bcrypt
import pytest

from certificates import Authority
from gpucost.config import ConfigError
from gpucost.web_config import Passwords, WebConfig
from gpucost.web_config.file import parse

if TYPE_CHECKING:
    from pathlib import Path

HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n"


def test_an_empty_file_guards_nothing() -> None:
    file = parse("")
    assert file.tls_server_config is None
    assert file.basic_auth_users == {}


@pytest.mark.parametrize(
    ("text", "named", "remedy"),
    [
        ("tls_server: {}", "top level", "no option `tls_server`"),
        ("tls_server_config: {cert_fil: a}", "tls_server_config", "no option `cert_fil`"),
        ("tls_server_config: {cert_file: a}", "tls_server_config", "Give both"),
        ("tls_server_config: {cert_file: a, key_file: ''}", "key_file", "Give both"),
        ("tls_server_config: {cert: PEM}", "tls_server_config.cert:", "cert_file"),
        ("tls_server_config: {key: PEM}", "tls_server_config.key:", "key_file"),
        ("tls_server_config: {client_ca: PEM}", "tls_server_config.client_ca:", "client_ca_file"),
        ("tls_server_config: {curve_preferences: [X25519]}", "curve_preferences", "Remove it"),
        ("rate_limit: {interval: 1s, burst: 5}", "rate_limit", "max_connections"),
        (
            "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
            "tls_server_config.min_version",
            "TLS12 or TLS13",
        ),
        (
            (
                "tls_server_config:"
                " {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}"
            ),
            "min_version",
            "Swap them",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}",
            "client_auth_type",
            "RequireAndVerifyClientCert",
        ),
        (
            (
                "tls_server_config:"
                " {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}"
            ),
            "client_ca_file",
            "authority",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
            "client_ca_file",
            "RequireAndVerifyClientCert",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_allowed_sans: [x]}",
            "client_allowed_sans",
            "RequireAndVerifyClientCert",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, cipher_suites: [TLS_RSA_WITH_RC4]}",
            "cipher_suites[0]",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            (
                "tls_server_config:"
                " {cert_file: a, key_file: b, cipher_suites: [TLS_AES_128_GCM_SHA256]}"
            ),
            "cipher_suites",
            "min_version: TLS13",
        ),
        ("http_server_config: {headers: {X-Powered-By: me}}", "headers.X-Powered-By", "Only"),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "headers.X-Frame-Options",
            "deny or sameorigin",
        ),
        (
            'http_server_config: {headers: {Content-Security-Policy: "a\\r\\nSet-Cookie: b"}}',
            "headers.Content-Security-Policy",
            "one line",
        ),
        ("http_server_config: {http2: maybe}", "http_server_config.http2", "Correct"),
        ("basic_auth_users: {ada: plain}", "basic_auth_users.ada", "htpasswd"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "basic_auth_users", "colon"),
        (f"basic_auth_users: {{a: '{HASH}', a: '{HASH}'}}", "`a`", "given twice"),
        ("[1", "line 1", "syntax"),
        ("\x00", "YAML", "UTF-8"),
        ("- a", "top level", "Expected `object`"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_path_and_a_remedy(
    text: str, named: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert named in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: {ada: hunter2}",
        "basic_auth_users: {ada: [hunter2]}",
        "basic_auth_users: hunter2",
        "basic_auth_users: {ada: 'hunter2",
        "tls_server_config: {key: hunter2}",
        "tls_server_config: {key_file: [hunter2]}",
    ],
)
def test_an_error_never_quotes_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_formats_own_example_is_read() -> None:
    """docs/web-config.yml of the exporter-toolkit, without its rate limit."""
    file = parse(
        """
        tls_server_config:
          cert_file: server.crt
          key_file: server.key
          min_version: TLS12
          cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
        http_server_config:
          http2: true
          headers: {Strict-Transport-Security: max-age=31536000}
        basic_auth_users:
          alice: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze
        """
    )
    assert file.tls_server_config is not None
    assert list(file.basic_auth_users) == ["alice"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Authority(tmp_path).issue("server")
    (tmp_path / "web.yaml").write_text(TLS + f"basic_auth_users: {{ada: '{HASH}'}}\n")
    return tmp_path


def test_certificates_are_found_beside_the_file(folder: Path) -> None:
    guard = WebConfig(folder / "web.yaml").current()
    assert guard.tls is not None
    assert guard.tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert guard.users == {"ada": HASH}


@pytest.mark.parametrize("lost", ["web.yaml", "server.pem", "server.key"])
def test_a_missing_file_is_named_at_the_start(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ConfigError, match=r"cannot be read: No such file") as caught:
        WebConfig(folder / "web.yaml")
    assert lost in str(caught.value)


def test_a_certificate_and_the_key_of_another_are_refused(folder: Path) -> None:
    Authority(folder, "another").issue("stranger")
    (folder / "server.key").write_bytes((folder / "stranger.key").read_bytes())
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        WebConfig(folder / "web.yaml")


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(folder: Path) -> None:
    Authority(folder).issue("server", passphrase=b"secret")
    with pytest.raises(ConfigError, match="without passphrase"):
        WebConfig(folder / "web.yaml")


def test_an_authority_file_without_certificates_is_refused(folder: Path) -> None:
    (folder / "web.yaml").write_text(
        "tls_server_config: {cert_file: server.pem, key_file: server.key,"
        " client_auth_type: RequireAndVerifyClientCert, client_ca_file: empty.pem}\n"
    )
    (folder / "empty.pem").write_text("")
    with pytest.raises(ConfigError, match=r"client_ca_file: .*empty\.pem holds no certificates"):
        WebConfig(folder / "web.yaml")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        WebConfig(tmp_path / "web.yaml")


def test_users_change_when_the_file_does(folder: Path) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    (folder / "web.yaml").write_text(TLS + f"basic_auth_users: {{grace: '{HASH}'}}\n")
    assert list(web.current().users) == ["grace"]
    assert web.problem is None


def test_a_renewed_certificate_is_taken_up(folder: Path) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    before = web.current()
    assert web.current() is before
    Authority(folder, "renewed").issue("server")
    after = web.current()
    assert after.tls is not before.tls
    assert web.problem is None


def test_a_swapped_link_is_taken_up(folder: Path) -> None:
    """A Secret's mount: server.pem links into ..data, which links to a folder that changes."""
    for name in ("old", "new"):
        (folder / name).mkdir()
        Authority(folder / name).issue("server")
    (folder / "..data").symlink_to("old")
    for name in ("server.pem", "server.key"):
        (folder / name).unlink()
        (folder / name).symlink_to(f"..data/{name}")
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    before = web.current()
    (folder / "..data_tmp").symlink_to("new")
    (folder / "..data_tmp").replace(folder / "..data")
    assert web.current().tls is not before.tls


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("basic_auth_users: {ada: plain}", "not a bcrypt hash"),
        ("", "cannot be added or removed while running"),
        (TLS, "passwords cannot be switched off while running"),
        ("tls_server_config: {cert_file: gone.pem, key_file: server.key}", "gone.pem"),
    ],
)
def test_a_bad_change_leaves_the_last_good_settings_in_force(
    folder: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    good = web.current()
    (folder / "web.yaml").write_text(text)
    assert web.current() is good
    assert web.current() is good
    assert web.problem is not None
    assert reason in web.problem
    assert sum(reason in record.getMessage() for record in caplog.records) == 1


def test_the_file_mended_the_settings_follow_again(folder: Path) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    (folder / "web.yaml").write_text("nonsense: 1")
    web.current()
    (folder / "web.yaml").write_text(TLS + f"basic_auth_users: {{grace: '{HASH}'}}\n")
    assert list(web.current().users) == ["grace"]
    assert web.problem is None


def test_a_certificate_that_came_back_is_taken_up(folder: Path) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=0)
    key = (folder / "server.key").read_bytes()
    (folder / "server.key").unlink()
    web.current()
    assert web.problem is not None
    (folder / "server.key").write_bytes(key)
    web.current()
    assert web.problem is None


def test_the_disk_is_not_asked_oftener_than_stated(folder: Path) -> None:
    web = WebConfig(folder / "web.yaml", check_seconds=3600)
    (folder / "web.yaml").write_text("nonsense: 1")
    web.current()
    assert web.problem is None


def test_a_password_is_right_for_its_user_only() -> None:
    other = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    users = {"ada": HASH, "grace": other}
    passwords = Passwords()
    assert passwords.right(users, "ada", "open sesame")
    assert not passwords.right(users, "ada", "other")
    assert not passwords.right(users, "grace", "open sesame")
    assert not passwords.right(users, "mallory", "open sesame")
    assert not passwords.right(users, "", "")


def test_a_verdict_is_remembered_and_a_changed_hash_asks_anew() -> None:
    passwords = Passwords()
    for _ in range(3):
        assert passwords.right({"ada": HASH}, "ada", "open sesame")
        assert not passwords.right({"ada": HASH}, "ada", "wrong")
    assert passwords.checks == 2
    changed = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
    assert not passwords.right({"ada": changed}, "ada", "open sesame")
    assert passwords.checks == 3


def test_a_user_who_does_not_exist_costs_a_check_too() -> None:
    passwords = Passwords()
    assert not passwords.right({"ada": HASH}, "mallory", "guess")
    assert passwords.checks == 1


def test_a_flood_of_guesses_does_not_push_out_one_who_asks_often() -> None:
    passwords = Passwords()
    passwords.right({"ada": HASH}, "ada", "open sesame")
    checks = passwords.checks
    guesses = Passwords.MAX_VERDICTS + 8
    for guess in range(guesses):
        passwords.right({"ada": HASH}, "ada", str(guess))
        assert passwords.right({"ada": HASH}, "ada", "open sesame")
    assert passwords.checks == checks + guesses
    assert passwords.remembered == Passwords.MAX_VERDICTS


def test_long_odd_and_empty_passwords_are_wrong_and_not_an_error() -> None:
    long = "x" * 100
    users = {"ada": HASH, "long": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()}
    passwords = Passwords()
    assert passwords.right(users, "long", long), "bcrypt reads 72 bytes, here as in Go"
    for odd in ("", "\x00", "open sesame\x00", "\ud800", "é" * 40):
        assert not passwords.right(users, "ada", odd)


def test_a_malformed_salt_is_a_wrong_password() -> None:
    assert not Passwords().right({"ada": "$2b$04$" + "." * 53}, "ada", "open sesame")
