"""The first process of the machine inside: it holds the namespaces and buries the dead.

Everything started inside becomes its child in the end, as on a real machine, and dies with it:
the kernel kills what is left in a process namespace when its first process goes.
Runs as `python -S -E init.py`, so it must need nothing but the standard library.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Wait for children for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


if __name__ == "__main__":
    main()
