"""`helm test`: every exporter behind the Service is ready, and shows its metrics.

    ready.py SERVICE PORT [http|https]

A headless Service's name resolves to the address of each ready pod. It is one's own exporters that
are asked, by their addresses, so their certificates' names say nothing here.
"""

from __future__ import annotations

import socket
import ssl
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection

MUST_SHOW = b"\ngpucost_build_info{"


def get(scheme: str, address: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a page. Raises OSError where nobody answers."""
    connection: HTTPConnection
    if scheme == "https":
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection(address, port, timeout=10, context=trusting)
    else:
        connection = HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check(scheme: str, address: str, port: int) -> None:
    """Raises OSError where the exporter there is not ready or shows nothing."""
    ready, _ = get(scheme, address, port, "/-/ready")
    if ready != HTTPStatus.OK:
        raise OSError(f"/-/ready answers {ready}")
    shown, page = get(scheme, address, port, "/metrics")
    if shown == HTTPStatus.UNAUTHORIZED:
        return  # it asks for a password, which is not ours to know
    if shown != HTTPStatus.OK:
        raise OSError(f"/metrics answers {shown}")
    if MUST_SHOW not in page:
        raise OSError("/metrics shows no gpucost_build_info")


def main(service: str, port: int, scheme: str = "http") -> int:
    """Ask each exporter; the exit status is 0 if all are well."""
    try:
        found = socket.getaddrinfo(service, port, type=socket.SOCK_STREAM)
    except OSError as error:
        print(f"{service}: {error}: no exporter is ready. Is there a node with a GPU label?")
        return 1
    failed = 0
    for address in sorted({str(name[4][0]) for name in found}):
        try:
            check(scheme, address, port)
        except OSError as error:
            failed += 1
            print(f"{address}: {error}")
        else:
            print(f"{address}: ready")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
