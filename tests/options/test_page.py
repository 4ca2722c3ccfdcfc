"""The tables of docs/training.md are those of the list of options."""

from pathlib import Path

from denseface.options.page import updated
from denseface.options.spec import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page_lists_all_options():
    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text  # if not: python -m denseface.options.page docs/training.md
    assert all(f"`{each.key}`" in text for each in OPTIONS if each.key)
