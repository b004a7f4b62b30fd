"""Matchers and strings as PromQL writes them. Pure."""

from __future__ import annotations


def matchers(**labels: str) -> str:
    """Matchers of these labels; those that are empty are left out but for the namespace."""
    return ",".join(
        f"{name}={quoted(value)}" for name, value in labels.items() if value or name == "namespace"
    )


def quoted(value: str) -> str:
    """A label's value as PromQL writes it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
