"""`python -m nasforge` is the command line."""

import sys

from nasforge.cli import main

sys.exit(main())
