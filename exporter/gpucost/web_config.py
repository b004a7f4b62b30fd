"""TLS and passwords, from a web config file in the format of Prometheus' exporters.

The format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
The rules of the file: what it asks for is done or refused by name, never ignored; it and its
certificates are re-read when they change; a change that cannot be used leaves the last good
settings in force; and a guard that was up at the start (TLS, passwords) can be altered while
running, but not taken down: a half-written file must not open the door.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import ssl
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import yaml
from msgspec import Struct

from gpucost.config import MAX_CONFIG_BYTES, ConfigError
from gpucost.config import _UniqueKeys as UniqueKeys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

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
_MAX_PASSWORD_BYTES = 72
"""bcrypt reads no more; Go's compares on the first 72 bytes, Python's refuses longer ones."""


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


class Guard(Struct, frozen=True):
    """What stands before the pages: settings in force, ready to use.

    `tls` None means plain HTTP. `users` maps a user to a bcrypt hash; none: no password.
    `allowed_sans` are the names of which a client's certificate must hold one; none: any.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


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


class WebConfig:
    """The settings in force of one web config file, which is watched.

    Raises ConfigError at once if the file cannot be used; later, `current()` keeps the last
    good settings, and `problem` says what is wrong with those on disk.
    """

    def __init__(self, path: Path, *, check_seconds: float = 1.0) -> None:
        """Read `path`; look for changes at most once per `check_seconds`."""
        self._path = path
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._checked = time.monotonic()
        self._watched: tuple[Path, ...] = (path,)
        self._stamps: tuple[object, ...] = ()
        self.problem: str | None = None
        self._guard = self._load()

    def current(self) -> Guard:
        """Return the settings in force, re-read if the files changed. Does not raise."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked < self._check_seconds:
                return self._guard
            self._checked = now
            if _stamps(self._watched) == self._stamps:
                return self._guard
            try:
                self._guard = _replace(self._guard, self._load())
            except ConfigError as error:
                self.problem = str(error)
                log.error(  # noqa: TRY400 - the message says it all; a traceback adds nothing
                    "web config not reloaded, the last good one stays in force: %s", error
                )
            else:
                self.problem = None
                log.info("web config reloaded from %s", self._path)
            return self._guard

    def _load(self) -> Guard:
        """Read every file, after noting what is on disk: a later change is then seen."""
        self._watched = (self._path,)
        self._stamps = _stamps(self._watched)
        try:
            text = _read(self._path)
            file = parse(text)
            folder = self._path.parent
            tls = file.tls_server_config
            if tls is not None:
                names = (tls.cert_file, tls.key_file, tls.client_ca_file)
                self._watched += tuple(folder / name for name in names if name)
                self._stamps += _stamps(self._watched[1:])
            return Guard(
                tls=None if tls is None else context(tls, folder),
                allowed_sans=frozenset(tls.client_allowed_sans if tls else ()),
                users=file.basic_auth_users,
                headers=file.http_server_config.headers,
            )
        except ConfigError as error:
            raise ConfigError(f"{self._path}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}. Check the path and its permissions."
        ) from None
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"larger than {MAX_CONFIG_BYTES} bytes. Is it the right file?")
    return text


def _replace(old: Guard, new: Guard) -> Guard:
    """Check that a reload takes no guard down. Raises ConfigError."""
    if (old.tls is None) != (new.tls is None):
        raise ConfigError(
            "tls_server_config: cannot be added or removed while running. Restart gpucost."
        )
    if old.users and not new.users:
        raise ConfigError(
            "basic_auth_users: passwords cannot be switched off while running. Restart gpucost."
        )
    return new


def _stamps(paths: Iterable[Path]) -> tuple[object, ...]:
    """Return what changes when a file does; a Secret's mount swaps a link, so follow links."""
    stamps: list[object] = []
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116 - one call for all paths, links followed
        except OSError as error:
            stamps.append(error.errno)
        else:
            stamps.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(stamps)


class Passwords:
    """Checks users and passwords; remembers verdicts, for bcrypt is slow by design.

    A verdict is kept under a keyed hash of user, bcrypt hash and password, so that memory holds
    no password, and a changed bcrypt hash is a new question. One check runs at a time, and the
    oldest verdict goes first: a flood of wrong passwords costs one core at most, and those who
    ask often with the right one do not notice it.
    """

    MAX_VERDICTS = 256

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()
        self._lock = threading.Lock()
        self._one_check = threading.Lock()
        self.checks = 0
        """How often bcrypt was run."""

    def right(self, users: Mapping[str, str], user: str, password: str) -> bool:
        """Whether `password` is that of `user`; as slow for a user who does not exist."""
        stand_in = next(iter(users.values()))
        password_hash = users.get(user, stand_in)
        question = self._fingerprint(user, password_hash, password)
        verdict = self._known(question)
        if verdict is None:
            with self._one_check:
                verdict = self._known(question)  # perhaps found while waiting for our turn
                if verdict is None:
                    verdict = _matches(password, password_hash) and user in users
                    self._remember(question, verdict)
        return verdict

    def _known(self, question: bytes) -> bool | None:
        with self._lock:
            verdict = self._verdicts.get(question)
            if verdict is not None:
                self._verdicts.move_to_end(question)
            return verdict

    def _remember(self, question: bytes, verdict: bool) -> None:  # noqa: FBT001 - it is one bit
        with self._lock:
            self.checks += 1
            self._verdicts[question] = verdict
            if len(self._verdicts) > self.MAX_VERDICTS:
                self._verdicts.popitem(last=False)

    def _fingerprint(self, *words: str) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8) + data)
        return mac.digest()


def _matches(password: str, password_hash: str) -> bool:
    import bcrypt  # noqa: PLC0415 - a native library that few need

    data = password.encode("utf-8", "surrogatepass")[:_MAX_PASSWORD_BYTES]
    try:
        return bcrypt.checkpw(data, password_hash.encode())
    except ValueError:  # a NUL in the password, or a salt that the pattern lets through
        return False
