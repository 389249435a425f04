import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capfilt.training.augment import OPERATIONS, _crop, augment
from capfilt.training.pictures import Pictures


def drawn(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8))


@given(width=st.integers(1, 500), height=st.integers(1, 500), scale=st.sampled_from([0.2, 0.5]), seed=st.integers(0, 2**32))
def test_a_crop_lies_inside_and_keeps_its_share(width, height, scale, seed):
    left, top, right, bottom = _crop(width, height, scale, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if min(width, height) > 50 and 3 / 4 <= width / height <= 4 / 3:
        assert (right - left) * (bottom - top) >= scale * width * height * 0.95


def test_the_same_numbers_give_the_same_picture_and_others_another():
    made = [np.asarray(augment(drawn(), 16, 0.5, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert made[0].shape == (16, 16, 3)
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()


def test_the_operations_are_blips_at_magnitude_five():
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    changed = [np.asarray(operation(white, 1.0)) for operation in OPERATIONS]
    # Equalising and autocontrast leave one colour alone; shears, shifts and rotation bring in the grey of the border.
    assert [bool((x != 255).any()) for x in changed] == [False] * 5 + [True] * 5
    assert (changed[7][:, 95:] == 128).all()
    assert (changed[7][:, :95] == 255).all()
    assert len(OPERATIONS) == 10


def test_about_half_are_mirrored():
    half = Image.new("RGB", (32, 32), (0, 0, 0))
    half.paste((255, 255, 255), (16, 0, 32, 32))
    darker = [np.asarray(augment(half, 8, 0.9, np.random.default_rng(seed)))[:, :2].mean() for seed in range(200)]
    assert 60 < sum(value > 128 for value in darker) < 140


def test_a_picture_changes_with_its_place_in_the_stream_alone(tmp_path, picture):
    def change(image, place):
        return augment(image, 8, 0.2, np.random.default_rng([7, place]))

    with Pictures(8, 2, spool=tmp_path / "s", change=change) as pictures:
        pictures.add([picture(0), picture(1)], ["a", "b"])
        first = pictures.take(np.array([0, 1]), np.array([5, 6]))
        assert (pictures.take(np.array([1]), np.array([6]))[0] == first[1]).all()
        assert (pictures.take(np.array([0]), np.array([9]))[0] != first[0]).any()
