"""docs/densenet.md and README.md, in English and Chinese: their numbers are the code's, and their commands run."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from symbol import fdensenet

import pytest

import symbol_utils
from denseface import cli
from denseface.models import families
from denseface.report.structure import DENSE, HEAD, STEM, TRANSITION, parts_of
from denseface.report.summary import summarize
from support.tiny_models import as_model, as_ndarrays

import mxnet as mx

ROOT = Path(__file__).parents[2]
SHAPE = (3, 112, 112)
BOTH = ["docs/densenet.md", "docs/densenet.zh-CN.md"]
PAIRS = [("docs/densenet.md", "docs/densenet.zh-CN.md"), ("README.md", "README.zh-CN.md")]


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def rows_of(text):
    """Cells of every row of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def blocks_of(text):
    """Kind and content of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def numbers_of(text):
    prose = re.sub(r"\]\([^)]*\)|<[^>]*>|^```.*?^```", " ", text, flags=re.MULTILINE | re.DOTALL)  # no links, no blocks
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", prose))


@pytest.fixture
def cost(configured):
    def summed(network, **settings):
        return summarize(families.embedding_symbol(configured(network, "emore", net_act="relu", **settings)), SHAPE)

    return summed


@pytest.mark.parametrize("page", BOTH)
def test_the_table_of_heads_is_what_the_code_counts(page, cost):
    rows = {cells[0]: cells[2:] for cells in rows_of(text_of(page)) if cells[0] in symbol_utils.HEADS}
    assert list(rows) == list(symbol_utils.HEADS)
    for head, numbers in rows.items():
        total = cost("d121", net_output=head).total
        assert numbers == [f"{total.parameters:,}", f"{total.macs:,}"], head


@pytest.mark.parametrize("page", BOTH)
def test_the_table_of_depths_is_what_the_code_counts(page, cost):
    rows = {cells[0]: cells[1:] for cells in rows_of(text_of(page)) if cells[1].startswith("`1 + ")}
    assert sorted(rows) == sorted(f"d{depth}" for depth in fdensenet.DENSENETS)
    for depth, (first, growth, layers) in fdensenet.DENSENETS.items():
        formula, *numbers = rows[f"d{depth}"]
        counted, _, result = formula.strip("`").partition(" = ")
        assert int(result) == depth == 1 + 2 * sum(layers) + len(layers) - 1 + 1
        assert counted == f"1 + 2*({'+'.join(map(str, layers))}) + {len(layers) - 1} + 1"
        total = cost(f"d{depth}", net_output="GAP").total
        costs = [f"{total.parameters:,}", f"{total.macs / 1e9:.3f}"]
        assert numbers == [str(first), str(growth), ", ".join(map(str, layers)), *costs]


@pytest.mark.parametrize("page", BOTH)
def test_every_number_of_the_formula_is_in_the_drawing(page, cost):
    first, *layers, transitions, last = map(int, re.search(
        r"`(1) \+ 2\*\((\d+)\+(\d+)\+(\d+)\+(\d+)\) \+ (\d+) \+ (1) = 121`", text_of(page)
    ).groups())  # fmt: skip
    drawn = parts_of(cost("d121", net_output="GAP"), SHAPE)
    kinds = Counter(part.kind for part in drawn)
    assert (first, transitions, last) == (kinds[STEM], kinds[TRANSITION], kinds[HEAD])
    assert layers == [len(part.widths) for part in drawn if part.kind == DENSE]
    said = [part.lines[0] for part in drawn if part.kind == DENSE]
    assert [line.split()[0] for line in said] == list(map(str, layers))


@pytest.mark.parametrize("page", BOTH)
def test_keys_act_at_the_lines_that_the_page_names(page):
    source = (ROOT / "symbol" / "fdensenet.py").read_text(encoding="utf-8").splitlines()
    found = re.findall(
        r"^\| `(\w+)` \|.*\[\D*(\d+)\D*\]\(\.\./symbol/fdensenet\.py#L(\d+)\).*`(.+?)` \|$", text_of(page), re.M
    )
    assert [key for key, *_ in found] == [
        "num_layers", "net_input", "densenet_dropout", "net_act", "emb_size", "net_output",
    ]  # fmt: skip
    for key, number, linked, code in found:
        assert number == linked and code in source[int(number) - 1], key


@pytest.mark.parametrize("pages", PAIRS, ids=lambda pages: pages[0])
def test_both_languages_say_the_same(pages):
    english, chinese = map(text_of, pages)
    headings = [
        re.findall(r"^(#+) ", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M) for text in (english, chinese)
    ]
    assert headings[0] == headings[1]
    assert blocks_of(english) == blocks_of(chinese)
    rows = [rows_of(text) for text in (english, chinese)]
    assert [len(cells) for cells in rows[0]] == [len(cells) for cells in rows[1]]
    codes = [Counter(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)) for text in (english, chinese)]
    assert codes[0] == codes[1]
    numbers = list(map(numbers_of, (english, chinese)))
    assert numbers[0] - numbers[1] == numbers[1] - numbers[0] == Counter()


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, configured, capsys):
    monkeypatch.chdir(tmp_path)
    model = as_model(families.embedding_symbol(configured("d15", "emore", emb_size=8)), (1, 3, 32, 32))
    Path("models/d15-arcface-orl").mkdir(parents=True)
    mx.model.save_checkpoint("models/d15-arcface-orl/model", 1, model.symbol, *as_ndarrays(model))
    commands = [line for kind, code in blocks_of(text_of(BOTH[0])) if kind == "sh" for line in code.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "python"
        if arguments[:2] == ["-m", "denseface"]:
            assert cli.main(arguments[2:]) == 0, command
        else:
            line = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
            assert subprocess.run(line, stdout=subprocess.PIPE).returncode == 0, command
    written = {path.name for path in Path().glob("*.png")}
    assert written == {"d121.png", "prelu.png", "d169.png", "reuse.png"}
