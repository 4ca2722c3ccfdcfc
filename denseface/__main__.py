"""``python -m denseface COMMAND``, and ``denseface COMMAND`` where it is installed."""

from __future__ import annotations

import sys

from denseface.core import signals
from denseface.core.streams import prepare_streams


def main() -> int:
    """Run the command of this process."""
    signals.use_default_sigint()
    prepare_streams()
    from denseface import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
