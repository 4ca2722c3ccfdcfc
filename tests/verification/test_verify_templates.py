"""Templates of made data, in the files of IJB, against a plain computation of InsightFace's protocol."""

import shutil

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.data.align import REFERENCE_POINTS, align
from denseface.data.template_set import read_templates
from denseface.embedding.embedder import Embedder
from denseface.verification.verify_templates import verify_templates
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, save_model, tiny_model

pytestmark = pytest.mark.usefixtures("own_engines")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Forty templates of ten people with 1 to 6 pictures; media with several pictures; numbers with gaps."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("templates")
    (folder / "loose_crop").mkdir()
    (folder / "meta").mkdir()
    people = random.uniform(0, 255, (10, 8, 8, 3))
    faces, owners, pairs = [], [], []
    for template in range(40):
        for picture in range(random.integers(1, 7)):
            name = f"{template}_{picture}.png"
            pixels = people[template % 10] + random.normal(0, 60, (8, 8, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((140, 150))
            image.save(folder / "loose_crop" / name)
            points = REFERENCE_POINTS + random.normal(0, 1, (5, 2)) + 12
            faces.append(f"{name} {' '.join(f'{value:.3f}' for value in points.ravel())} {random.uniform(0.3, 1):.4f}")
            owners.append(f"{name} {7 * template + 3} {picture // 2 + 100}")
    for one in range(40):
        pairs += [f"{7 * one + 3} {7 * other + 3} {int(one % 10 == other % 10)}" for other in range(one)]
    for name, lines in (("name_5pts_score", faces), ("face_tid_mid", owners), ("template_pair_label", pairs)):
        (folder / "meta" / f"made_{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def made(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "templates")


def plainly(folder, embedder):
    """Scores of all pairs, one template and one medium after the other."""
    words = {
        name: [line.split() for line in (folder / "meta" / f"made_{name}.txt").read_text().splitlines()]
        for name in ("name_5pts_score", "face_tid_mid", "template_pair_label")
    }
    features = {}
    for (name, *numbers), (_, template, medium) in zip(words["name_5pts_score"], words["face_tid_mid"]):
        picture = np.asarray(Image.open(folder / "loose_crop" / name))
        face = align(picture, np.float32(numbers[:-1]).reshape(5, 2), TINY_SHAPE[0])
        computed = embedder.compute(face.transpose(2, 0, 1)[None].astype(np.float32))
        feature = computed.summed[0].astype(float) * float(np.float32(numbers[-1]))
        features.setdefault(template, {}).setdefault(medium, []).append(feature)
    fused = {
        template: sum(np.mean(frames, axis=0) for frames in media.values()) for template, media in features.items()
    }
    scores, issame = [], []
    for one, other, same in words["template_pair_label"]:
        a, b = fused[one], fused[other]
        scores.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        issame.append(same == "1")
    return np.array(scores), np.array(issame)


def test_the_numbers_are_those_of_insightface(made):
    library = pytest.importorskip("sklearn.metrics")
    embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
    scores, issame = plainly(made, embedder)
    report = verify_templates(embedder, read_templates(made), thresholds="insightface")
    for found, expected in zip(report.flip.scores, (scores[issame], scores[~issame])):
        assert np.abs(found - expected).max() < 1e-6
    false, true, _ = library.roc_curve(issame, scores)
    for far, tar in report.flip.tar.items():
        order = np.argsort(np.abs(false[::-1] - far), kind="stable")
        assert tar == pytest.approx(true[::-1][order[0]], abs=1e-6)
    assert report.shared.count == 10  # genuine pairs connect the templates of a person
    assert report.name == "made" and report.plain is not None


def test_the_command_reads_the_folder(made, tmp_path, capsys):
    save_model(tiny_model(), str(tmp_path / "tiny"))
    size = ",".join(map(str, TINY_SHAPE))
    assert cli.main(["verify", str(made), "--model", str(tmp_path / "tiny"), "--image-size", size]) == 0
    out = capsys.readouterr().out
    assert out.startswith("made\n") and "genuine + impostor pairs        60 + 720" in out


def test_a_picture_that_cannot_be_used_is_left_out_with_a_warning(made, caplog):
    embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
    templates = read_templates(made)
    several = templates.templates[np.flatnonzero(np.bincount(templates.templates)[templates.templates] > 1)[0]]
    (made / "loose_crop" / f"{several}_0.png").write_bytes(b"broken")
    verify_templates(embedder, templates)
    assert caplog.text.count(f"{several}_0.png") == 1 and "made: 1 of" in caplog.text
    alone = np.flatnonzero(np.bincount(templates.templates) == 1)[0]
    (made / "loose_crop" / f"{alone}_0.png").write_bytes(b"broken")
    with refused("made", "1 template", 7 * alone + 3):
        verify_templates(embedder, templates)


def test_a_network_of_gray_pictures_gets_one_channel(made):
    shape = (*TINY_SHAPE[:2], 1)
    report = verify_templates(Embedder(tiny_model(shape), image_shape=shape), read_templates(made))
    assert np.isfinite(np.concatenate(report.plain.scores)).all()


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("face_tid_mid", "other.png 3 100", "are not of the same pictures"),
        ("face_tid_mid", "a.png 3", "line 1: not a picture and two whole numbers"),
        ("face_tid_mid", "a.png 3.5 1", "line 1: not a picture and two whole numbers"),
        ("name_5pts_score", "a.png nan" + " 1" * 10, "line 1: not a picture, ten coordinates and a score"),
        ("name_5pts_score", "a.png 1e300" + " 1" * 10, "line 1: not a picture, ten coordinates and a score"),
        ("name_5pts_score", "a.png" + " 1" * 10 + " -0.5", "line 1: not a picture, ten coordinates and a score"),
        ("name_5pts_score", "a.png" + " 1" * 13, "line 1: not a picture, ten coordinates and a score"),
        ("template_pair_label", "3 4 0", "template 4 has no picture"),
        ("template_pair_label", "3 10 2", "line 1: not two whole numbers, and 0 or 1"),
        ("template_pair_label", "t1 10 1", "line 1: not two whole numbers, and 0 or 1"),
        ("template_pair_label", "3 10 0.5", "line 1: not two whole numbers, and 0 or 1"),
        ("template_pair_label", "1.5 10 1", "line 1: not two whole numbers, and 0 or 1"),
        ("template_pair_label", "1e300 10 1", "line 1: not two whole numbers, and 0 or 1"),
        ("template_pair_label", "9" * 30 + " 10 1", "line 1: not two whole numbers, and 0 or 1"),
    ],
)
def test_damaged_files_are_named(made, name, line, message):
    path = made / "meta" / f"made_{name}.txt"
    path.write_text(line + "\n" + path.read_text())
    with refused(message, path=made if name == "face_tid_mid" and "100" in line else path):
        read_templates(made)


def test_pictures_outside_and_missing_files_are_refused(made):
    for name in ("name_5pts_score", "face_tid_mid"):
        path = made / "meta" / f"made_{name}.txt"
        path.write_text(path.read_text().replace("0_0.png", "../0_0.png"))
    with refused("../0_0.png", "outside", path=made):
        read_templates(made)
    (made / "meta" / "made_name_5pts_score.txt").unlink()
    with refused("not a set of templates", path=made):
        read_templates(made)
