"""`python -m nasforge` is the command line."""

import sys

if not sys.flags.safe_path:  # Python puts the working folder first, where a file `profile.py` would hide Python's own
    sys.path.append(sys.path.pop(0))

from nasforge.cli import main
from nasforge.core.importing import registers_nothing

if not sys.flags.safe_path:
    registers_nothing(sys.path[-1])
sys.exit(main())
