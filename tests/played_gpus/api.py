"""The Kubernetes API as a kubeconfig reaches it: JSON in, JSON out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import requests
from kubernetes import client, config

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

SECONDS: Final = 10.0
_NOT_FOUND: Final = 404


class ApiError(Exception):
    """The API did not do it; the message says what was asked and what it said."""


class Api:
    """A session. Raises ApiError for everything that fails, ValueError for a bad kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        try:
            config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise ValueError(f"{kubeconfig}: not a kubeconfig: {error}") from error
        self._url = settings.host.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = settings.ssl_ca_cert or True
        if settings.cert_file and settings.key_file:
            self._session.cert = (settings.cert_file, settings.key_file)
        for name in ("BearerToken", "authorization"):
            if token := settings.get_api_key_with_prefix(name):
                self._session.headers["Authorization"] = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """An object or list; None where it is not there."""
        return self._do("GET", path, query=query)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object in a collection; gives it as it is there."""
        return self._do("POST", path, body) or {}

    def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object, whose resourceVersion `body` must name; gives it as it is there.

        Empty where it was deleted meanwhile.
        """
        return self._do("PUT", path, body) or {}

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        self._do("DELETE", path)

    def _do(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any] | None:
        try:
            answer = self._session.request(
                method, f"{self._url}{path}", params=query, json=body, timeout=SECONDS
            )
            if answer.status_code == _NOT_FOUND and method != "POST":
                return None
            if not answer.ok:
                raise ApiError(f"{method} {path}: {answer.status_code}: {answer.text[:500]}")
            read: dict[str, Any] = answer.json()
        except requests.RequestException as error:
            raise ApiError(f"{method} {path}: {error}") from error
        return read
