"""GET from the API server, as a stream of bytes; PATCH for the one object that is written.

The `kubernetes` package finds the server and the credentials (service account or KUBECONFIG)
and gives its connection pool (`RESTClientObject`, the transport of its ApiClient). Its typed
models are not used: they hold an object whole. It is imported when first needed, for it costs
14 MiB and a machine without Kubernetes has no use for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Struct

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER_AGENT = "gpucost"
CHUNK_BYTES = 64 << 10
MAX_ERROR_BYTES = 16 << 10

SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
"""Set by the kubelet in every pod."""


class _Status(Struct):
    """The API server's answer when it refuses."""

    message: str = ""


class Stream:
    """The body of an answer; `interrupt` is for another thread, the rest for one."""

    def __init__(self, response: urllib3.BaseHTTPResponse, what: str, idle_seconds: float) -> None:
        self._response = response
        self._what = what
        self._idle_seconds = idle_seconds
        # The wait for the headers was bounded by the request; from here on silence is normal
        # for longer, so the socket gets the stream's own bound.
        if (sock := getattr(response.connection, "sock", None)) is not None:
            sock.settimeout(idle_seconds)

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes. Raises SourceError (timeout, unreachable)."""
        try:
            yield from self._response.stream(CHUNK_BYTES)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise SourceError(
                "timeout", f"{self._what}: nothing came for {self._idle_seconds:g} s"
            ) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise SourceError(
                "unreachable", f"{self._what}: the connection broke: {error}"
            ) from error

    def interrupt(self) -> None:
        """Wake a thread that waits in `chunks`; it sees the end of the stream."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # it has ended by itself
            self._response.shutdown()

    def close(self) -> None:
        """End it; the connection is kept for the next request if the body was read whole."""
        self._response.close()


class KubeApi:
    """The API server. May be used by several threads.

    `configure` gives a kubernetes Configuration; it is asked anew after a 401, so that
    rotated credentials are followed even where the Configuration itself does not.
    """

    def __init__(self, timeout_seconds: float, configure: Callable[[], Any] | None = None) -> None:
        self.timeout_seconds = timeout_seconds
        self._configure = configure or load_configuration
        self._lock = threading.Lock()
        self._configuration: Any = None
        self._pool: urllib3.PoolManager | None = None

    def get(self, path: str, query: dict[str, str], idle_seconds: float) -> Stream:
        """Open an answer whose body may be silent for `idle_seconds`.

        Raises SourceError: absent, credentials, unreachable, timeout, unauthorized, forbidden,
        gone (410) or failed.
        """
        return self._ask("GET", path, query, None, idle_seconds)

    def patch(self, path: str, changes: bytes) -> None:
        """Change an object by a JSON merge patch (RFC 7386). Raises SourceError as `get`."""
        self._ask("PATCH", path, {}, changes, self.timeout_seconds).close()

    def _ask(
        self, method: str, path: str, query: dict[str, str], body: bytes | None, idle_seconds: float
    ) -> Stream:
        pool, host, headers = self._connect()
        if body is not None:
            headers |= {"Content-Type": "application/merge-patch+json"}
        what = f"{method} {path}"
        try:
            response = pool.request(
                method,
                f"{host}{path}?{urlencode(query)}",
                body=body,
                headers=headers,
                preload_content=False,
                # A redirect would carry the token away; retries have their own pace.
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=self.timeout_seconds, read=self.timeout_seconds),
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # A refused connection counts as a ConnectTimeoutError in urllib3.
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)
            if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
                raise SourceError(
                    "timeout",
                    f"{what}: the API server did not answer within {self.timeout_seconds:g} s",
                    "Look at the network policies and at the API server's load.",
                ) from error
            raise SourceError(
                "unreachable",
                f"{what}: the API server cannot be reached: {error}",
                "Look at the network policies, the DNS and the certificate authority.",
            ) from error
        if response.status == 200:  # noqa: PLR2004 - OK
            return Stream(response, what, idle_seconds)
        raise self._refusal(response, path, what)

    def close(self) -> None:
        """Drop the idle connections."""
        with self._lock:
            manager, self._pool = self._pool, None
        if manager is not None:
            # PoolManager.clear() only forgets its pools, which close when nobody holds them.
            for key in manager.pools.keys():  # noqa: SIM118 - it refuses to be iterated
                manager.pools[key].close()
            manager.clear()

    def _connect(self) -> tuple[urllib3.PoolManager, str, dict[str, str]]:
        with self._lock:
            try:
                if self._pool is None:
                    from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415 - see top

                    self._configuration = self._configure()
                    self._pool = RESTClientObject(self._configuration).pool_manager
                # Reading the settings is what renews a service account's token.
                settings = self._configuration.auth_settings().values()
            except SourceError:
                raise
            except Exception as error:
                # A kubeconfig may run any plugin, and they raise what they like.
                raise SourceError(
                    "credentials",
                    f"the credentials for the API server cannot be read: {error}",
                    "Check the mounted service account token, or KUBECONFIG.",
                ) from error
            headers = {
                auth["key"]: auth["value"].strip()
                for auth in settings
                if auth["in"] == "header" and auth["value"]
            }
            headers |= {"Accept": "application/json", "User-Agent": USER_AGENT}
            return self._pool, self._configuration.host, headers

    def _refusal(self, response: urllib3.BaseHTTPResponse, path: str, what: str) -> SourceError:
        status = response.status
        try:
            body = response.read(MAX_ERROR_BYTES)
            message = msgspec.json.decode(body, type=_Status).message
        except (
            msgspec.DecodeError,
            ValueError,
            RecursionError,
            urllib3.exceptions.HTTPError,
            OSError,
        ):
            message = response.reason or ""
        finally:
            response.close()
        said = f"{what}: the API server answered {status}: {message}"
        group, resource = _named_in(path)
        if status == 401:  # noqa: PLR2004 - Unauthorized
            self.close()
            return SourceError(
                "unauthorized", said, "Check the service account, or the token in KUBECONFIG."
            )
        if status == 403:  # noqa: PLR2004 - Forbidden
            return SourceError(
                "forbidden",
                said,
                f"Let the service account get, list and watch {resource} (a ClusterRole: apiGroups"
                f' ["{group}"], resources [{resource}], verbs [get, list, watch]).',
            )
        if status == 404:  # noqa: PLR2004 - Not Found
            return SourceError("not_found", said)
        if status == 410:  # noqa: PLR2004 - Gone
            return SourceError("gone", said)
        return SourceError("failed", said, "Look at the API server's log and load.")


def _named_in(path: str) -> tuple[str, str]:
    """The API group and the resource that a path names.

    It is like /api/v1/pods or /apis/<group>/<version>/namespaces/<namespace>/<resource>/<name>.
    """
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" and len(parts) > 1 else ""
    rest = parts[3 if group else 2 :]
    if rest[:1] == ["namespaces"] and len(rest) > 2:  # noqa: PLR2004 - within one
        rest = rest[2:]
    return group, rest[0] if rest else parts[-1]


def in_kubernetes() -> bool:
    """Whether this process runs in a pod."""
    return SERVICE_HOST in os.environ


def load_configuration() -> Any:  # noqa: ANN401 - kubernetes' Configuration
    """Where the API server is and how to speak to it: KUBECONFIG, else the service account.

    Raises SourceError: absent where there is neither.
    """
    from kubernetes.client import Configuration  # noqa: PLC0415 - see top
    from kubernetes.config import (  # noqa: PLC0415 - see top
        KUBE_CONFIG_DEFAULT_LOCATION,
        load_incluster_config,
        load_kube_config,
    )

    configuration = Configuration()
    if in_kubernetes() and "KUBECONFIG" not in os.environ:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    elif any(
        os.path.exists(os.path.expanduser(file))  # noqa: PTH110, PTH111 - as the loader does
        for file in KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep)
    ):
        load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        raise SourceError(
            "absent",
            "there is neither a service account nor a kubeconfig",
            "In a pod: automountServiceAccountToken. Elsewhere: KUBECONFIG, or set"
            " kubernetes.enabled: false.",
        )
    return configuration
