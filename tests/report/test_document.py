"""Pages: equal content in HTML and Markdown, and no name that becomes markup."""

import html.parser
import json

import pytest

from denseface.report.document import (
    Document,
    Figure,
    Paragraph,
    PicturePair,
    PicturePairs,
    Section,
    Table,
    to_html,
    to_markdown,
)

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "&lt;b&gt;",
    "]]><!--",
    "anna\x1b[31m\u202egpj.\udcff",
]
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "section", "p", "div", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "ul", "li",
}  # fmt: skip


class Parsed(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def document_of(name):
    return Document(
        name,
        [Paragraph(name)],
        [
            Section(name, [Table(name, [["", name], [name, "1"]]), Figure(name, name, b"<svg/>", "image/svg+xml")]),
            Section("pairs", [PicturePairs([PicturePair(name, b"a", b"b")])]),
        ],
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup_in_html(name):
    plain, hostile = (Parsed(to_html(document_of(text))) for text in ("anna", name))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert {tag for tag, _ in hostile.tags} <= ALLOWED
    assert [sorted(attributes) for _, attributes in hostile.tags] == [
        sorted(attributes) for _, attributes in plain.tags
    ]
    assert not any(char in to_html(document_of(name)) for char in "\x1b\u202e\udcff")


@pytest.mark.parametrize("name", ["<b>", "a|b", "[a](b)", "`a`", "# a", "a\nb", "**a**"])
def test_no_name_becomes_markup_in_markdown(name):
    plain, hostile = (to_markdown(document_of(text), {}).splitlines() for text in ("anna", name))
    assert len(hostile) == len(plain)
    written = hostile[3][2:]
    for char in "<|[`*#":
        assert written.count(char) == written.count("\\" + char)


def test_pictures_are_in_the_page_and_have_texts():
    images = [attributes for tag, attributes in Parsed(to_html(document_of("roc"))).tags if tag == "img"]
    assert len(images) == 3
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)


def test_every_table_says_what_it_is_and_names_its_rows_and_columns():
    page = Parsed(to_html(document_of("rates")))
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col", "col", "row"]
    assert "caption" in [tag for tag, _ in page.tags]


def test_front_matter_is_yaml_that_json_reads():
    front = {"license": 'a "quoted": one', "tags": ["face", "mxnet"]}
    lines = to_markdown(document_of("a"), front).splitlines()
    end = lines.index("---", 1)
    assert {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines[1:end])} == front
