"""``python -m denseface COMMAND``, and ``denseface COMMAND`` where it is installed."""

from __future__ import annotations

import sys

from denseface.core import signals


def main() -> int:
    """Run the command of this process."""
    signals.use_default_sigint()
    from denseface import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
