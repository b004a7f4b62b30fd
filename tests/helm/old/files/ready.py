"""`helm test`: every exporter behind the Service is ready, and shows its metrics.

    ready.py SERVICE PORT

A headless Service's name resolves to the address of each ready pod.
"""

from __future__ import annotations

import socket
import sys
from http.client import HTTPConnection

MUST_SHOW = b"\ngpucost_build_info{"


def get(address: str, port: int, path: str) -> bytes:
    """The body of a page. Raises OSError where it is not answered with 200."""
    connection = HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:  # noqa: PLR2004 - OK
        raise OSError(f"{path} answers {answer.status}")
    return body


def check(address: str, port: int) -> None:
    """Raises OSError where the exporter there is not ready or shows nothing."""
    get(address, port, "/-/ready")
    if MUST_SHOW not in get(address, port, "/metrics"):
        raise OSError("/metrics shows no gpucost_build_info")


def main(service: str, port: int) -> int:
    """Ask each exporter; the exit status is 0 if all are well."""
    try:
        found = socket.getaddrinfo(service, port, type=socket.SOCK_STREAM)
    except OSError as error:
        print(f"{service}: {error}: no exporter is ready. Is there a node with a GPU label?")
        return 1
    failed = 0
    for address in sorted({str(name[4][0]) for name in found}):
        try:
            check(address, port)
        except OSError as error:
            failed += 1
            print(f"{address}: {error}")
        else:
            print(f"{address}: ready")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
