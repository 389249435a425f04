from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.miniweb.drawing import COLOURS, render
from capfilt.miniweb.scenery import background
from capfilt.miniweb.world import HARD, TOO_ALIKE, Scene, Thing, World, sample_scene

CENTRES = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74), "centre": (0.5, 0.5)}


def shown(seed: int = 0, width: int = 120, height: int = 100, **changes: str) -> np.ndarray:
    attributes = {"colour": "red", "shape": "circle", "size": "big", "texture": "plain", "place": "centre"} | changes
    scene = Scene((Thing(**attributes),), None, "bricks")
    return np.asarray(render(scene, width=width, height=height, rng=Random(seed))).astype(int)


def reds(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 150) & (pixels[..., 1] < 90)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(24, 400), st.integers(24, 400), st.sampled_from(["quick", "hard"]))
def test_any_scene_fits_any_format_and_is_the_same_again(seed: int, width: int, height: int, preset: str) -> None:
    scene = sample_scene(World(preset), Random(seed))
    first, second = (render(scene, width=width, height=height, rng=Random(seed)) for _ in range(2))
    assert first.size == (width, height)
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("place", CENTRES)
def test_a_thing_is_at_the_place_that_is_said(place: str) -> None:
    for seed in range(5):
        rows, columns = np.nonzero(reds(shown(seed, place=place)))
        assert columns.mean() / 120 == pytest.approx(CENTRES[place][0], abs=0.1)
        assert rows.mean() / 100 == pytest.approx(CENTRES[place][1], abs=0.1)


def test_the_smallest_big_thing_is_larger_than_the_largest_small_one() -> None:
    big = [reds(shown(seed, size="big")).sum() for seed in range(20)]
    small = [reds(shown(seed, size="small")).sum() for seed in range(20)]
    assert min(big) > 1.8 * max(small)


def test_stripes_take_a_visible_part_of_the_thing() -> None:
    plain, striped = (reds(shown(texture=texture)).sum() for texture in ("plain", "striped"))
    assert 0.3 < striped / plain < 0.8


def test_two_pictures_of_one_scene_differ() -> None:
    assert (shown(1) != shown(2)).any()


@pytest.mark.parametrize("name", HARD.backgrounds)
def test_an_allowed_colour_stands_out_from_its_background(name: str) -> None:
    behind = np.asarray(background(name, 64, 64, Random(0))).reshape(-1, 3).mean(0)
    allowed = set(COLOURS) - TOO_ALIKE[name]
    assert len(allowed) >= 5
    for colour in allowed:
        assert np.abs(behind - COLOURS[colour]).max() > 60, colour


def test_names_outside_the_world_are_refused() -> None:
    with pytest.raises(ValueError, match="blob"):
        shown(shape="blob")
    with pytest.raises(ValueError, match="moon base"):
        background("moon base", 32, 32, Random(0))
