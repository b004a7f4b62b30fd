"""`python -m played_gpus`: the played GPUs of one node, until SIGTERM. SIGHUP: settings again."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from played_gpus.api import Api
from played_gpus.dra import Driver
from played_gpus.node import Node
from played_gpus.settings import SettingsError


def main() -> int:
    """Run; 1 where the settings or folders cannot be used."""
    parser = argparse.ArgumentParser(prog="played_gpus", description=__doc__)
    parser.add_argument("--settings", type=Path, default=Path(__file__).parent / "default.yaml")
    parser.add_argument("--state", type=Path, required=True, help="a folder of its own")
    parser.add_argument("--kubelet-root", type=Path, default=Path("/var/lib/kubelet"))
    parser.add_argument(
        "--plugins-dir",
        type=Path,
        default=Path("/var/lib/kubelet/device-plugins"),
        help="where kubelets have it, whatever their root",
    )
    parser.add_argument("--kubeconfig", type=Path, help="for ResourceSlices; without it no DRA")
    parser.add_argument("--node", required=True, help="the node's name; UUIDs follow from it")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    ended, again = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, lambda *_: again.set())
    try:
        if arguments.kubeconfig is None:
            Node(arguments.settings, arguments.state, arguments.plugins_dir, arguments.node).run(
                ended, again
            )
        else:
            _with_claims(arguments, ended, again)
    except (SettingsError, OSError, ValueError) as error:
        print(f"played_gpus: {error}", file=sys.stderr)  # noqa: T201 - the last line
        return 1
    return 0


def _with_claims(
    arguments: argparse.Namespace, ended: threading.Event, again: threading.Event
) -> None:
    """Run with a DRA driver beside, in a thread of its own: it waits for the API server."""
    with Api(arguments.kubeconfig) as kubernetes:
        driver = Driver(arguments.kubelet_root, kubernetes, arguments.node)
        node = Node(
            arguments.settings,
            arguments.state,
            arguments.plugins_dir,
            arguments.node,
            claimed=driver.claimed,
            present=driver.show,
        )
        driving = threading.Thread(target=driver.run, args=(ended,), name="dra")
        driving.start()
        try:
            node.run(ended, again)
        finally:
            ended.set()
            driving.join()


if __name__ == "__main__":
    sys.exit(main())
