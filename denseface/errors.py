"""The one exception that stands for "what was given cannot be used"."""


class InputError(ValueError):
    """A file, an option or a value from outside cannot be used.

    The message is one line that names the file or option at fault and says what to do; commands print it as it is
    and exit with code 1.
    """
