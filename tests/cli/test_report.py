"""``denseface report``: the numbers of ``verify``, in one page."""

import base64
import csv
import html.parser
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from denseface import cli
from denseface.core import onnx_session
from denseface.data.pairs import write_pairs
from support.accelerators import accelerated, disturbed
from support.tiny_models import TINY_SHAPE, encode, pictures, save_model, tiny_model

NAMES = ("anna", "b<i>rt", "carl", "dora")


class Tables(html.parser.HTMLParser):
    """The cells of every table of a page, by its caption."""

    def __init__(self, page):
        super().__init__()
        self.found, self.images, self._caption, self._inside = {}, 0, "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        self.images += tag == "img"
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.found.setdefault(self._caption, []).append([])
        elif tag in ("td", "th"):
            self.found[self._caption][-1].append("")

    def handle_data(self, data):
        if self._inside == "caption":
            self._caption += data
        elif self._inside in ("td", "th"):
            self.found[self._caption][-1][-1] += data

    def handle_endtag(self, tag):
        self._inside = None


@pytest.fixture
def model(tmp_path):
    """A model and a set of pairs of four people, two pictures of each, with a table of groups."""
    save_model(tiny_model(), tmp_path / "model")
    files = [encode(picture) for picture in pictures(8)]
    pairs = [(a, b) for a in range(8) for b in range(a)] * 2
    people = [NAMES[index // 2] for pair in pairs for index in pair]
    issame = [a // 2 == b // 2 for a, b in pairs]
    write_pairs(tmp_path / "set.bin", [files[index] for pair in pairs for index in pair], issame, people)
    with open(tmp_path / "groups.csv", "w", newline="") as file:
        csv.writer(file).writerows([("person", "a$b$"), *zip(NAMES, ("x<b>", "x<b>", "y", "y"))])
    return ["--model", f"{tmp_path}/model", "--image-size", f"{TINY_SHAPE[0]},{TINY_SHAPE[1]}", f"{tmp_path}/set.bin"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_its_numbers_are_those_of_verify(model, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    assert run("verify", *model, "--json") == 0
    (measured,) = json.loads(capsys.readouterr().out)["sets"]
    groups = tmp_path / "groups.csv"
    assert (
        run("report", *model, "--groups", groups, "-o", tmp_path / "report.html", "--card", tmp_path / "card.md") == 0
    )
    page = (tmp_path / "report.html").read_text()
    tables = Tables(page).found
    metrics = {row[0]: row[1:] for caption, rows in tables.items() if "Metrics" in caption for row in rows}
    flip = measured["flip"]
    assert float(metrics["equal error rate"][0]) == pytest.approx(flip["eer"], abs=5e-5)
    assert metrics["equal error rate"][1] == "{:.4f}-{:.4f}".format(*flip["intervals"]["eer"])
    thresholds = {row[0]: row[1:] for caption, rows in tables.items() if "Thresholds" in caption for row in rows[1:]}
    assert thresholds.keys() == flip["operating_points"].keys() != set()
    for far, point in flip["operating_points"].items():
        assert float(thresholds[far][0]) == pytest.approx(point["threshold"], abs=5e-5)
        assert float(thresholds[far][2]) == pytest.approx(point["tar"], abs=5e-5)
    grouped = next(rows for caption, rows in tables.items() if "a$b$" in caption)
    assert grouped[0] == ["", "x<b>", "y"] and grouped[1] == ["people", "2", "2"]
    card = (tmp_path / "card.md").read_text()
    assert all(cell in card for cell in thresholds[next(iter(thresholds))])
    assert str(tmp_path) not in page + card


def test_it_has_the_options_of_the_run_without_paths(model, tmp_path):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    saved = {"num_classes": 30, "loss_m2": 0.3, "dataset_path": "/home/anna", "seed": 0, "lr_steps": [1, 2], "x": "<b>"}
    arguments = {"teacher": "/home/anna/large.onnx", "models_root": "/home/anna/models"}
    (tmp_path / "model-config.json").write_text(json.dumps({"config": saved, "arguments": arguments}))
    assert run("report", *model, "--no-pictures", "-o", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    rows = next(rows for caption, rows in Tables(page).found.items() if "differ" in caption)
    assert dict(rows[1:]) == {"num_classes": "30", "loss_m2": "0.3", "lr_steps": "1, 2", "teacher": "large.onnx"}
    assert "/home/anna" not in page


def test_pictures_of_people_can_be_left_out(model, tmp_path):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    counts = []
    for options in ([], ["--no-pictures"]):
        assert run("report", *model, *options, "-o", tmp_path / "report.html") == 0
        counts.append(Tables((tmp_path / "report.html").read_text()).images)
    assert counts == [1 + 2 * 6 + 2 * 6, 1]


@pytest.mark.parametrize("change", [lambda outputs: outputs, disturbed])
def test_it_names_the_provider_that_computed(model, tmp_path, monkeypatch, change):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    accelerated(monkeypatch).change = change
    monkeypatch.setattr(onnx_session, "require_provider", lambda *given: None)
    assert run("report", *model, "--provider", "cuda", "--no-pictures", "-o", tmp_path / "report.html") == 0
    tables = Tables((tmp_path / "report.html").read_text()).found
    assert dict(tables["The model"][1:])["computed by"] == "onnxruntime on cuda, float32"


HOSTILE = "<script>alert('&')</script>\"$^$\u202e"


def test_no_name_becomes_markup_in_the_page_or_its_charts(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    name = HOSTILE.replace("/", "")  # which no file has in its name
    model = tmp_path / name / "model"
    model.parent.mkdir()
    save_model(tiny_model(), model)
    images = [encode(picture) for picture in pictures(40)]
    people = [f"{HOSTILE}{index // 4 if index % 4 < 2 else index}" for index in range(40)]
    for path in (tmp_path / f"{name}.bin", tmp_path / "plain.bin"):
        write_pairs(path, images, [True, False] * 10, people)
    with open(tmp_path / "groups.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("person", HOSTILE), *((one, f"{HOSTILE}{one[-1]}") for one in dict.fromkeys(people))]
        )
    command = ["report", tmp_path / f"{name}.bin", tmp_path / "plain.bin", "--model", model, "--image-size", "16,16"]
    command += ["--groups", tmp_path / "groups.csv", "--trained-on", HOSTILE, "--license", HOSTILE]
    assert run(*command, "-o", tmp_path / "report.html", "--card", tmp_path / "card.md") == 0
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "card.md").read_text()
    charts = [base64.b64decode(chart).decode() for chart in re.findall('data:image/svg.xml;base64,([^"]*)', page)]
    assert len(charts) == 4
    for text in (page, *charts):
        assert "<script" not in text and "\u202e" not in text and "onerror" not in text
    for chart in charts:
        xml.etree.ElementTree.fromstring(chart)
    assert not re.search(r"(?<!\\)[<\u202e]", card.partition("\n---\n")[2])


def test_a_set_that_cannot_be_used_is_reported_and_the_others_are_measured(model, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    np.savez(tmp_path / "other.bin", a=1)
    assert run("report", *model, tmp_path / "other.bin", "-o", tmp_path / "report.html") == 1
    assert "Measured on set" in (tmp_path / "report.html").read_text()
    assert "other.bin" in capsys.readouterr().err


def test_a_set_too_small_for_any_false_accept_rate_is_described(model, tmp_path):
    pytest.importorskip("matplotlib", reason="draws the curves; an extra")
    files = [encode(picture) for picture in pictures(30)]
    write_pairs(tmp_path / "small.bin", files, [True, False, True] * 5)
    assert run("report", *model[:-1], tmp_path / "small.bin", "--no-pictures", "-o", tmp_path / "report.html") == 0
    assert "False accept rates on small: " in (tmp_path / "report.html").read_text()
