"""The web config file's format, validated: what it asks for is done or refused by name.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
An error names the path of the option and the remedy, and never quotes a value: some are secrets.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import yaml
from msgspec import Struct

from gpucost.config import ConfigError, UniqueKeys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TlsVersion = Literal["TLS12", "TLS13"]

_VERSIONS: dict[str, ssl.TLSVersion] = {
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}

_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""The format's names (IANA's, as Go spells them) for TLS 1.2, in OpenSSL's. CBC suites, which
Go still lists, are left out on purpose."""

_TLS13_CIPHERS = frozenset(
    {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
)
"""Always on, here as in Go; naming them is allowed."""

_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""The headers that the format lets be set, and their values where those are fixed."""

_UNSUPPORTED = {
    "tls_server_config.cert": "Put it in a file and name that as cert_file.",
    "tls_server_config.key": "Put it in a file and name that as key_file.",
    "tls_server_config.client_ca": "Put it in a file and name that as client_ca_file.",
    "tls_server_config.curve_preferences": "Remove it: OpenSSL's own choice is used.",
    "rate_limit": "Remove it: http.max_connections of gpucost's configuration bounds the load.",
}
"""Options of the format that gpucost does not have, and what to do instead."""

_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class TlsServer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`tls_server_config`."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    client_auth_type: str = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: TlsVersion = "TLS12"
    max_version: TlsVersion = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True


class HttpServer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`http_server_config`. `http2` may say either: clients that offer it fall back to 1.1."""

    http2: bool = True
    headers: dict[str, str] = {}


class WebFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    tls_server_config: TlsServer | None = None
    http_server_config: HttpServer = HttpServer()
    basic_auth_users: dict[str, str] = {}


def parse(text: str | bytes) -> WebFile:
    """Validate the text of a web config file. Raises ConfigError, which never quotes a value."""
    try:
        raw: Any = yaml.load(text, Loader=UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the file"
        raise ConfigError(f"{line}: not YAML. Mend the syntax there.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise ConfigError("not YAML. Save it as UTF-8 text in YAML.") from None
    if isinstance(raw, dict):
        _refuse_unsupported(raw)
    try:
        file = msgspec.convert({} if raw is None else raw, WebFile)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error))) from None
    _check_tls(file.tls_server_config)
    _check_headers(file.http_server_config.headers)
    for user, password_hash in file.basic_auth_users.items():
        if not user or ":" in user:
            raise ConfigError(
                "basic_auth_users: a user name must not be empty or hold a colon (RFC 7617)."
                " Choose another name."
            )
        if not _BCRYPT.fullmatch(password_hash):
            raise ConfigError(
                f"basic_auth_users.{user}: not a bcrypt hash. Make one with"
                " `htpasswd -nBC 10 '' | tr -d ':\\n'`."
            )
    return file


def _refuse_unsupported(raw: dict[str, Any]) -> None:
    for path, remedy in _UNSUPPORTED.items():
        block, _, key = path.partition(".")
        inner = raw.get(block)
        if block in raw and (not key or (isinstance(inner, dict) and key in inner)):
            raise ConfigError(f"{path}: gpucost does not support this option. {remedy}")


def _explain(message: str) -> str:
    """Put msgspec's `what - at $.path` as `path: what`, with what to do."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".") or "top level"
    if unknown := re.search(r"unknown field `(.*)`", what):
        return (
            f"{path}: there is no option `{unknown[1]}`. Check its spelling and indentation"
            " against the exporter-toolkit's web configuration."
        )
    if missing := re.search(r"missing required field `(.*)`", what):
        return f"{path}: `{missing[1]}` is missing. Give both cert_file and key_file."
    if path.endswith("_version"):
        return f"{path}: must be TLS12 or TLS13. gpucost speaks nothing older than TLS 1.2."
    return f"{path}: {what}. Correct the value."


def _check_tls(tls: TlsServer | None) -> None:
    if tls is None:
        return
    path = "tls_server_config"
    for field in ("cert_file", "key_file"):
        if not getattr(tls, field):
            raise ConfigError(f"{path}.{field}: is empty. Give both cert_file and key_file.")
    if tls.client_auth_type not in _CLIENT_AUTH:
        raise ConfigError(
            f"{path}.client_auth_type: must be one of {', '.join(_CLIENT_AUTH)}. Asking for a"
            " certificate without verifying it is not supported: use RequireAndVerifyClientCert."
        )
    _check_clients(tls, path)
    _check_versions(tls, path)


def _check_clients(tls: TlsServer, path: str) -> None:
    verify = _CLIENT_AUTH[tls.client_auth_type]
    if verify is ssl.CERT_NONE and tls.client_ca_file:
        raise ConfigError(
            f"{path}.client_ca_file: has no effect with client_auth_type NoClientCert. Set"
            " client_auth_type: RequireAndVerifyClientCert, or remove it."
        )
    if verify is not ssl.CERT_NONE and not tls.client_ca_file:
        raise ConfigError(
            f"{path}.client_ca_file: is needed to verify client certificates. Name the file"
            " with the authority that signs them."
        )
    if tls.client_allowed_sans and verify is not ssl.CERT_REQUIRED:
        raise ConfigError(
            f"{path}.client_allowed_sans: needs client_auth_type RequireAndVerifyClientCert."
        )


def _check_versions(tls: TlsServer, path: str) -> None:
    if tls.min_version > tls.max_version:
        raise ConfigError(f"{path}.min_version: is above max_version. Swap them.")
    for index, name in enumerate(tls.cipher_suites):
        if name not in _CIPHERS and name not in _TLS13_CIPHERS:
            raise ConfigError(
                f"{path}.cipher_suites[{index}]: not a cipher suite that gpucost offers. Choose"
                f" among {', '.join(_CIPHERS)}."
            )
    if tls.cipher_suites and tls.min_version == "TLS12" and not _tls12_ciphers(tls):
        raise ConfigError(
            f"{path}.cipher_suites: holds none for TLS 1.2. Add one, or set min_version: TLS13."
        )


def _tls12_ciphers(tls: TlsServer) -> list[str]:
    return [_CIPHERS[name] for name in tls.cipher_suites if name in _CIPHERS]


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        path = f"http_server_config.headers.{name}"
        if name not in _HEADERS:
            raise ConfigError(f"{path}: cannot be set. Only {', '.join(_HEADERS)} can.")
        if _HEADERS[name] and value and value not in _HEADERS[name]:
            raise ConfigError(f"{path}: must be {' or '.join(_HEADERS[name])}.")
        if not value.isascii() or not all(char.isprintable() for char in value):
            raise ConfigError(f"{path}: must be printable ASCII on one line. Correct the value.")


def context(tls: TlsServer, folder: Path) -> ssl.SSLContext:
    """Load the certificates of `tls`, relative to `folder`. Raises ConfigError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[tls.min_version]
    made.maximum_version = _VERSIONS[tls.max_version]
    made.set_alpn_protocols(["http/1.1"])
    made.options |= ssl.OP_NO_RENEGOTIATION
    if tls.prefer_server_cipher_suites:
        made.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    made.set_ciphers(":".join(_tls12_ciphers(tls) or _CIPHERS.values()))
    cert, key = folder / tls.cert_file, folder / tls.key_file
    try:
        # Without a password function OpenSSL asks for one on the terminal, and waits.
        made.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"tls_server_config: {cert} and {key} are not a certificate and its key in PEM,"
            f" without passphrase ({error.reason}). Renew both together."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"tls_server_config: {cert} or {key} cannot be read: {error.strerror}. Check the"
            " paths and their permissions."
        ) from None
    made.verify_mode = _CLIENT_AUTH[tls.client_auth_type]
    if tls.client_ca_file:
        authority = folder / tls.client_ca_file
        try:
            made.load_verify_locations(authority)
        except ssl.SSLError as error:
            raise ConfigError(
                f"tls_server_config.client_ca_file: {authority} holds no certificates in PEM"
                f" ({error.reason}). Name the authority's certificate."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"tls_server_config.client_ca_file: {authority} cannot be read:"
                f" {error.strerror}. Check the path and its permissions."
            ) from None
    return made
