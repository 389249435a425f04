from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.miniweb.world import TOO_ALIKE, UNSEEN_COMBINATIONS, Scene, World, sample_scene

worlds = st.builds(World, st.sampled_from(["quick", "hard"]), st.booleans(), st.floats(0, 1))
seeds = st.integers(0, 2**32)


@given(worlds, seeds)
def test_every_thing_stands_out_and_colours_differ(world: World, seed: int) -> None:
    scene = sample_scene(world, Random(seed))
    colours = [thing.colour for thing in scene.things]
    assert len(scene.things) == (1 if scene.relation is None else 2)
    assert len(set(colours)) == len(colours)
    assert not set(colours) & TOO_ALIKE[scene.background]


@given(worlds, seeds)
def test_a_scene_survives_json(world: World, seed: int) -> None:
    scene = sample_scene(world, Random(seed))
    assert Scene.from_json(scene.to_json()) == scene


def combinations(world: World) -> set[tuple[str, str]]:
    scenes = [sample_scene(world, Random(seed)) for seed in range(3000)]
    return {(thing.colour, thing.shape) for scene in scenes for thing in scene.things}


def test_only_the_unseen_world_shows_the_combinations_kept_for_it() -> None:
    assert not combinations(World()) & UNSEEN_COMBINATIONS
    assert combinations(World(unseen=True)) >= UNSEEN_COMBINATIONS


@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_the_share_of_scenes_with_two_things_is_the_one_asked_for(share: float) -> None:
    scenes = [sample_scene(World("hard", two_things=share), Random(seed)) for seed in range(3000)]
    assert sum(len(scene.things) == 2 for scene in scenes) / 3000 == pytest.approx(share, abs=0.04)
