# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``python -m fiberifu``: the command line where the script ``fiberifu`` is not on the path."""

import sys

from .cli import main

__all__ = []

if __name__ == "__main__":
    sys.exit(main())
