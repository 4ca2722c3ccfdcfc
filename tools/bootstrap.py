"""Set up .venv for the Makefile, with the Python that runs this file.

This much is kept to syntax that every Python reads, 2.7 included, so that one too old is told what is needed.  The work
is in environment.py.
"""

import sys

OLDEST = (3, 9)
NEWEST = (3, 13)
RANGE = "Python {}.{} to {}.{}".format(*(OLDEST + NEWEST))


def too_old(version, executable):
    """Return the one-line refusal of a Python that is too old, or None."""
    if version[:2] >= OLDEST:
        return None
    return "denseface needs {}; this is {}.{}.{} ({}): give another with make PYTHON=python3.11".format(
        RANGE, version[0], version[1], version[2], executable
    )


def too_new(version):
    """Return the one-line warning about a Python newer than those the project is tested on, or None."""
    if version[:2] <= NEWEST:
        return None
    return "set-up: denseface is tested on {}; going on with {}.{}.{}\n".format(RANGE, *version[:3])


def main():
    refusal = too_old(sys.version_info, sys.executable)
    if refusal:
        sys.exit(refusal)
    sys.stderr.write(too_new(sys.version_info) or "")
    from environment import set_up

    set_up()


if __name__ == "__main__":
    main()
