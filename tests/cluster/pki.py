"""Keys, certificates and kubeconfigs of the cluster, new with each one.

One authority for the API server and its clients, and one for the front proxy (the aggregation
layer), as Kubernetes' page "PKI certificates and requirements" asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certificates import Authority
from cluster.place import API_SERVICE, API_URL, NODE, NODE_ADDRESS

if TYPE_CHECKING:
    from pathlib import Path

API_NAMES = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
]
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}
"""Kubeconfig: the user and group that Kubernetes' own RBAC rules and node authorizer know."""


def make_pki(folder: Path) -> None:
    """Write into the folder every `<name>.pem` and `.key`, and a `<user>.kubeconfig` each."""
    authority = Authority(folder, "ca")
    authority.issue("api", *API_NAMES, addresses=[API_SERVICE, NODE_ADDRESS])
    authority.issue("api-to-kubelet", group="system:masters")
    authority.issue("kubelet-server", NODE, addresses=[NODE_ADDRESS])
    for name, (user, group) in USERS.items():
        authority.issue(name, user=user, group=group)
        (folder / f"{name}.kubeconfig").write_text(yaml.safe_dump(_kubeconfig(folder, name)))
    Authority(folder, "front-proxy-ca").issue("front-proxy")
    # RSA: what signs the service accounts' tokens is RSA in nearly every cluster.
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "service-accounts.key").write_bytes(
        signing.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _kubeconfig(folder: Path, name: str) -> dict[str, object]:
    cluster = {"server": API_URL, "certificate-authority": str(folder / "ca.pem")}
    keys = {
        "client-certificate": str(folder / f"{name}.pem"),
        "client-key": str(folder / f"{name}.key"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gpucost", "cluster": cluster}],
        "users": [{"name": name, "user": keys}],
        "contexts": [{"name": "gpucost", "context": {"cluster": "gpucost", "user": name}}],
        "current-context": "gpucost",
    }
