import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from denseface.core.vectors import similarity
from denseface.data.cropping import Cropper
from denseface.data.faces import PictureError
from denseface.data.landmarks import LandmarkFile
from denseface.data.pairs import PairSet, failure_to_enroll
from denseface.data.pictures import as_batch, load_picture
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import pair_scores, score_pairs
from denseface.verification.verify import verify
from support.helpers import output
from support.photos import SHAPE, as_line, face, faces_at, group, photo
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def raw(model, images):
    """What the network gives, by MXNet alone."""
    return output(model.symbol, np.asarray(images, np.float32).transpose(0, 3, 1, 2))


def with_values(model, **values):
    """The model with every value of some parameters replaced."""
    arguments, auxiliary = (
        {name: np.full_like(array, values[name]) if name in values else array for name, array in arrays.items()}
        for arrays in (model.arguments, model.auxiliary)
    )
    return dataclasses.replace(model, arguments=arguments, auxiliary=auxiliary)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_picture_and_mirror_image_are_summed_then_normalized(model):
    images = pictures(5)
    expected = unit(raw(model, images) + raw(model, images[:, :, ::-1]))
    found = Embedder(model, batch_size=2, image_shape=TINY_SHAPE).embed(images)
    assert (found.dtype, found.shape) == (np.float32, (5, 8))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_flip_and_normalization_it_is_what_the_network_gives(model):
    images = pictures(3)
    found = Embedder(model, flip=False, normalize=False, image_shape=TINY_SHAPE).embed(images)
    np.testing.assert_allclose(found, raw(model, images), rtol=1e-5, atol=1e-6)


def test_an_embedding_is_the_same_whatever_is_computed_with_it(model):
    images = pictures(9)
    embedder = Embedder(model, engine="mxnet", batch_size=4, image_shape=TINY_SHAPE)
    together = embedder.embed(images)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(embedder.embed(image)[0], together[i])
    np.testing.assert_array_equal(embedder.embed(images[::-1]), together[::-1])


@pytest.mark.parametrize(("batch_size", "count", "calls"), [(2, 1, 1), (2, 3, 3), (4, 2, 1), (4, 3, 2), (1, 1, 2)])
def test_a_picture_and_its_mirror_image_share_a_batch(model, batch_size, count, calls):
    embedder = Embedder(model, batch_size=batch_size, image_shape=TINY_SHAPE)
    original, computed = embedder._engine, []
    embedder._engine = lambda batch: computed.append(batch) or original(batch)
    batch = as_batch(pictures(count), TINY_SHAPE)
    embedder.compute(batch)
    rows = np.concatenate(computed)
    assert len(computed) == calls
    assert len(rows) == calls * batch_size
    np.testing.assert_array_equal(rows[: 2 * count : 2], batch)
    np.testing.assert_array_equal(rows[1 : 2 * count : 2], batch[..., ::-1])
    assert not rows[2 * count :].any()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_batch_of_any_size_is_computed(model, count):
    images = pictures(count)
    embedder = Embedder(model, batch_size=4, image_shape=TINY_SHAPE)
    found = embedder.compute(as_batch(images, TINY_SHAPE))
    assert found.plain.shape == found.summed.shape == (count, 8)
    np.testing.assert_array_equal(found.rows, embedder.embed(images))
    if count:
        mirrored = raw(model, images[:, :, ::-1])
        np.testing.assert_allclose(found.plain, raw(model, images), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.summed, raw(model, images) + mirrored, rtol=1e-5, atol=1e-6)
    alone = Embedder(model, flip=False, image_shape=TINY_SHAPE).compute(as_batch(images, TINY_SHAPE))
    np.testing.assert_array_equal(alone.summed, alone.plain)


@pytest.mark.parametrize("batch", [np.zeros((2, 3, 16, 16)), np.zeros((2, 16, 16, 3), np.float32)])
def test_a_batch_of_another_kind_is_refused(model, batch):
    with refused("float32", "(2, 3, 16, 16)", batch.dtype):
        Embedder(model, image_shape=TINY_SHAPE).compute(batch)


def test_every_form_of_a_picture_gives_the_same(model, tmp_path):
    image = pictures(1)[0]
    path = tmp_path / "face.png"
    path.write_bytes(encode(image))
    embedder = Embedder(model, image_shape=TINY_SHAPE)
    expected = embedder.embed(image)
    encoded = encode(image)

    def forms():
        yield from (image, Image.fromarray(image), path, str(path), encoded, bytearray(encoded), memoryview(encoded))
        yield io.BytesIO(encoded)

    for form in forms():
        np.testing.assert_array_equal(embedder.embed(form), expected)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(embedder.embed(file), expected)
    np.testing.assert_array_equal(embedder.embed(forms()), np.repeat(expected, 8, axis=0))


@pytest.mark.parametrize("value", [None, 7, object()])
def test_what_is_neither_a_picture_nor_several_is_named(model, value):
    with refused(type(value).__name__, kind=PictureError):
        Embedder(model, image_shape=TINY_SHAPE).embed(value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "WEBP"])
def test_other_formats_are_read(kind):
    picture = pictures(1)[0]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(load_picture(buffer.getvalue(), TINY_SHAPE), picture)


def test_a_huge_picture_is_refused_before_it_is_unpacked():
    buffer = io.BytesIO()
    Image.new("1", (8001, 8000)).save(buffer, "PPM")
    with refused("8001 x 8000", "64,000,000"):
        load_picture(buffer.getvalue(), TINY_SHAPE)


def test_gray_pictures_become_three_equal_channels(model):
    gray = pictures(1)[0, :, :, 0]
    embedder = Embedder(model, image_shape=TINY_SHAPE)
    expected = embedder.embed(np.repeat(gray[:, :, None], 3, axis=2))
    for form in (gray, gray[:, :, None], Image.fromarray(gray), encode(gray)):
        np.testing.assert_array_equal(embedder.embed([form]), expected)


def test_a_gray_network_gets_one_channel():
    model = tiny_model((16, 16, 1))
    gray = pictures(2, (16, 16, 1))
    found = Embedder(model, image_shape=(16, 16, 1), flip=False, normalize=False).embed(gray)
    np.testing.assert_allclose(found, raw(model, gray), rtol=1e-5, atol=1e-6)


def test_aligned_faces_of_other_sizes_are_resized(model):
    large = pictures(1, (31, 40, 3))[0]
    small = np.asarray(Image.fromarray(large).resize((16, 16), Image.Resampling.BILINEAR))
    embedder = Embedder(model, image_shape=TINY_SHAPE, crop=Cropper(aligned=True))
    np.testing.assert_array_equal(embedder.embed([large, encode(large)]), embedder.embed([small, small]))


def test_faces_in_other_pictures_are_found(tmp_path):
    def detector(picture):
        return faces_at((10, 5), (60, 40))

    photograph = group((10, 5), (60, 40))
    (tmp_path / "a.png").write_bytes(encode(photograph))
    for choice, seed in (("largest", 0), ("center", 1)):
        crop = Cropper(detector=detector, face=choice)
        embedder = Embedder(tiny_model(SHAPE), image_shape=SHAPE, crop=crop)
        found = embedder.embed([photograph, encode(photograph), Image.fromarray(photograph), tmp_path / "a.png"])
        expected = embedder.embed(face(seed))[0]
        assert (similarity(found, expected) > 0.999).all()
        assert embedder.describe()["crop"]["face"] == choice


def test_pictures_without_faces_are_named_by_their_place_and_path(tmp_path):
    embedder = Embedder(tiny_model(SHAPE), image_shape=SHAPE, crop=Cropper(detector=lambda picture: faces_at()))
    (tmp_path / "a.png").write_bytes(encode(group()))
    with refused("no face is found", kind=PictureError) as caught:
        embedder.embed([face(0), group()])
    assert (caught.value.position, caught.value.name) == (1, "picture 1")
    with refused("no face is found", kind=PictureError) as caught:
        embedder.embed(str(tmp_path / "a.png"))
    assert (caught.value.position, caught.value.name) == (0, f"picture 0: {tmp_path}/a.png")


def test_all_faces_are_cut_before_they_are_embedded():
    crop = Cropper(detector=lambda picture: faces_at((60, 40), (10, 5)), face="all")
    embedder = Embedder(tiny_model(SHAPE), image_shape=SHAPE, crop=crop)
    crops = embedder.cut(group((60, 40), (10, 5)))
    assert [crop.suffix for crop in crops] == ["#1", "#2"]
    found = embedder.embed([crop.pixels for crop in crops])
    assert (np.diag(similarity(found, embedder.embed([face(1), face(0)]))) > 0.999).all()
    with refused("face: all", kind=PictureError):
        embedder.embed(group((60, 40), (10, 5)))


def test_landmarks_need_the_path_of_a_picture(tmp_path):
    picture, points = photo(0)
    (tmp_path / "landmarks.txt").write_text(as_line("a.png", points))
    (tmp_path / "a.png").write_bytes(encode(picture))
    crop = Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt"))
    embedder = Embedder(tiny_model(SHAPE), image_shape=SHAPE, crop=crop)
    aligned = Embedder(tiny_model(SHAPE), image_shape=SHAPE)
    assert similarity(embedder.embed(tmp_path / "a.png")[0], aligned.embed(face(0))[0]) > 0.999
    with refused("path", kind=PictureError):
        embedder.embed(picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_pictures_are_upright(tmp_path, orientation):
    picture, points = photo(0)
    stored = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    stored |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    image = Image.fromarray(picture)
    if orientation > 1:
        image = image.transpose(Image.Transpose[stored[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    seen = []

    def detector(picture):
        seen.append(picture)
        return np.array([[20, 9, 52, 41]]), np.array([0.9]), points[None]

    embedder = Embedder(tiny_model(SHAPE), image_shape=SHAPE, crop=Cropper(detector=detector))
    assert similarity(embedder.embed(tmp_path / "a.png")[0], embedder.embed(face(0))[0]) > 0.999
    np.testing.assert_array_equal(seen[0], picture)


def test_no_pictures_give_no_embeddings(model):
    assert Embedder(model, image_shape=TINY_SHAPE).embed([]).shape == (0, 8)


def test_an_embedding_of_zeros_stays_zeros(model):
    silent = with_values(model, fc1_beta=0, fc1_moving_var=np.inf)
    assert not Embedder(silent, image_shape=TINY_SHAPE).embed(pictures(1)).any()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (np.zeros((16, 16, 3), np.float32), "not float32"),
        (np.zeros((3, 16, 16), np.uint8), "not uint8 (3, 16, 16)"),
        (np.zeros((0, 16, 3), np.uint8), "not uint8 (0, 16, 3)"),
        (Image.new("F", (16, 16)), "16 bits per channel"),
        (b"no picture", "not a JPEG"),
        ("absent.png", "read"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_picture_is_named_by_its_place(model, picture, reason):
    good = pictures(2)
    with refused(reason, kind=PictureError) as caught:
        Embedder(model, image_shape=TINY_SHAPE).embed([*good, picture])
    assert caught.value.position == 2


def test_a_broken_file_is_named(model, tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encode(pictures(1)[0])[:300])
    with refused("broken", kind=PictureError) as caught:
        Embedder(model, image_shape=TINY_SHAPE).embed(path)
    assert caught.value.name == f"picture 0: {path}"


def test_impossible_options_are_refused(model):
    with refused(0, option="batch_size"):
        Embedder(model, batch_size=0, image_shape=TINY_SHAPE)
    with refused("channels", option="image_shape"):
        Embedder(model, image_shape=(16, 16, 4))


def test_similarity_is_the_cosine():
    a, b = np.random.RandomState(0).standard_normal((2, 3, 5))
    expected = [[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a]
    np.testing.assert_allclose(similarity(a, b), expected)
    np.testing.assert_allclose(similarity(a[0], b), expected[0])
    np.testing.assert_allclose(similarity(a, b[1]), np.array(expected)[:, 1])
    assert similarity(a[0], b[0]) == pytest.approx(expected[0][0])
    assert similarity(a[0], a[0]) == pytest.approx(1)
    assert similarity(a[0], np.zeros(5)) == 0
    with refused("(3, 5)", "(3, 4)"):
        similarity(a, b[:, :4])


def pair_set(num_people=8):
    """Pairs of pictures that differ a little or much; every picture is in several of them."""
    random = np.random.RandomState(1)
    people = pictures(num_people)
    second = np.clip(people.astype(int) + random.randint(-90, 90, people.shape), 0, 255).astype(np.uint8)
    first, second = ([encode(picture) for picture in side] for side in (people, second))
    images, issame = [], []
    for i, j in itertools.product(range(num_people), repeat=2):
        images += [first[i], second[j]]
        issame.append(i == j)
    return PairSet(images, np.array(issame), "faces")


def test_verification_measures_with_and_without_flip_in_one_pass(model):
    pairs = pair_set()
    embedder = Embedder(model, image_shape=TINY_SHAPE)
    embedded = []
    original = embedder.compute
    embedder.compute = lambda batch: embedded.extend(batch) or original(batch)
    report = verify(embedder, pairs)
    assert len(embedded) == 16  # each distinct picture once
    places = np.arange(len(pairs.images)).reshape(-1, 2)
    for result, flip in ((report.flip, True), (report.plain, False)):
        embeddings = Embedder(model, flip=flip, image_shape=TINY_SHAPE).embed(pairs.images)
        assert result.accuracy == score_pairs(pair_scores(embeddings, places), pairs.issame).accuracy
        assert result.auc == pytest.approx(score_pairs(pair_scores(embeddings, places), pairs.issame).auc, abs=1e-4)
    assert report.flip != report.plain
    assert report.name == "faces"
    assert report.to_dict()["flip"]["n_genuine"] == 8


def test_verification_without_flip(model):
    report = verify(Embedder(model, flip=False, image_shape=TINY_SHAPE), pair_set())
    assert report.flip is None
    assert report.to_dict()["flip"] is None


def test_who_is_not_enrolled_never_matches(model):
    """Not even somebody else who is not: their pictures are equal but for the comment."""
    pairs = pair_set()
    pairs.images[:2] = failure_to_enroll("anna/1.jpg", 16), failure_to_enroll("anna/2.jpg", 16)
    pairs.images[3] = pairs.images[0]
    report = verify(Embedder(model, image_shape=TINY_SHAPE), pairs)
    for result in report.ways.values():
        assert result.scores[0][0] == result.scores[1][0] == -1
        assert (np.concatenate(result.scores) > -1).sum() == len(pairs.issame) - 2


def test_a_broken_picture_of_a_set_is_named_by_its_pair(model):
    pairs = pair_set()
    pairs.images[5] = b"broken"
    with refused("not a JPEG", kind=PictureError) as caught:
        verify(Embedder(model, image_shape=TINY_SHAPE), pairs)
    assert caught.value.name == "faces: pair 2"


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_embedding_that_is_not_finite_is_named(model, value):
    """The last one is finite until the embedding of the mirror image is added."""
    broken = with_values(model, fc1_beta=value)
    images = pictures(3)
    with refused("finite", kind=PictureError) as caught:
        Embedder(broken, image_shape=TINY_SHAPE).embed(images)
    assert caught.value.position == 0
    embedder = Embedder(model, batch_size=2, flip=False, image_shape=TINY_SHAPE)
    original = embedder._engine
    embedder._engine = lambda batch: np.where(batch[:, 0, 0, :1] == images[2, 0, 0, 0], value * 10, original(batch))
    with refused("finite", kind=PictureError) as caught, np.errstate(over="ignore"):
        embedder.embed(images)
    assert caught.value.position == 2


def test_a_model_that_gives_nan_is_named(model):
    broken = with_values(model, fc1_beta=np.nan)
    with refused("finite", kind=PictureError) as caught:
        verify(Embedder(broken, image_shape=TINY_SHAPE), pair_set())
    assert caught.value.name == "faces: pair 0"


def test_images_have_the_size_of_most_networks_by_default():
    assert TINY_SHAPE != (112, 112, 3)
    assert Embedder(tiny_model((112, 112, 3))).image_shape == (112, 112, 3)
