from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.miniweb.language import claims, is_true
from capfilt.miniweb.noise import SHARES, UNSEEN_SHARES, draw_kind, draw_text, shares
from capfilt.miniweb.world import UNSEEN_COMBINATIONS, World, sample_scene

worlds = st.builds(World, st.sampled_from(["quick", "hard"]), st.booleans())


@settings(max_examples=200)
@given(worlds, st.integers(0, 2**32), st.booleans(), st.sampled_from([*SHARES, *UNSEEN_SHARES]))
def test_the_truth_of_a_text_follows_its_kind(world: World, seed: int, is_same: bool, kind: str) -> None:
    rng = Random(seed)
    scene = sample_scene(world, rng)
    other = scene if is_same else sample_scene(world, rng)  # another picture may well show the same
    text = draw_text(kind, scene, other, world=world, rng=rng)
    if kind != "truncated":
        assert is_true(text, scene) == (kind == "correct")
    assert (text.strip() == "") == (kind == "empty")
    if kind in ("correct", "partly_wrong", "other_picture"):
        stated = claims(text)
        assert stated is not None
        assert stated.is_well_formed


@given(st.integers(0, 2**32), st.sampled_from(["correct", "partly_wrong", "other_picture", "truncated"]))
def test_no_text_of_the_seen_world_names_a_combination_kept_for_later(seed: int, kind: str) -> None:
    rng = Random(seed)
    world = World()
    stated = claims(draw_text(kind, sample_scene(world, rng), sample_scene(world, rng), world=world, rng=rng))
    for thing in stated.things if stated else []:
        assert (thing.get("colour"), thing["shape"]) not in UNSEEN_COMBINATIONS


def test_some_truncated_texts_stay_true_and_most_do_not() -> None:
    world, rng = World(), Random(0)
    scenes = [sample_scene(world, rng) for _ in range(500)]
    kept = sum(is_true(draw_text("truncated", scene, scene, world=world, rng=rng), scene) for scene in scenes)
    assert 25 < kept < 250


@pytest.mark.parametrize("unseen", [False, True])
def test_shares_add_up_and_are_drawn(unseen: bool) -> None:
    world, rng = World(unseen=unseen), Random(0)
    table = shares(world)
    kinds = [draw_kind(world, rng) for _ in range(4000)]
    assert sum(table.values()) == pytest.approx(1)
    assert ("listing" in kinds) == unseen
    for kind, share in table.items():
        assert kinds.count(kind) / 4000 == pytest.approx(share, abs=0.03)


def test_an_unknown_kind_is_refused() -> None:
    scene = sample_scene(World(), Random(0))
    with pytest.raises(ValueError, match="poem"):
        draw_text("poem", scene, scene, world=World(), rng=Random(0))
