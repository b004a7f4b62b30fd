"""nvidia-container-runtime, played: what stands between containerd and runc.

The real one edits a bundle's config.json on `create`, for a container whose environment has
NVIDIA_VISIBLE_DEVICES, and then becomes runc (NVIDIA/nvidia-container-toolkit README; the values
`void`, empty and unset change nothing, `none` brings the driver's libraries and no device). This
one mounts the played library in the same place, and the folder of the scenario and the broker;
it also notes what the container was given, under the id that its cgroup carries.

It runs for every container, outside the venv, by a bare interpreter: standard library only, and
no pathlib, which takes as long to load as the rest.
"""

from __future__ import annotations

import json
import os
import socket
import sys

SHARED = "/run/played-gpus"
"""Where containers see the state's folder `shared`: a folder, since files in it are replaced."""
LIBRARY = f"/usr/lib/{os.uname().machine}-linux-gnu/libnvidia-ml.so.1"
"""Where nvidia-container-runtime puts it in Debian's images."""
ASK_SECONDS = 5.0
_KIND = "io.kubernetes.cri.container-type"
_ANNOTATIONS = {
    "namespace": "io.kubernetes.cri.sandbox-namespace",
    "pod": "io.kubernetes.cri.sandbox-name",
    "container": "io.kubernetes.cri.container-name",
}
"""What containerd's CRI says of a container in its bundle."""


def main(state: str, library: str, runc: str, arguments: list[str]) -> None:
    """Do what is ours to do, and become runc."""
    try:
        if "create" in arguments:
            _create(state, library, arguments)
        elif "delete" in arguments:
            _remove(os.path.join(state, "containers", arguments[-1]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Not to fail the container: runc says better what is wrong with its bundle.
        print(f"played nvidia-container-runtime: {error!r}", file=sys.stderr)  # noqa: T201
    os.execv(runc, [runc, *arguments])  # noqa: S606 - becomes it


def edit(config: dict, shared: str, library: str, claimed: list[str]) -> list[str] | None:  # type: ignore[type-arg] # JSON
    """Put the library into a bundle's config, where its environment asks for it.

    `claimed` are UUIDs of devices that the container has by DRA claims. Gives the devices that it
    has (as the environment names them: UUIDs, minor numbers, `all`); None where nothing was done.
    """
    environment = dict(entry.partition("=")[::2] for entry in config["process"].get("env") or ())
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "void")
    if visible in {"", "void"}:
        if not claimed:
            return None
        devices = claimed
    else:
        named = [] if visible == "none" else [name.strip() for name in visible.split(",")]
        devices = [*named, *claimed]
    mounts = config.setdefault("mounts", [])
    mounts.append(_mount(shared, SHARED))
    wanted = environment.get("NVIDIA_DRIVER_CAPABILITIES") or "compute,utility"
    if {"all", "utility"} & {name.strip() for name in wanted.split(",")}:
        mounts.append(_mount(library, LIBRARY))
    config["process"].setdefault("env", []).append(f"FAKE_NVML_SCENARIO={SHARED}/scenario")
    return devices


def _mount(source: str, destination: str) -> dict[str, object]:
    options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _create(state: str, library: str, arguments: list[str]) -> None:
    path = os.path.join(_bundle(arguments), "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    annotations = config.get("annotations") or {}
    if annotations.get(_KIND) == "sandbox":
        return
    shared = os.path.join(state, "shared")
    devices = edit(config, shared, library, _claimed(state, annotations))
    if devices is None:
        return
    _replace(path, json.dumps(config))
    _replace(os.path.join(state, "containers", arguments[-1]), json.dumps(devices))


def _bundle(arguments: list[str]) -> str:
    for place, word in enumerate(arguments):
        if word.startswith("--bundle="):
            return word.partition("=")[2]
        if word in {"--bundle", "-b"}:
            return arguments[place + 1]
    return "."


def _claimed(state: str, annotations: dict[str, str]) -> list[str]:
    """The devices of the container's claims, where the node has a DRA driver to ask."""
    if not os.path.exists(os.path.join(state, "dra")) or _KIND not in annotations:
        return []
    question = {name: annotations.get(key, "") for name, key in _ANNOTATIONS.items()}
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ASK_SECONDS)
        asking.connect(os.path.join(state, "shared", "broker.sock"))
        asking.sendall(json.dumps({"claimed": question}).encode() + b"\n")
        answer = json.loads(asking.makefile().readline())
    return list(answer["devices"])


def _replace(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}.new"
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(draft, mode)
    os.replace(draft, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
