"""One key of a ConfigMap: where a refreshed price list goes, and exporters read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from gpucost.sources.kube_api import KubeApi

MAX_BYTES = 1_000_000
"""A ConfigMap holds 1 MiB with its other fields (kubernetes.io/docs/concepts/configuration)."""

_MAX_ANSWER_BYTES = 8 << 20
_GET_SECONDS = 30.0


class _ConfigMap(Struct):
    data: dict[str, str] | None = None


class ConfigMapKey:
    """A key of a ConfigMap that exists."""

    def __init__(self, api: KubeApi, namespace: str, name: str, key: str) -> None:
        """Nothing is asked yet."""
        self._api = api
        self._key = key
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"

    def read(self) -> str:
        """Its text; empty where there is none yet. Raises SourceError."""
        stream = self._api.get(self._path, {}, _GET_SECONDS)
        body = bytearray()
        try:
            for chunk in stream.chunks():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise SourceError("too_large", f"{self._path}: larger than any ConfigMap.")
        finally:
            stream.close()
        try:
            found = msgspec.json.decode(bytes(body), type=_ConfigMap)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError("malformed", f"{self._path}: not a ConfigMap: {error}") from error
        return (found.data or {}).get(self._key, "")

    def write(self, text: str) -> None:
        """Put another text there. Raises SourceError."""
        if len(text) > MAX_BYTES:
            raise SourceError(
                "too_large",
                f"{self._path}: {len(text)} bytes are more than a ConfigMap holds.",
                "Refresh fewer providers or regions.",
            )
        self._api.patch(self._path, msgspec.json.encode({"data": {self._key: text}}))
