"""``python -m denseface COMMAND``."""

import sys

from denseface.cli import main

if __name__ == "__main__":
    sys.exit(main())
