"""``python -m denseface COMMAND``, and ``denseface COMMAND`` where it is installed."""

from __future__ import annotations

import os
import sys

from denseface.core import signals
from denseface.core.cpus import usable_cpus
from denseface.core.streams import prepare_streams


def main() -> int:
    """Run the command of this process."""
    signals.use_default_sigint()
    prepare_streams()
    if not {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & {*os.environ}:  # NumPy respects an affinity, but not a quota
        os.environ["OPENBLAS_NUM_THREADS"] = str(usable_cpus())
    from denseface import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
