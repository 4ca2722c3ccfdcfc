"""The one exception that stands for "what was given cannot be used"."""


class InputError(ValueError):
    """A file, an option or a value from outside cannot be used.

    The message is one line that names the file or option at fault and says what to do; commands print it as it is
    and exit with code 1.
    """

    def __str__(self) -> str:
        # What a file says must not reach a terminal as control characters, nor end as a line that cannot be printed.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
