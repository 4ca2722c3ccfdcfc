from denseface.core.errors import InputError


def test_plain_words_stay_as_they_are():
    assert str(InputError("\u00e4/b.jpg: it's \\ no picture")) == "\u00e4/b.jpg: it's \\ no picture"


def test_what_a_file_says_stays_one_line_that_can_be_printed():
    error = InputError("a\nb\x1b[2J\udcff\u202e: wrong")
    assert str(error) == r"a\nb\x1b[2J\udcff\u202e: wrong"
    assert str(error).isprintable() and str(error).encode()
