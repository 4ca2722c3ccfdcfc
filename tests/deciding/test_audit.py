"""Faults planted among people whose embeddings are made: each person a direction, each picture a bit off it."""

import numpy as np

from denseface.core.vectors import normalize
from denseface.deciding.audit import DUPLICATE, HELD_OUT, NO_FACE, OTHER, SPLIT, TWO, audit
from denseface.galleries.gallery import Gallery, write_gallery
from support.refusals import refused

MODEL = {"sha256": "x", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [4, 4, 3]}
SIZE, PEOPLE, PICTURES = 32, 25, 8


class Faulty:
    """A set of pictures PERSON/NAME by their embeddings."""

    def __init__(self, seed=0, noise=0.5):
        self.random = np.random.default_rng(seed)
        self.noise = noise
        self.people = normalize(self.random.normal(size=(PEOPLE + 5, SIZE)))
        self.rows = {f"p{who:02}/{n}": self.picture(who) for who in range(PEOPLE) for n in range(PICTURES)}

    def picture(self, who):
        return self.people[who] + self.random.normal(0, self.noise / SIZE**0.5, SIZE)

    def gallery(self, path, rows=None):
        names, values = zip(*sorted((rows or self.rows).items()))
        values = normalize(np.array(values)).astype("<f4")
        write_gallery(path, [values], values.shape, names, max(map(len, names)), MODEL)
        return Gallery(path)


def found_in(faulty, tmp_path, **options):
    options.setdefault("is_duplicate", lambda one, other: "copy" in one + other)
    return {each.name: each for each in audit(faulty.gallery(tmp_path / "set.npz"), **options)}


def test_a_sound_set_has_no_suspects(tmp_path):
    assert not found_in(Faulty(), tmp_path)


def test_every_kind_of_fault_is_found_and_nothing_else(tmp_path):
    faulty = Faulty()
    faulty.rows["p01/wrong"] = faulty.picture(7)
    faulty.rows["p02/stranger"] = faulty.picture(PEOPLE)
    faulty.rows["p03/noise"] = faulty.random.normal(size=SIZE)
    faulty.rows["p04/copy"] = faulty.rows["p04/5"] + 0.001
    for number in range(4):  # half of person 5 moves to a folder of its own, and a stranger to that of person 6
        faulty.rows[f"q05/{number}"] = faulty.rows.pop(f"p05/{number}")
        faulty.rows[f"p06/second{number}"] = faulty.picture(PEOPLE + 1)
    found = found_in(faulty, tmp_path, has_face=lambda name: "noise" not in name)
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds.pop("p01/wrong") == OTHER and found["p01/wrong"].reason == "looks like p07"
    assert kinds.pop("p02/stranger") == OTHER and found["p02/stranger"].reason == "looks like nobody in the set"
    assert kinds.pop("p03/noise") == NO_FACE
    assert kinds.pop("p04/copy") == DUPLICATE and "p04/5" in found["p04/copy"].reason
    assert {kinds.pop(f"p06/second{number}") for number in range(4)} == {TWO}
    assert set(kinds.values()) == {SPLIT} and len(kinds) == 4
    assert {name[1:3] for name in kinds} == {"05"} and len({name[0] for name in kinds}) == 1
    assert all(each.probability < 0.5 for each in found.values() if each.kind != DUPLICATE)


def test_pixels_decide_about_duplicates_and_a_face_finder_is_optional(tmp_path):
    faulty = Faulty()
    faulty.rows["p04/twin"] = faulty.rows["p04/5"] + 0.001
    faulty.rows["p03/noise"] = faulty.random.normal(size=SIZE)
    found = found_in(faulty, tmp_path)
    assert [(name, each.kind) for name, each in found.items()] == [("p03/noise", OTHER)]


def test_blocks_change_nothing(tmp_path, monkeypatch):
    faulty = Faulty(seed=3)
    for number in range(0, 20, 2):
        faulty.rows[f"p{number:02}/copy"] = faulty.rows[f"p{number:02}/1"] + 0.001
        faulty.rows[f"p{number:02}/wrong"] = faulty.picture(number + 1)
    expected = found_in(faulty, tmp_path)
    monkeypatch.setattr("denseface.deciding.audit._STEP", 7)
    found = found_in(faulty, tmp_path)
    assert [each[:3] for each in found.values()] == [each[:3] for each in expected.values()] and len(found) > 15
    assert np.allclose([each[3] for each in found.values()], [each[3] for each in expected.values()], atol=1e-6)


def test_people_held_out_are_looked_for(tmp_path):
    faulty = Faulty()
    others = {"a.bin:0": faulty.picture(3), "a.bin:1": faulty.picture(PEOPLE), "a.bin:2": faulty.picture(PEOPLE + 1)}
    found = found_in(faulty, tmp_path, held_out=faulty.gallery(tmp_path / "other.npz", others))
    assert [(name, each.kind, each.reason) for name, each in found.items()] == [("a.bin:0", HELD_OUT, "looks like p03")]


def test_single_pictures_are_no_evidence(tmp_path):
    faulty = Faulty()
    faulty.rows = {name: row for name, row in faulty.rows.items() if name.endswith("/0")}
    with refused("two people", path=tmp_path / "set.npz"):
        found_in(faulty, tmp_path)


def test_a_picture_near_to_somebody_is_not_said_to_be_of_nobody(tmp_path):
    """It is between two people: too far from either to be theirs, and much nearer than strangers are."""
    faulty = Faulty()
    faulty.rows["p01/between"] = faulty.people[7] + 1.3 * faulty.people[PEOPLE]
    found = found_in(faulty, tmp_path, shown=lambda name: name.replace("p0", "anna"))
    assert found["p01/between"].kind == OTHER
    assert found["p01/between"].reason == "another person; nearest anna7, 0.60"
