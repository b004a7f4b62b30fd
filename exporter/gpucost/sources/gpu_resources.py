"""Which extended resources are GPUs. One rule, for what pods ask for and what they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

DRA_DRIVER = "gpu.nvidia.com"
"""NVIDIA's DRA driver for GPUs and MIG devices."""

GPU_RESOURCE = "nvidia.com/gpu"
GPU_RESOURCE_PREFIXES = ("nvidia.com/gpu.", "nvidia.com/gpu-", "nvidia.com/mig-")
"""`gpu.shared` and `mig-<profile>[.shared]` are NVIDIA's device plugin's own names; `gpu-` and
`gpu.` are how its renaming option is used."""


def is_gpu_resource(resource: str, configured: Collection[str] = ()) -> bool:
    """Whether an extended resource is a GPU or a part of one."""
    return (
        resource == GPU_RESOURCE
        or resource.startswith(GPU_RESOURCE_PREFIXES)
        or resource in configured
    )
