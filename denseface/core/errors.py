"""The one exception that stands for "what was given cannot be used"."""

import re


class InputError(ValueError):
    """A file, an option or a value from outside cannot be used.

    The message is one line that names the file or option at fault and says what to do; commands print it as it is
    and exit with code 1.
    """

    def __str__(self) -> str:
        return _printable(super().__str__())


def describe(error: Exception) -> str:
    """Put any error into one line that can be printed."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return _printable(" ".join(text.split()))


def mxnet_reason(error: Exception) -> str:
    """Find the line of an MXNet error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("MXNetError: ")] or lines[-1:] or [type(error).__name__]
    return re.sub(r"^MXNetError: |\[[0-9:]+\] \S+:\d+: ", "", told[0])[:300]


def _printable(text):
    """What a file says must not reach a terminal as control characters, nor end as a line that cannot be printed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
