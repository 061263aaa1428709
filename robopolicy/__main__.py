"""``python -m robopolicy`` is the same as ``robopolicy``."""

import sys

from robopolicy.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
