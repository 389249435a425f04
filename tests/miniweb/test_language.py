from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from capfilt.miniweb.language import VOCABULARY, claims, describe, is_true, states_whole_scene
from capfilt.miniweb.world import Scene, Thing, World, sample_scene

RED = Thing("red", "circle", "big", "striped", "left")
BLUE = Thing("blue", "star", "small", "plain", "right")
ALONE = Scene((RED,), None, "grass")
BOTH = Scene((RED, BLUE), "left of", "sand")

seeds = st.integers(0, 2**32)
scenes = st.builds(
    lambda seed, preset: sample_scene(World(preset, unseen=True), Random(seed)), seeds, st.sampled_from(["quick", "hard"])
)


@given(scenes, seeds)
def test_a_description_is_true_short_and_made_of_the_worlds_words(scene: Scene, seed: int) -> None:
    text = describe(scene, Random(seed))
    words = text.split()
    assert is_true(text, scene)
    assert is_true(f"a picture of {text}.", scene)
    assert set(words) <= VOCABULARY
    assert 5 <= len(words) <= 19


def test_the_vocabulary_has_fewer_than_a_hundred_words() -> None:
    assert len(VOCABULARY) < 100


@given(scenes)
def test_most_descriptions_state_the_whole_scene_in_several_wordings(scene: Scene) -> None:
    texts = [describe(scene, Random(seed)) for seed in range(60)]
    assert len(set(texts)) >= 5  # a plain thing on its own, the scene with the fewest words
    assert sum(states_whole_scene(text, scene) for text in texts) >= 36


@given(scenes, seeds, st.sampled_from(["colour", "shape", "size", "texture"]))
def test_a_whole_description_is_false_of_a_scene_with_another_attribute(scene: Scene, seed: int, attribute: str) -> None:
    assume(attribute != "texture" or scene.things[0].texture != "plain")  # plain goes without saying
    text = next(text for k in range(100) if states_whole_scene(text := describe(scene, Random(seed + k)), scene))
    changed = replace(scene.things[0], **{attribute: "something else"})
    assert not is_true(text, replace(scene, things=(changed, *scene.things[1:])))
    assert not is_true(text, replace(scene, background="something else"))


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "a circle",
        "A big red circle on the left",
        "grass with a large striped red circle",
        "a big red circle with stripes on grass on the left",
        "red circle on grass",
    ],
)
def test_a_part_of_the_truth_is_true(text: str) -> None:
    assert is_true(text, ALONE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "grass",
        "a big red",
        "a red circle on the",  # hanging
        "a red circle and",
        "a red circle left of",
        "a red blue circle",  # contradicts itself
        "a red red circle",
        "a a red circle",
        "a red circle on the left on the right",
        "a red circle on grass on sand",
        "a red circle with a red circle",
        "on grass a red circle",
        "a red circle poster",  # a word that the world does not have
        "IMG_2034.JPG",
        "roter Kreis links",
        "a red circle and a blue star",  # one thing too many
        "a red circle above a red circle",
        "a red triangle",
        "a red circle on sand",
        "a red circle in the middle",
    ],
)
def test_a_wrong_hanging_or_foreign_text_is_false(text: str) -> None:
    assert not is_true(text, ALONE)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("a red circle left of a blue star", True),
        ("a red circle to the left of a blue star", True),
        ("a blue star right of a red circle", True),
        ("a blue star on the right and a red circle on the left", True),
        ("a star and a circle on sand", True),
        ("a small blue star", True),
        ("a blue star left of a red circle", False),
        ("a red circle above a blue star", False),
        ("a red star left of a blue circle", False),  # right words, wrong things
        ("a circle and a circle", False),  # no two circles
        ("a red circle and a blue star and a star", False),
    ],
)
def test_attributes_belong_to_their_things_and_relations_have_a_direction(text: str, truth: bool) -> None:
    assert is_true(text, BOTH) is truth


def test_claims_are_read_per_thing() -> None:
    stated = claims("sand with a tiny blue star with stripes under an orange cross on the left")
    assert stated is not None
    assert stated.things == [
        {"size": "small", "colour": "blue", "shape": "star", "texture": "striped"},
        {"colour": "orange", "shape": "cross", "place": "left"},
    ]
    assert stated.relations == [(0, "below", 1)]
    assert stated.background == "sand"
    assert stated.is_well_formed


@given(st.lists(st.sampled_from([*sorted(VOCABULARY), "xyz"]), max_size=25).map(" ".join))
def test_any_words_can_be_read_and_none_without_a_shape(text: str) -> None:
    stated = claims(text)
    if stated is None:
        assert not is_true(text, ALONE)
        assert not is_true(text, BOTH)
    else:
        assert all("shape" in thing for thing in stated.things)


def test_the_whole_scene_needs_every_attribute_and_the_background() -> None:
    assert states_whole_scene("a big striped red circle on the left on grass", ALONE)
    assert not states_whole_scene("a big striped red circle on the left", ALONE)
    assert not states_whole_scene("a big red circle on the left on grass", ALONE)
    assert states_whole_scene("sand with a small plain blue star right of a big striped red circle", BOTH)
    assert not states_whole_scene("sand with a small plain blue star and a big striped red circle", BOTH)
    assert not states_whole_scene("a small plain blue star on the right on sand", BOTH)
