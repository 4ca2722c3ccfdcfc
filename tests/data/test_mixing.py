"""A mixture lies between its two faces, everywhere with another weight, and is the same for equal generators."""

import numpy as np
import pytest
from PIL import Image

from denseface.data.mixing import mix_faces


def face(seed, channels=3, size=(40, 48)):
    coarse = np.random.default_rng(seed).integers(60, 200, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))[:, :, :channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_generators_give_equal_mixtures_and_the_faces_are_kept(channels):
    one, other = face(0, channels), face(1, channels)
    before = one.copy(), other.copy()
    mixed = [mix_faces(one, other, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert mixed[0].dtype == np.uint8 and mixed[0].shape == one.shape
    np.testing.assert_array_equal(mixed[0], mixed[1])
    assert (mixed[0] != mixed[2]).any()
    np.testing.assert_array_equal((one, other), before)


def test_a_mixture_lies_between_faces_of_equal_contrast():
    one = face(0)
    other = one[:, ::-1]  # its mean and contrast are the same
    low, high = np.minimum(one, other).astype(int) - 1, np.maximum(one, other).astype(int) + 1
    shares = []
    for seed in range(50):
        mixed = mix_faces(one, other, np.random.default_rng(seed)).astype(int)
        assert ((low <= mixed) & (mixed <= high)).all()
        differ = np.abs(one.astype(int) - other) > 20
        weight = ((mixed - other) / np.where(differ, one.astype(int) - other, 1))[differ]
        shares.append((weight.mean(), weight.std()))
    means, spreads = np.array(shares).T
    assert 0.4 < means.mean() < 0.6  # no side is preferred
    assert spreads.mean() > 0.1  # the weight differs over the picture


def test_the_other_face_takes_over_mean_and_contrast():
    one = face(0)
    pale = (100 + (one.astype(float) - 100) / 4).astype(np.uint8)[:, ::-1]
    mixed = mix_faces(one, pale, np.random.default_rng(0)).astype(int)
    expected = mix_faces(one, one[:, ::-1], np.random.default_rng(0))
    assert np.abs(mixed - expected).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (40, 48)])
def test_flat_and_tiny_pictures_are_mixed_too(size):
    flat = np.full((*size, 3), 90, np.uint8)
    np.testing.assert_array_equal(mix_faces(flat, np.full_like(flat, 200), np.random.default_rng(0)), flat)
