"""`python -m cluster up|down|status|enter COMMAND...`."""

from __future__ import annotations

import sys

from cluster.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
