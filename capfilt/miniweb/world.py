"""What a picture of the small web may show: things, scenes, and the vocabulary that they are drawn from.

Knows neither how a scene looks (`drawing`) nor how it is told (`language`).
"""

import json
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Literal, Self

Preset = Literal["quick", "hard"]

CONVERSE = {"left of": "right of", "above": "below", "inside": "around"}
"""Relations as a scene stores them (first thing to second), and how the second stands to the first."""

PLACES = ("left", "right", "top", "bottom", "centre")
PLACES_BY_RELATION = {"left of": ("left", "right"), "above": ("top", "bottom"), "inside": ("centre", "centre")}

TOO_ALIKE: dict[str, frozenset[str]] = {
    "grass": frozenset({"green"}),
    "sky": frozenset({"blue", "white"}),
    "sand": frozenset({"yellow", "white"}),
    "bricks": frozenset(),
    "night": frozenset({"black", "blue", "purple"}),
    "water": frozenset({"blue", "green"}),
    "wood": frozenset({"orange", "black", "red"}),
    "paper": frozenset({"white", "yellow"}),
}
"""Colours that would not stand out on a background."""

UNSEEN_COMBINATIONS = frozenset(
    {("red", "ring"), ("blue", "circle"), ("green", "triangle"), ("purple", "bar"), ("orange", "cross")}
)
"""(colour, shape) that no picture or text shows unless `World.unseen`: kept for the confirmation seeds."""

FILLED = ("circle", "square", "diamond")  # shapes with room for another thing inside


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    size: str
    texture: str
    place: str


@dataclass(frozen=True)
class Scene:
    """One thing at a place, or two things of which the first stands in `relation` to the second."""

    things: tuple[Thing, ...]
    relation: str | None
    background: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(tuple(Thing(**thing) for thing in fields["things"]), fields["relation"], fields["background"])


@dataclass(frozen=True)
class Vocabulary:
    colours: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
    shapes: tuple[str, ...] = ("circle", "bar", "triangle", "ring", "cross")
    sizes: tuple[str, ...] = ("small", "big")
    textures: tuple[str, ...] = ("plain", "striped")
    places: tuple[str, ...] = PLACES
    relations: tuple[str, ...] = ("left of", "above")
    backgrounds: tuple[str, ...] = ("grass", "sky", "sand", "bricks")


QUICK = Vocabulary()
HARD = Vocabulary(
    shapes=(*QUICK.shapes, "square", "star", "heart", "diamond", "moon"),
    textures=(*QUICK.textures, "dotted"),
    relations=(*QUICK.relations, "inside"),
    backgrounds=(*QUICK.backgrounds, "night", "water", "wood", "paper"),
)


@dataclass(frozen=True)
class World:
    """The vocabulary of a preset, and which combinations of it may appear."""

    preset: Preset = "quick"
    unseen: bool = False
    two_things: float = 0.33  # share of scenes with two things
    vocabulary: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", QUICK if self.preset == "quick" else HARD)

    def allows(self, scene: Scene) -> bool:
        """True where every thing stands out, colours differ and no combination is kept for later."""
        colours = [thing.colour for thing in scene.things]
        if len(set(colours)) < len(colours) or TOO_ALIKE[scene.background] & set(colours):
            return False
        return self.unseen or not any((thing.colour, thing.shape) in UNSEEN_COMBINATIONS for thing in scene.things)


def sample_scene(world: World, rng: Random) -> Scene:
    """A scene that `world` allows. Background, number of things and relation come first, so their shares are as stated."""
    words = world.vocabulary
    background = rng.choice(words.backgrounds)
    relation = rng.choice(words.relations) if rng.random() < world.two_things else None
    while True:
        scene = _scene(words, relation, background, rng)
        if world.allows(scene):
            return scene


def _scene(words: Vocabulary, relation: str | None, background: str, rng: Random) -> Scene:
    if relation is None:
        return Scene((_thing(words, rng.choice(words.places), rng),), None, background)
    first, second = (_thing(words, place, rng) for place in PLACES_BY_RELATION[relation])
    if relation == "inside":  # a small thing in a big one that is filled in the middle
        outer = rng.choice([shape for shape in FILLED if shape in words.shapes])
        first = replace(first, size="small", texture="plain")
        second = replace(second, size="big", texture="plain", shape=outer)
    return Scene((first, second), relation, background)


def _thing(words: Vocabulary, place: str, rng: Random) -> Thing:
    return Thing(rng.choice(words.colours), rng.choice(words.shapes), rng.choice(words.sizes), rng.choice(words.textures), place)
