import pickle
from pathlib import Path

from denseface.core.errors import InputError, describe


def test_plain_words_stay_as_they_are():
    assert str(InputError("\u00e4/b.jpg: it's \\ no picture")) == "\u00e4/b.jpg: it's \\ no picture"


def test_what_a_file_says_stays_one_line_that_can_be_printed():
    error = InputError("a\nb\x1b[2J\udcff\u202e: wrong")
    assert str(error) == r"a\nb\x1b[2J\udcff\u202e: wrong"
    assert str(error).isprintable() and str(error).encode()


def test_an_option_is_named_as_python_spells_it_and_by_commands_as_its_flag():
    error = InputError("must be at least 1, not 0", option="batch_size")
    assert str(error) == "batch_size: must be at least 1, not 0"
    assert describe(error) == "--batch-size: must be at least 1, not 0"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_file_at_fault_is_named_before_the_reason():
    error = InputError("not a PNG", path=Path("a") / "b.png", option="sheet")
    assert (error.path, error.option, error.reason) == ("a/b.png", "sheet", "not a PNG")
    assert str(error) == "sheet: a/b.png: not a PNG" and describe(error) == "--sheet: a/b.png: not a PNG"
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
