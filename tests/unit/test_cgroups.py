"""Whose a process is, by every form of cgroup path that kubelets and runtimes make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.cgroups import NOBODY, Owner, owner_of, plain_uid

UID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
SLICE = UID.replace("-", "_")
HASH = "0f4f5a7c1a2b3c4d5e6f708192a3b4c5"
CID = "c0" * 32
OUTER = "a1" * 32
INNER = "b2" * 32
OURS = Owner(plain_uid(UID), CID)


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        # cgroupfs driver, v1 and v2, by QoS
        (f"/kubepods/burstable/pod{UID}/{CID}", OURS),
        (f"/kubepods/besteffort/pod{UID}/{CID}", OURS),
        (f"/kubepods/pod{UID}/{CID}", OURS),
        # systemd driver: containerd, CRI-O and its monitor, docker
        (
            (
                f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice"
                f"/cri-containerd-{CID}.scope"
            ),
            OURS,
        ),
        (f"/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{CID}.scope", OURS),
        (f"/kubepods.slice/kubepods-pod{SLICE}.slice/crio-conmon-{CID}.scope", OURS),
        (f"/kubepods.slice/kubepods-pod{SLICE}.slice/docker-{CID}.scope", OURS),
        # containerd with cgroupfs paths under systemd
        (
            (
                f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice"
                f":cri-containerd:{CID}"
            ),
            OURS,
        ),
        # A kubelet with a root of its own, and one in a container (kind): the innermost counts
        (
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
                f"/kubelet-kubepods-burstable-pod{SLICE}.slice/cri-containerd-{CID}.scope"
            ),
            OURS,
        ),
        (
            (
                f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice"
                f"/kubelet-kubepods-pod{SLICE}.slice/cri-containerd-{CID}.scope"
            ),
            OURS,
        ),
        (f"/docker/{OUTER}/kubelet/kubepods/besteffort/pod{UID}/{CID}", OURS),
        # Within the container: its own systemd, its own docker
        (f"/kubepods/burstable/pod{UID}/{CID}/init.scope", OURS),
        (f"/kubepods/burstable/pod{UID}/{CID}/docker/{INNER}", OURS),
        # Seen from a private cgroup namespace: the beginning is gone
        (f"/../../../besteffort/pod{UID}/{CID}", OURS),
        (f"/../../kubepods-burstable-pod{SLICE}.slice/cri-containerd-{CID}.scope", OURS),
        (f"/../cri-containerd-{CID}.scope", Owner("", CID)),
        # A static pod
        (f"/kubepods/burstable/pod{HASH}/{CID}", Owner(HASH, CID)),
        (
            (
                f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice"
                f"/crio-{CID}.scope"
            ),
            Owner(HASH, CID),
        ),
        # A pod whose container is not named
        (f"/kubepods/burstable/pod{UID}", Owner(plain_uid(UID), "")),
        # Containers of no pod
        (f"/docker/{CID}", Owner("", CID)),
        (f"/machine.slice/libpod-{CID}.scope/container", Owner("", CID)),
        # The machine's own
        ("/", NOBODY),
        ("/init.scope", NOBODY),
        ("/user.slice/user-1000.slice/session-3.scope", NOBODY),
        ("/system.slice/nvidia-persistenced.service", NOBODY),
        (f"/podman/{'f' * 40}", NOBODY),
    ],
)
def test_every_form_of_path_names_its_pod_and_container(path: str, owner: Owner) -> None:
    assert owner_of(f"0::{path}\n") == owner
    assert owner_of(f"4:cpu,cpuacct:{path}\n") == owner


def test_the_hierarchy_that_says_most_counts() -> None:
    """Hybrid machines: v1 hierarchies name the container, the v2 one may be empty."""
    text = f"9:name=systemd:/\n4:memory:/kubepods/pod{UID}\n1:cpu:/kubepods/pod{UID}/{CID}\n0::/\n"
    assert owner_of(text) == OURS


@given(st.text())
def test_any_text_is_an_owner_or_nobody(text: str) -> None:
    owner = owner_of(text)
    assert len(owner.pod_uid) in (0, 32)
    assert len(owner.container_id) in (0, 64)
