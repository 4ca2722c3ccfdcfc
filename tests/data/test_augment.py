"""Augmentation does what the configuration says, equally for equal generators, and never adds black."""

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.augment import Augmentation
from denseface.data.pose import turn_head

OFF = {"mirror": False}


def picture(channels=3, size=(40, 48), seed=0):
    """Smooth random blobs, bright enough that black stands out."""
    height, width = size
    coarse = np.random.default_rng(seed).integers(60, 200, (6, 6, 3), dtype=np.uint8)
    fine = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(fine[:, :, :channels])


def outcomes(augmentation, image, count=60):
    return [augmentation(image, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"color": 1},
        {"color": 2},
        {"cutoff": 9},
        {"rotate": 15},
        {"scale": 0.2},
        {"shift": 0.1},
        {"yaw": 25},
        {"pitch": 10},
    ]
    + [{"crop": 0.8}, {"downsample": 5}, {"blur": 3}]
    + [
        {
            "color": 2,
            "cutoff": 9,
            "rotate": 15,
            "scale": 0.2,
            "shift": 0.1,
            "yaw": 20,
            "crop": 0.8,
            "downsample": 5,
            "blur": 3,
        }
    ],
)
def test_equal_generators_give_equal_pictures_and_the_input_is_kept(values, channels):
    image = picture(channels)
    before = image.copy()
    image.setflags(write=False)
    first, again = outcomes(Augmentation(**values), image), outcomes(Augmentation(**values), image)
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.uint8 and one.shape == image.shape
    assert any((one != image).any() for one in first)
    np.testing.assert_array_equal(image, before)


def test_everything_off_changes_nothing():
    image = picture()
    for outcome in outcomes(Augmentation(**OFF), image, count=5):
        np.testing.assert_array_equal(outcome, image)


def test_mirror_happens_half_the_time():
    image = picture()
    mirrored = 0
    for outcome in outcomes(Augmentation(), image, count=400):
        if (outcome != image).any():
            np.testing.assert_array_equal(outcome, image[:, ::-1])
            mirrored += 1
    assert 150 < mirrored < 250


def test_cutoff_is_a_gray_square_half_the_time():
    image = picture()
    cut = [outcome for outcome in outcomes(Augmentation(cutoff=7, **OFF), image, 400) if (outcome != image).any()]
    assert 150 < len(cut) < 250
    sizes = set()
    for outcome in cut:
        rows, columns = np.nonzero((outcome != image).any(axis=2))
        square = outcome[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (square == 128).all()
        sizes.add(square.shape[:2])
    assert max(sizes) == (7, 7)
    assert min(sizes) < (7, 7), "a center near the border cuts less"


@pytest.mark.parametrize("cutoff", [1, 1000])
def test_cutoff_of_any_size(cutoff):
    image = picture()
    cut = [outcome for outcome in outcomes(Augmentation(cutoff=cutoff, **OFF), image) if (outcome != image).any()]
    assert cut
    assert all((outcome != image).any(axis=2).sum() <= cutoff**2 for outcome in cut)


class FixedDraws:
    """Stands for a generator whose color order and factors are known."""

    def __init__(self, order, factors):
        self.order, self.factors = order, iter(factors)

    def permutation(self, kinds):
        assert sorted(kinds) == sorted(self.order)
        return self.order

    def uniform(self, low, high):
        factor = next(self.factors)
        assert low <= factor <= high
        return factor


@pytest.mark.parametrize("order", ["brightness contrast saturation", "contrast saturation brightness"])
def test_color_is_the_three_jitters_one_after_the_other(order):
    image, factors = picture(), (0.9, 1.1, 1.05)
    expected = image.astype(np.float64)
    for kind, alpha in zip(order.split(), factors):
        gray = expected @ (0.299, 0.587, 0.114)
        rest = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[:, :, np.newaxis]}[kind]
        expected = alpha * expected + (1 - alpha) * rest
    outcome = Augmentation(color=1, **OFF)(image, FixedDraws(order.split(), factors))
    assert np.abs(outcome - expected).max() <= 0.501


def test_color_stays_within_its_bounds_and_saturates():
    for value in (0, 255):
        image = np.full((8, 8, 3), value, np.uint8)
        changes = [int(outcome[0, 0, 0]) for outcome in outcomes(Augmentation(color=1, **OFF), image)]
        assert min(changes) >= 255 * 0.87 if value else max(changes) == 0


def test_saturation_leaves_gray_pictures_gray():
    image = np.repeat(picture(channels=1), 3, axis=2)
    for outcome in outcomes(Augmentation(color=1, **OFF), image):
        assert np.ptp(outcome.astype(int), axis=2).max() <= 1


def test_color_2_compresses_half_the_time(monkeypatch):
    qualities = []
    save = Image.Image.save
    monkeypatch.setattr(
        Image.Image, "save", lambda self, file, **how: (qualities.append(how["quality"]), save(self, file, **how))
    )
    outcomes(Augmentation(color=1, **OFF), picture(size=(8, 8)), 100)
    assert not qualities
    outcomes(Augmentation(color=2, **OFF), picture(size=(8, 8)), 600)
    assert 240 < len(qualities) < 360
    assert (min(qualities), max(qualities)) == (2, 20)


@pytest.mark.parametrize("values", [{"rotate": 180}, {"scale": 0.5}, {"shift": 0.5}])
def test_a_warp_repeats_the_border(values):
    image = picture()
    for outcome in outcomes(Augmentation(**values, **OFF), image):
        assert image.min() - 1 <= outcome.min() and outcome.max() <= image.max() + 1


def test_shift_moves_the_picture_by_up_to_that_fraction():
    image = np.full((41, 41, 1), 50, np.uint8)
    image[20, 20] = 250
    places = [np.argwhere(o[:, :, 0] == o.max()).mean(axis=0) for o in outcomes(Augmentation(shift=0.2, **OFF), image)]
    spread = np.abs(np.array(places) - 20).max(axis=0)
    assert (spread > 6).all() and (spread <= 8.7).all()


def test_rotation_turns_about_the_center():
    y, x = np.mgrid[-20:21, -20:21]
    radius = np.hypot(x, y)
    rings = np.clip(128 + 100 * np.cos(radius / 4), 0, 255).astype(np.uint8)[:, :, np.newaxis]
    inside = radius < 19
    for outcome in outcomes(Augmentation(rotate=90, **OFF), rings, 10):
        assert np.abs(outcome.astype(int) - rings)[inside].max() <= 8


def test_rotation_reaches_its_limit_to_both_sides_and_no_further():
    y, x = np.mgrid[-40:41, -40:41]
    bar = np.where(np.abs(y) <= 1, 255, 0).astype(np.uint8)[:, :, np.newaxis]
    angles = []
    for outcome in outcomes(Augmentation(rotate=20, **OFF), bar):
        weight = np.where(np.hypot(x, y) < 35, outcome[:, :, 0], 0).astype(float)
        angles.append(
            np.degrees(0.5 * np.arctan2(2 * (weight * x * y).sum(), (weight * x * x).sum() - (weight * y * y).sum()))
        )
    assert -20.5 < min(angles) < -15 and 15 < max(angles) < 20.5


def test_scale_changes_size_about_the_center():
    image = np.full((61, 61, 1), 20, np.uint8)
    image[20:41, 20:41] = 220
    sides = []
    for outcome in outcomes(Augmentation(scale=0.3, **OFF), image):
        rows = np.flatnonzero(outcome[:, 30, 0] > 120)
        assert abs(rows.mean() - 30) <= 0.5
        sides.append(len(rows))
    assert 14 <= min(sides) <= 16 and 26 <= max(sides) <= 28


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mirror", "yes"),
        ("color", -1),
        ("color", 1.5),
        ("cutoff", True),
        ("cutoff", "16"),
        ("rotate", -5),
        ("rotate", 181),
        ("scale", float("nan")),
        ("scale", 0.6),
        ("shift", float("inf")),
        ("shift", None),
        ("yaw", 46),
        ("pitch", -1),
        ("crop", 0.96),
        ("downsample", True),
        ("blur", -1),
    ],
)
def test_nonsense_is_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        Augmentation(**{field: value})
    assert caught.value.option == field


def test_heads_turn_both_ways_up_to_the_given_angles():
    image = picture(size=(112, 112))
    drawn = Augmentation(yaw=25, pitch=10, **OFF)
    for seed in range(5):
        yaw, pitch = np.random.default_rng(seed).uniform((-25, -10), (25, 10))
        np.testing.assert_array_equal(drawn(image, np.random.default_rng(seed)), turn_head(image, yaw, pitch))


def test_a_crop_keeps_a_rectangle_in_its_place_one_time_in_five():
    image = picture()
    cropped = [new for new in outcomes(Augmentation(crop=0.8, **OFF), image, 1000) if (new != image).any()]
    assert 140 < len(cropped) < 260
    areas = []
    for outcome in cropped:
        rows, columns = np.nonzero((outcome != 128).any(axis=2))
        kept = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        np.testing.assert_array_equal(outcome[kept], image[kept])
        outside = outcome.copy()
        outside[kept] = 128
        assert (outside == 128).all()
        areas.append(image[kept].size / image.size)
    assert min(areas) > 0.15 and max(areas) > 0.9 and np.mean(areas) == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("values", [{"downsample": 5}, {"blur": 3}])
def test_detail_is_lost_one_time_in_five_and_brightness_is_not(values):
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    lost = [new for new in outcomes(Augmentation(**values, **OFF), image, 1000) if (new != image).any()]
    assert 140 < len(lost) < 260
    assert np.mean([new.std() for new in lost]) < 0.8 * image.std()
    assert np.mean([new.mean() for new in lost]) == pytest.approx(image.mean(), abs=2)


def test_a_factor_of_one_or_less_and_pictures_of_one_pixel_stay():
    image = picture()
    for factor in (0.5, 1):
        assert all((new == image).all() for new in outcomes(Augmentation(downsample=factor, **OFF), image))
    pixel = np.full((1, 1, 3), 7, np.uint8)
    for new in outcomes(Augmentation(crop=0.9, downsample=16, blur=10, **OFF), pixel):
        np.testing.assert_array_equal(new, pixel)
