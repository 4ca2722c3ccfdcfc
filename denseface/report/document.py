"""A page of text, tables and pictures, written as HTML in one file or as Markdown.

Everything that is written is text: names from files, whatever characters they contain, never become markup.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Union

_STYLE = """
:root { color-scheme: light dark; }
:root { --text: #1d1f23; --muted: #5b616b; --line: #d7dae0; --page: #ffffff; --card: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --muted: #a2a9b4; --line: #3a3f47; --page: #16181c; --card: #1f2227; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--muted); padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { min-width: 4.5rem; } thead th { white-space: nowrap; }
figure { margin: 1.2rem 0; } figcaption { color: var(--muted); font-size: 0.9rem; }
figure div { overflow-x: auto; }
figure img { width: max(100%, 44rem); height: auto; background: #ffffff; border-radius: 6px; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; margin: 1rem 0; list-style: none; }
.pictures li { background: var(--card); border-radius: 6px; padding: 0.6rem; max-width: 15rem; }
.pictures img { width: 6.5rem; height: 6.5rem; object-fit: cover; border-radius: 4px; }
.pictures p { margin: 0.3rem 0 0; font-size: 0.85rem; color: var(--muted); }
"""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


class Paragraph(NamedTuple):
    """A paragraph of plain text."""

    text: str


class Table(NamedTuple):
    """A table, whose first column names the rows.

    Attributes
    ----------
    caption : str
        What its numbers are.
    rows : sequence of sequence of str
        The headings first; all of one length.
    """

    caption: str
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A chart.

    Attributes
    ----------
    caption : str
    description : str
        The chart in words, for those who cannot see it.
    content : bytes
        The file.
    media_type : str
        Of the file, such as ``image/svg+xml``.
    """

    caption: str
    description: str
    content: bytes
    media_type: str


class PicturePair(NamedTuple):
    """Two pictures side by side, as JPEG files, with a line of text."""

    text: str
    first: bytes
    second: bytes


class PicturePairs(NamedTuple):
    """Pairs of pictures."""

    pairs: Sequence[PicturePair]


Block = Union[Paragraph, Table, Figure, PicturePairs]


class Section(NamedTuple):
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


class Document(NamedTuple):
    """A page.

    Attributes
    ----------
    title : str
    blocks : sequence of Block
        Before the first section.
    sections : sequence of Section
    """

    title: str
    blocks: Sequence[Block]
    sections: Sequence[Section]


def to_html(document: Document) -> str:
    """Write a document as one HTML file, which loads nothing from elsewhere.

    It has headings, captions and texts in place of pictures, for readers of screens; light and dark colors, as the
    reader's system asks; and it fits the width of a phone.

    Examples
    --------
    >>> page = to_html(Document("<b>", [Paragraph("1 < 2")], []))
    >>> "<h1>&lt;b&gt;</h1>" in page, "<p>1 &lt; 2</p>" in page
    (True, True)
    """
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing in the page can run or load anything, whatever names it shows.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{_escaped(document.title)}</title><style>{_STYLE}</style></head>",
        f"<body><main><h1>{_escaped(document.title)}</h1>",
        *map(_block_html, document.blocks),
    ]
    for section in document.sections:
        parts += [f"<section><h2>{_escaped(section.title)}</h2>", *map(_block_html, section.blocks), "</section>"]
    return "\n".join([*parts, "</main></body></html>\n"])


def to_markdown(document: Document, front_matter: Mapping[str, object]) -> str:
    """Write a document as Markdown, without its pictures.

    Parameters
    ----------
    document : Document
    front_matter : mapping of str to object
        Values that JSON knows; they are written as YAML, of which JSON is a part, between two lines of dashes.
    """
    parts = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front_matter.items()), "---", ""]
    parts += [f"# {_marked(document.title)}", "", *_blocks_markdown(document.blocks)]
    for section in document.sections:
        parts += [f"## {_marked(section.title)}", "", *_blocks_markdown(section.blocks)]
    return "\n".join(parts)


def _escaped(text: str) -> str:
    return html.escape(_printable(text))


def _marked(text: str) -> str:
    """Escape what Markdown, or HTML within it, would read as markup."""
    return _MARKDOWN.sub(r"\\\1", " ".join(_printable(text).split()))


def _printable(text: str) -> str:
    """Replace characters that steer a display, such as those that reverse the order of reading."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text
    )


def _block_html(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_escaped(block.text)}</p>"
    if isinstance(block, Table):
        return _table_html(block)
    if isinstance(block, Figure):
        image = _image(block.content, block.media_type, block.description)
        return f'<figure><div tabindex="0">{image}</div><figcaption>{_escaped(block.caption)}</figcaption></figure>'
    items = "".join(
        f"<li>{_image(pair.first, 'image/jpeg', 'first picture')} {_image(pair.second, 'image/jpeg', 'second picture')}"
        f"<p>{_escaped(pair.text)}</p></li>"
        for pair in block.pairs
    )
    return f'<ul class="pictures">{items}</ul>'


def _image(content: bytes, media_type: str, description: str) -> str:
    return f'<img src="data:{media_type};base64,{base64.b64encode(content).decode()}" alt="{_escaped(description)}">'


def _table_html(table: Table) -> str:
    headings, *rows = table.rows
    head = "".join(f'<th scope="col">{_escaped(cell)}</th>' for cell in headings)
    body = "".join(
        f'<tr><th scope="row">{_escaped(name)}</th>{"".join(f"<td>{_escaped(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    content = f"<caption>{_escaped(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    # A wide table scrolls within itself; tabindex lets a keyboard do so.
    return f'<div class="table" tabindex="0"><table>{content}</table></div>'


def _blocks_markdown(blocks: Sequence[Block]) -> list[str]:
    lines = []
    for block in blocks:
        if isinstance(block, Paragraph):
            lines += [_marked(block.text), ""]
        elif isinstance(block, Table):
            headings, *rows = ([_marked(cell) for cell in row] for row in block.rows)
            lines += [_marked(block.caption), ""]
            lines += [f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows]]
            lines.append("")
    return lines
