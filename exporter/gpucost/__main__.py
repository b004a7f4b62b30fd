"""`python -m gpucost` is the command `gpucost`."""

import sys

from gpucost.cli import main

sys.exit(main())
