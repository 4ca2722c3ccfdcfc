"""A teacher: what it sees, what a run keeps of it, and which models cannot be one."""

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.loader import Batch
from denseface.embedding import embedder
from denseface.embedding.embedder import Embedder
from denseface.models import checkpoint
from denseface.models.distillation import with_teacher
from denseface.training import teacher as teachers
from denseface.training.teacher import Teacher
from support.distributed_run import embedding_symbol, with_fixed_statistics
from support.learners import learner_of
from support.refusals import refused
from support.tiny_models import as_ndarrays, tiny_model
from support.tiny_runs import SIZE, assert_same_state, make_run
from support.torch_like import mobilefacenet

import mxnet as mx

SHAPE = (SIZE, SIZE, 3)


def save(prefix, emb_size=7, change=lambda model: None):
    model = tiny_model(SHAPE, emb_size)
    change(model)
    mx.model.save_checkpoint(str(prefix), 1, model.symbol, *as_ndarrays(model))
    return f"{prefix},1"


def save_onnx(folder):
    from denseface.export.onnx import export

    save(folder / "teacher")
    export(checkpoint.load_model(folder / "teacher", 1), (1, 3, SIZE, SIZE), folder / "teacher.onnx")
    return str(folder / "teacher.onnx")


def load(text, batch_size=4):
    return Teacher(text, SHAPE, batch_size, mx.cpu())


@pytest.fixture
def teacher(tmp_path):
    return load(save(tmp_path / "teacher"))


def batch_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.integers(0, 256, (count, 3, SIZE, SIZE)).astype(np.float32), np.zeros(count, np.float32))


def test_it_computes_unit_embeddings_of_pictures_as_they_are_without_their_mirror_images(tmp_path):
    text = save(tmp_path / "teacher")
    batch = batch_of(11)
    plain = Embedder.load(text, image_shape=SHAPE, normalize=False, flip=False).compute(batch.data).plain
    found = load(text, batch_size=11)(batch.data)
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_a_teacher_in_an_onnx_file_teaches_the_same(tmp_path):
    exported, original = load(save_onnx(tmp_path)), load(f"{tmp_path}/teacher,1")
    batch = batch_of(6)
    np.testing.assert_allclose(exported(batch.data), original(batch.data), atol=1e-5)
    assert exported.identity == original.identity  # in the same engine


def test_a_network_of_pytorch_teaches(tmp_path):
    path = tmp_path / "face.onnx"
    path.write_bytes(mobilefacenet(False).SerializeToString())
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.float32)
    expected = Embedder.load(str(path), flip=False, batch_size=3).compute(pictures)[0]
    found = Teacher(str(path), (32, 32, 3), 3, mx.cpu())(pictures)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


SAVED = {"params": lambda folder: save(folder / "teacher"), "onnx": save_onnx}


@pytest.mark.parametrize("kind", SAVED)
def test_it_computes_in_the_precision_of_its_student(tmp_path, kind):
    pytest.importorskip("openvino")
    text = SAVED[kind](tmp_path)
    plain, low = load(text), Teacher(text, SHAPE, 4, mx.cpu(), "bfloat16")
    assert plain.identity.endswith(" in openvino, float32") and low.identity.endswith(" in openvino-bf16, bfloat16")
    batch = batch_of(4)
    cosines = (plain(batch.data) * low(batch.data)).sum(axis=1)
    assert (cosines > 0.999).all()


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("installed", [True, False])
def test_what_openvino_cannot_compute_teaches_in_the_engine_that_embeds_with_it(tmp_path, monkeypatch, kind, installed):
    text = SAVED[kind](tmp_path)

    def without_openvino(name, *args):
        if name.startswith("openvino"):
            raise InputError("an operator is missing")
        return make(name, *args)

    make = embedder.make_engine
    monkeypatch.setattr(embedder, "make_engine", without_openvino)
    monkeypatch.setattr(teachers, "find_spec", lambda name: installed or None)
    found = Teacher(text, SHAPE, 4, mx.cpu(), "bfloat16")
    assert found.identity.endswith(f" in {Embedder.load(text, image_shape=SHAPE).engine}, float32")


@pytest.mark.parametrize("emb_size", [5, 7])
def test_a_student_learns_its_teachers_embeddings_alone_with_one_device_or_two(tmp_path, emb_size):
    teacher = load(save(tmp_path / "teacher", emb_size))
    symbol = with_fixed_statistics(with_teacher(embedding_symbol(dropout=0), 5, emb_size, weight=1.0))
    runs = []
    for devices in (1, 2):
        seen = []

        class Watched:
            emb_size = teacher.emb_size

            def __call__(self, data, seen=seen):
                seen.append(data)
                return teacher(data)

        contexts = [mx.cpu(number) for number in range(devices)]
        learner = learner_of(symbol, (4, 3, SIZE, SIZE), contexts, momentum=0.9, wd=0, teacher=Watched())
        learner.state.initialize(mx.init.Xavier(), seed=3)
        batch = batch_of(4)
        losses = [learner.step([batch], 0.05, seed=step).loss for step in range(60)]
        assert all(data is batch.data for data in seen) and len(seen) == 60
        assert losses[-1] < 0.2 * losses[0]
        runs.append(losses)
    np.testing.assert_allclose(*runs, rtol=1e-3, atol=1e-4)


def test_resuming_with_a_teacher_repeats_the_run_and_its_layer_is_not_deployed(records, tmp_path, teacher):
    whole = make_run(records, tmp_path / "whole", teacher=teacher)
    untaught = make_run(records, tmp_path / "untaught")
    assert whole.fit() and untaught.fit()
    assert make_run(records, tmp_path / "parts", teacher=teacher, steps=3).fit()
    second = make_run(records, tmp_path / "parts", teacher=teacher)
    assert second.resume() and second.fit()
    assert_same_state(whole, second)
    arguments, momenta = second.learner.state.parameters()[0], second.learner.state.momenta()
    assert arguments["teacher_fc_weight"].shape == (7, 5) and momenta["teacher_fc_weight"].any()
    assert np.abs(arguments["conv_weight"] - untaught.learner.state.parameters()[0]["conv_weight"]).max() > 1e-3
    deployed = checkpoint.load_model(tmp_path / "parts")
    assert not [name for name in {*deployed.arguments, *deployed.symbol.list_arguments()} if "teacher" in name]


def test_a_run_keeps_its_teacher(records, tmp_path, teacher):
    prefix = tmp_path / "run"
    assert make_run(records, prefix, teacher=teacher, steps=1).fit()
    moved = load(save(tmp_path / "moved"))
    assert make_run(records, prefix, teacher=moved, steps=2).resume()
    other = load(save(tmp_path / "other", change=lambda model: model.arguments["fc1_beta"].__iadd__(1)))
    for changed in (other, None):
        given = changed.identity if changed else "not set"
        with refused(given, teacher.identity, option="teacher"):
            make_run(records, prefix, teacher=changed).resume()
    assert make_run(records, tmp_path / "alone", steps=1).fit()
    with refused(teacher.identity, "not set", option="teacher"):
        make_run(records, tmp_path / "alone", teacher=teacher).resume()


def test_models_that_cannot_teach_are_refused(tmp_path):
    def without_direction(model):
        for array in (model.arguments["pre_fc1_weight"], model.arguments["pre_fc1_bias"], model.arguments["fc1_beta"]):
            array[:] = 0
        model.auxiliary["fc1_moving_mean"][:] = 0

    def overflowing(model):
        for name in ("conv0_weight", "pre_fc1_weight"):
            model.arguments[name] *= 1e30

    with refused(f"{tmp_path}/none-0001.params", option="teacher"):
        load(f"{tmp_path}/none,1")
    text = save(tmp_path / "teacher")
    with refused("12,12,3", option="teacher"):
        Teacher(text, (12, 12, 3), 4, mx.cpu())
    for change, reason in ((without_direction, "zero"), (overflowing, "finite")):
        with refused(reason, option="teacher"):
            load(save(tmp_path / change.__name__, change=change))
