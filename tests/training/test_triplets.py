"""Triplets: what is mined is what FaceNet asks for, and a run that was stopped anywhere goes on bit for bit."""

import io
import itertools
import json
import logging
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from denseface.cli.training_flags import parse
from denseface.core.errors import InputError
from denseface.data.augment import Augmentation
from denseface.data.loader import PictureReader
from denseface.data.pictures import as_batch
from denseface.data.records import FaceRecords, write_face_records
from denseface.models import checkpoint, losses
from denseface.models.checkpoint import parse_model
from denseface.training import triplets
from denseface.training.plan import Keep
from denseface.training.triplets import ANGLE, SQUARED_EUCLIDEAN, Mining, StepShape, TripletLoader, mine
from support.record_sets import write_entries
from support.refusals import refused
from support.tiny_triplets import CLASSES, SHAPE, SIZE, make_run

import mxnet as mx

IMAGES = 5
PLAIN = Augmentation(mirror=False)


# mining


def mining(metric, alpha, max_ap=0.0):
    return Mining(metric, alpha, bag_size=20, images_per_identity=5, max_ap=max_ap)


def cluttered(seed=0, identities=8, images=4, size=3):
    """Embeddings of identities that overlap, in random lengths."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permutation(identities), images)
    centers = rng.standard_normal((identities, size))
    embeddings = centers[labels] + 0.4 * rng.standard_normal((len(labels), size))
    return embeddings * rng.uniform(0.5, 2, (len(labels), 1)), labels


def distances(embeddings, metric):
    """From the definition, in float64."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if metric is SQUARED_EUCLIDEAN:
        return np.square(unit[:, None] - unit).sum(axis=2)
    return np.arccos(np.clip(unit @ unit.T, -1, 1))


def negatives_by_pair(embeddings, labels, metric, alpha, max_ap=0.0):
    """FaceNet's condition, one triplet after the other."""
    distance = distances(embeddings, metric)
    found = {}
    for a, p in itertools.combinations(range(len(labels)), 2):
        if labels[a] != labels[p] or (max_ap and distance[a, p] > max_ap):
            continue
        fitting = {
            n for n in range(len(labels))
            if labels[n] != labels[a] and distance[a, p] < distance[a, n] < distance[a, p] + alpha
        }  # fmt: skip
        if fitting:
            found[a, p] = fitting
    return found


@pytest.mark.parametrize("max_ap", [0.0, 0.5])
@pytest.mark.parametrize("metric, alpha", [(SQUARED_EUCLIDEAN, 0.3), (ANGLE, 0.35), (SQUARED_EUCLIDEAN, 4), (ANGLE, 3)])
def test_every_pair_with_a_semi_hard_negative_gets_one(metric, alpha, max_ap, monkeypatch):
    embeddings, labels = cluttered()
    expected = negatives_by_pair(embeddings, labels, metric, alpha, max_ap)
    assert 10 < len(expected) < 48 or (alpha > 1 and len(expected) == 48)
    for pairs_at_a_time in (512, 7):
        monkeypatch.setattr(triplets, "_PAIRS_AT_A_TIME", pairs_at_a_time)
        found = mine(embeddings, labels, mining(metric, alpha, max_ap), np.random.default_rng(0))
        assert sorted(map(tuple, found[:, :2].tolist())) == sorted(expected)
        assert all(n in expected[a, p] for a, p, n in found.tolist())


def test_any_negative_that_fits_may_be_drawn_and_triplets_are_shuffled():
    embeddings, labels = cluttered()
    expected = negatives_by_pair(embeddings, labels, SQUARED_EUCLIDEAN, 0.3)
    drawn = {pair: set() for pair in expected}
    orders = set()
    for seed in range(300):
        found = mine(embeddings, labels, mining(SQUARED_EUCLIDEAN, 0.3), np.random.default_rng(seed)).tolist()
        orders.add(tuple(map(tuple, (row[:2] for row in found))))
        for a, p, n in found:
            drawn[a, p].add(n)
    assert drawn == expected and len(orders) == 300


def test_equal_generators_mine_the_same():
    one, other = (mine(*cluttered(), mining(ANGLE, 0.3), np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_without_pairs_or_negatives_there_are_no_triplets():
    embeddings, _ = cluttered()
    for labels in (np.arange(len(embeddings)), np.zeros(len(embeddings))):
        assert mine(embeddings, labels, mining(ANGLE, 0.3), np.random.default_rng(0)).shape == (0, 3)
    assert mine(np.empty((0, 1)), np.empty(0), mining(ANGLE, 0.3), np.random.default_rng(0)).shape == (0, 3)


def test_embeddings_that_are_not_finite_are_refused():
    embeddings, labels = cluttered()
    embeddings[3, 1] = np.nan
    with refused("finite", "learning rate"):
        mine(embeddings, labels, mining(ANGLE, 0.3), np.random.default_rng(0))


def test_a_bag_of_insightfaces_size_takes_little_memory():
    """The worst case, in which every negative fits every pair."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((7200, 8), dtype=np.float32) + 100
    tracemalloc.start()
    try:
        found = mine(embeddings, np.repeat(np.arange(3600), 2), mining(SQUARED_EUCLIDEAN, 0.3), rng)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) > 3000 and peak < 300e6


# the loader


def flat(value):
    """A picture whose left column is dark, and whose other pixels have this value."""
    pixels = np.full(SHAPE, value, np.uint8)
    pixels[:, 0] = 1
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def values_of(data):
    return data[:, 0, 0, SIZE // 2].astype(int)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """40 pictures of 8 identities; the one with key k has the value 5 k."""
    folder = tmp_path_factory.mktemp("records")
    images = [(i // IMAGES, flat(5 * (i + 1))) for i in range(CLASSES * IMAGES)]
    write_face_records(folder, images, (SIZE, SIZE))
    with FaceRecords(folder) as records:
        yield records


class Network:
    """Embeds by a picture's value, differently after every batch that it has been taught."""

    def __init__(self):
        self.taught = 0
        self.seen = []

    def __call__(self, data):
        values = values_of(data)
        self.seen.append(values[values > 0] // 5)
        phase = values[:, None] * (1 + self.taught) * np.array([0.37, 0.71, 1.13])
        return np.sin(phase)


def make_loader(records, embed, batch_size=12, bag_size=20, **changes):
    reader = PictureReader(records, SHAPE, changes.pop("threads", 2), changes.pop("max_bad", None))
    of_mining = {name: changes.pop(name) for name in Mining._fields if name in changes}
    mining = Mining(
        **{"metric": SQUARED_EUCLIDEAN, "alpha": 0.5, "images_per_identity": 5, **of_mining}, bag_size=bag_size
    )
    step = StepShape(batch_size, **{name: changes.pop(name) for name in StepShape._fields if name in changes})
    return TripletLoader(reader, embed, mining, step, **{"augmentation": PLAIN, "seed": 3, **changes})


def take(loader, network, count, start_batch=0):
    """Batches, each taught to the network before the next one is asked for."""
    stream = loader.batches(start_batch)
    batches = []
    for batch in itertools.islice(stream, count):
        batches.append(batch)
        network.taught += 1
    stream.close()
    return batches


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others):
        np.testing.assert_array_equal(one.data, other.data)
        np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_share_of_a_batch_holds_anchors_positives_negatives(records, num_devices):
    network = Network()
    for batch in take(make_loader(records, network, num_devices=num_devices), network, 5):
        assert batch.data.shape == (12, 3, SIZE, SIZE) and batch.data.dtype == batch.label.dtype == np.float32
        keys = values_of(batch.data) // 5
        np.testing.assert_array_equal(batch.label, (keys - 1) // IMAGES)
        for share in np.split(batch.label, num_devices):
            anchor, positive, negative = np.split(share, 3)
            assert (anchor == positive).all() and (anchor != negative).all()
        for share in np.split(keys, num_devices):
            anchor, positive, _ = np.split(share, 3)
            assert (anchor != positive).all()


def test_triplets_are_semi_hard_for_the_network_at_the_start_of_their_bag(records):
    network = Network()
    stream = make_loader(records, network, bag_size=40).batches()
    for _ in range(3):
        keys = values_of(next(stream).data) // 5
        pictures = np.arange(1, 41)
        data = np.broadcast_to((5 * pictures)[:, None, None, None], (40, 3, SIZE, SIZE))
        distance = distances(network(data), SQUARED_EUCLIDEAN)
        for a, p, n in keys.reshape(3, -1).T - 1:
            assert distance[a, p] < distance[a, n] < distance[a, p] + 0.5
    stream.close()


def test_a_pass_goes_through_all_identities_once(records):
    network = Network()
    # Bags of 3 identities at most: 3, 3 and 2 make a pass.  Of each, 4 of its 5 pictures.
    loader = make_loader(records, network, batch_size=6, bag_size=12, images_per_identity=4)
    stream = loader.batches()
    bags = []
    while len(bags) < 6:
        network.seen.clear()
        next(stream)
        if network.seen:
            bags.append(np.concatenate(network.seen))
        network.taught += 1
    stream.close()
    for bag in bags:
        identities, counts = np.unique((bag - 1) // IMAGES, return_counts=True)
        assert len(np.unique(bag)) == len(bag) <= 12 and (counts == 4).all() and len(identities) in (2, 3)
    passes = [np.concatenate(bags[:3]), np.concatenate(bags[3:])]
    for pictures in passes:
        assert sorted((pictures - 1) // IMAGES) == sorted(list(range(CLASSES)) * 4)
    assert list(passes[0]) != list(passes[1])


def test_mining_sees_pictures_as_they_are_and_batches_are_augmented(records):
    network = Network()
    mined = []

    def embed(data):
        mined.append(data.copy())
        return network(data)

    batches = take(make_loader(records, embed, augmentation=Augmentation()), network, 10)
    mined = np.concatenate(mined)
    assert (mined[values_of(mined) > 0][:, :, :, 0] == 1).all()
    mirrored = np.concatenate([batch.data[:, 0, 0, -1] == 1 for batch in batches])
    assert 0.3 < mirrored.mean() < 0.7


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_batches_go_on_from_the_state_between_any_two_steps(records, accumulate):
    options = {"augmentation": Augmentation(color=1), "batch_size": 6, "bag_size": 10, "accumulate": accumulate}
    network = Network()
    loader = make_loader(records, network, **options)
    stream = loader.batches()
    steps, states = [], []
    for _ in range(10):
        states.append(json.loads(json.dumps(loader.state())))
        steps.append(list(itertools.islice(stream, accumulate)))
        network.taught += 1
    stream.close()
    assert len({state["bag"] for state in states}) > 3
    for step, state in enumerate(states):
        network = Network()
        network.taught = step
        resumed = make_loader(records, network, **options, threads=1)
        resumed.restore(state)
        stream = resumed.batches(step * accumulate)
        for expected in steps[step : step + 3]:
            assert_same(list(itertools.islice(stream, accumulate)), expected)
            network.taught += 1
        stream.close()


def test_another_seed_gives_other_batches(records):
    one, other = (take(make_loader(records, Network(), seed=seed), Network(), 1)[0] for seed in (1, 2))
    assert not np.array_equal(one.data, other.data)


def test_a_poor_bag_is_passed_over_and_said(records, caplog):
    caplog.set_level(logging.INFO, "denseface")
    network = Network()

    def blind_at_first(data):
        embeddings = network(data)
        return embeddings if len(network.seen) > 4 else np.ones_like(embeddings)

    loader = make_loader(records, blind_at_first)
    take(loader, network, 1)
    assert "bag 0: 20 pictures gave 0 triplets, enough for 0 steps" in caplog.text
    assert "on to the next" in caplog.messages[0] and "on to the next" not in caplog.messages[-1]
    assert loader.state()["bag"] == len(caplog.messages) - 1 > 0


def test_many_poor_bags_in_a_row_are_an_error_that_says_what_to_try(records):
    loader = make_loader(records, lambda data: np.ones((len(data), 2)), accumulate=2)
    with refused("10 bags", "8 triplets", "triplet_alpha") as error:
        next(loader.batches())
    assert "\n" not in str(error.value)
    assert loader.state() == make_loader(records, Network()).state()


def test_an_epoch_is_as_many_pictures_as_the_set_has(records):
    assert make_loader(records, Network()).batches_per_epoch == 40 // 12


@pytest.mark.parametrize(
    "changes, option, facts",
    [
        ({"batch_size": 16}, "per_batch_size", [15, 16]),
        ({"batch_size": 2}, "per_batch_size", [3, 2]),
        ({"batch_size": 12, "num_devices": 6}, "per_batch_size", [2]),
        ({"alpha": 0.0}, None, ["triplet_alpha", 0.0]),
        ({"max_ap": -1.0}, None, ["triplet_max_ap"]),
        ({"images_per_identity": 1}, None, ["images_per_identity", 1]),
        ({"bag_size": 9}, None, ["triplet_bag_size 9"]),
    ],
)
def test_settings_out_of_range_are_refused_by_name(records, changes, option, facts):
    with refused(*facts, option=option):
        make_loader(records, Network(), **changes)


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "contains no triplets"),
        ({"bag": 0, "first_step": 0, "triplets": [1, 2]}, "contains no triplets"),
        ({"bag": 0, "first_step": 0, "triplets": ["a", 2, 3]}, "contains no triplets"),
        ({"bag": 0, "first_step": 0, "triplets": 12 * [1, 2, 999]}, "not of the pictures in"),
        ({"bag": -2, "first_step": 0, "triplets": []}, "not of the pictures in"),
        ({"bag": 0, "first_step": 0, "triplets": 5 * [1, 2, 9]}, "keep the batch size per device"),
    ],
)
def test_a_state_of_something_else_is_refused(records, state, message):
    with refused(message):
        make_loader(records, Network()).restore(state)


def test_a_step_outside_the_bag_is_refused(records):
    loader = make_loader(records, Network())
    for step in (-1, 1):
        with refused("bag"):
            next(loader.batches(step))


def test_broken_pictures_are_named_and_left_out(tmp_path, caplog):
    images = [(i // IMAGES, flat(5 * (i + 1)) if i % 7 else b"no picture") for i in range(20)]
    write_face_records(tmp_path, images, (SIZE, SIZE))
    with FaceRecords(tmp_path) as records:
        network = Network()
        loader = make_loader(records, network, batch_size=6)
        take(loader, network, 3)
        assert set(loader.reader.bad) == {1, 8, 15} and "key 8" in caplog.text
        assert not {1, 8, 15} & set(np.concatenate(network.seen).tolist())
        with refused(tmp_path / "train.rec", "max_bad = 1"):
            next(make_loader(records, network, batch_size=6, max_bad=1).batches())


def test_a_plain_file_is_grouped_by_its_labels(tmp_path):
    write_entries(tmp_path, [(key, float(key % 4), flat(5 * key)) for key in range(1, 21)], 4, SIZE)
    with FaceRecords(tmp_path) as records:
        assert records.identities is None
        network = Network()
        (batch,) = take(make_loader(records, network, batch_size=6, bag_size=10), network, 1)
        np.testing.assert_array_equal(batch.label, values_of(batch.data) // 5 % 4)
        for bag in network.seen[:1]:
            assert len(np.unique(bag % 4)) <= 2


def test_no_thread_is_left_behind(records):
    before = set(threading.enumerate())
    network = Network()
    take(make_loader(records, network), network, 3)
    with pytest.raises(InputError):
        next(make_loader(records, lambda data: np.full((len(data), 2), np.nan)).batches())
    assert set(threading.enumerate()) <= before


# a run


@pytest.mark.parametrize(
    "options, stops",
    [
        ({}, [1, 2, 3, 4, 5, 7]),
        ({"loss": losses.angular_triplet}, [2, 5]),
        ({"accumulate": 2}, [1, 2, 3]),
        ({"contexts": (mx.cpu(0), mx.cpu(1))}, [1, 2, 3, 4]),
    ],
    ids=["triplet", "atriplet", "accumulated", "two devices"],
)
def test_resuming_repeats_the_run_that_was_never_stopped(faces, tmp_path, options, stops):
    whole = make_run(faces, tmp_path / "whole", **options)
    assert whole.fit()
    assert whole.loader.state()["bag"] >= 1
    for stop in stops:
        prefix = tmp_path / f"stopped-{stop}"
        assert make_run(faces, prefix, **options, steps=stop).fit()
        second = make_run(faces, prefix, **options)
        second.resume()
        assert second.fit()
        for kind in ("params", "states"):
            one, other = ((tmp_path / f"{name}-0008.{kind}").read_bytes() for name in ("whole", f"stopped-{stop}"))
            assert one == other, stop


def test_training_brings_pictures_of_one_identity_together(faces, tmp_path):
    run = make_run(faces, tmp_path / "model", steps=40, batch_size=24, keep=Keep.NOTHING, verbose=1000)
    with run.loader.reader.cut_ahead(faces.keys, ahead=4) as cuts:
        pictures = list(cuts)
    labels = np.array([picture.key.label for picture in pictures])
    data = as_batch([picture.faces[0].pixels for picture in pictures], SHAPE)

    def share_of_nearest():
        """How often the nearest other picture is of the same identity."""
        embeddings = np.concatenate([run.learner.embed(data[:24]), run.learner.embed(data[-24:])[8:]])
        distance = distances(embeddings, SQUARED_EUCLIDEAN) + 9 * np.eye(len(labels))
        return np.mean(labels[distance.argmin(axis=1)] == labels)

    before = share_of_nearest()
    run.fit()
    assert share_of_nearest() > before + 0.2


def test_figures_have_no_accuracy(faces, tmp_path):
    make_run(faces, tmp_path / "model", steps=2).fit()
    header, row = (tmp_path / "model-training.csv").read_text().splitlines()
    figures = dict(zip(header.split(","), row.split(",")))
    assert figures["accuracy"] == "" and 0 < float(figures["loss"]) < 5


def test_a_run_without_triplets_left_is_saved_and_goes_on_with_a_larger_margin(faces, tmp_path):
    run = make_run(faces, tmp_path / "model")
    mine_bag = run.loader._next_bag

    def none_left(first_step):
        if first_step > 3:
            run.loader.embed = lambda data: np.ones((len(data), 2))
        mine_bag(first_step)

    run.loader._next_bag = none_left
    with refused("10 bags"):
        run.fit()
    step = run.step
    assert step > 3
    again = make_run(faces, tmp_path / "model", steps=step + 1)
    again.resume()
    assert again.fit()


# the command


NETWORK = """
import mxnet as mx


def get_symbol():
    body = mx.sym.Convolution(mx.sym.Variable("data") * (1 / 255), num_filter=8, kernel=(3, 3), name="conv")
    return mx.sym.FullyConnected(mx.sym.BatchNorm(body, name="bn"), num_hidden=5, name="fc1")
"""


def documented_commands():
    text = Path(train.__file__).with_name("docs").joinpath("triplets.md").read_text().replace("\\\n", " ")
    return [line.split()[2:] for line in re.findall(r"^python train\.py .*", text, re.MULTILINE)]


def tiny(command, folder, *more):
    """The command with small pictures and a small network, and its models elsewhere."""
    moved = [str(folder / word) if word.startswith("models/") else word for word in command]
    return [
        *moved, "--models-root", str(folder / "models"), "--symbol-path", str(folder), "--per-batch-size", "6",
        "--set", f"dataset_path={folder / 'data'}", "--set", "image_shape=8,8,3", "--set", "val_targets=", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def softmax_trained(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "data").symlink_to(faces.folder)
    (folder / "fdensenet.py").write_text(NETWORK)
    level = logging.getLogger("denseface").level
    softmax, _ = documented_commands()
    assert train.main(tiny(softmax, folder, "--max-steps", "1")) == 0
    yield folder
    logging.getLogger("denseface").setLevel(level)


@pytest.mark.parametrize("loss", ["triplet", "atriplet"])
def test_a_softmax_is_refined_as_documented(softmax_trained, loss, caplog):
    _, command = documented_commands()
    command = [loss if word == "triplet" else word.replace("/model,800", "/model,1") for word in command]
    bag = ("--set", "triplet_bag_size=15", "--set", "images_per_identity=5")
    assert train.main(tiny(command, softmax_trained, *bag, "--max-steps", "2")) == 0
    assert "d63-softmax-orl/model,1: 8 parameters loaded" in caplog.text and "start fresh" not in caplog.text
    assert re.search(r"bag 0: 15 pictures gave \d+ triplets", caplog.text)
    assert "accuracy" not in caplog.text
    assert train.main(tiny(command, softmax_trained, *bag, "--max-steps", "3", "--resume")) == 0
    assert checkpoint.complete_steps(softmax_trained / "models" / f"d63-{loss}-orl" / "model") == [3]


def test_the_documented_commands_fit_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    softmax, triplet = (parse(command, "") for command in documented_commands())
    pretrained, epoch = parse_model(triplet.start.pretrained)
    assert softmax.optimizer.max_steps in (epoch, triplet.start.pretrained_epoch)
    assert Path(pretrained) == Path(train.run_prefix(softmax))


def test_the_losses_set_what_flags_start_from():
    for loss in ("triplet", "atriplet"):
        spec = parse(["--network", "d121", "--dataset", "emore", "--loss", loss], "")
        optimizer, chosen = spec.optimizer, spec.loss
        assert (optimizer.lr, optimizer.per_batch_size, optimizer.wd, optimizer.mom) == (0.05, 60, 0.0005, 0.9)
        assert (chosen.triplet_bag_size, chosen.images_per_identity, chosen.triplet_max_ap) == (7200, 5, 0.0)


def test_a_batch_that_is_no_triplets_is_refused_in_one_line(softmax_trained, capsys):
    _, command = documented_commands()
    assert train.main(tiny(command, softmax_trained, "--per-batch-size", "16")) == 1
    error = capsys.readouterr().err.strip()
    assert error == "train.py: error: --per-batch-size: triplets need a multiple of 3, such as 15, not 16"
