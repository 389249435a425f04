"""Scenes told in words, and words understood again: `describe`, `claims`, `is_true`.

A text is true when every attribute and relation it states holds. Reads no pixels.
"""

from dataclasses import dataclass, field
from itertools import permutations
from random import Random

from capfilt.miniweb.world import CONVERSE, HARD, Scene, Thing

SUBSET_SHARE = 0.15  # of the texts leave one attribute out

SIZE_WORDS = {"big": ("big", "large"), "small": ("small", "tiny")}
PATTERNS = {"striped": "stripes", "dotted": "dots"}
BACKGROUND_PHRASES = {
    "grass": "on grass",
    "sky": "in the sky",
    "sand": "on sand",
    "bricks": "on bricks",
    "night": "at night",
    "water": "on water",
    "wood": "on wood",
    "paper": "on paper",
}
PLACE_PHRASES = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "centre": ("in the middle", "in the centre"),
}
RELATION_PHRASES = {
    "left of": ("left of",),
    "right of": ("right of",),
    "above": ("above",),
    "below": ("below", "under"),
    "inside": ("inside",),
    "around": ("around",),
}


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────


def describe(scene: Scene, rng: Random) -> str:
    """A true text of 7 to 19 lower-case words, in one of several wordings.

    It fits behind "a picture of". Most texts state the whole scene; a few leave one attribute out.
    """
    left_out = rng.choice(("size", "texture", "background", "place")) if rng.random() < SUBSET_SHARE else None
    told = _tell_one(scene, left_out, rng) if scene.relation is None else _tell_two(scene, left_out, rng)
    if left_out == "background":
        return told
    if rng.random() < 0.25:
        return f"{scene.background} with {told}"
    return f"{told} {BACKGROUND_PHRASES[scene.background]}"


def _tell_one(scene: Scene, left_out: str | None, rng: Random) -> str:
    (thing,) = scene.things
    phrase = _noun_phrase(thing, left_out, rng)
    return phrase if left_out == "place" else f"{phrase} {rng.choice(PLACE_PHRASES[thing.place])}"


def _tell_two(scene: Scene, left_out: str | None, rng: Random) -> str:
    assert scene.relation is not None
    first, second = scene.things
    if scene.relation != "inside" and left_out == "texture":  # the longest wording; without textures it stays under 20 words
        told = [f"{_noun_phrase(thing, left_out, rng)} {PLACE_PHRASES[thing.place][0]}" for thing in (first, second)]
        rng.shuffle(told)
        return " and ".join(told)
    relation = scene.relation
    if rng.random() < 0.5:
        first, second, relation = second, first, CONVERSE[relation]
    omitted = [left_out, None]  # only one of the two things loses the attribute
    rng.shuffle(omitted)
    link = rng.choice(RELATION_PHRASES[relation]) if left_out != "place" else "and"
    return f"{_noun_phrase(first, omitted[0], rng)} {link} {_noun_phrase(second, omitted[1], rng)}"


def _noun_phrase(thing: Thing, left_out: str | None, rng: Random) -> str:
    words = [] if left_out == "size" else [rng.choice(SIZE_WORDS[thing.size])]
    pattern = PATTERNS.get(thing.texture) if left_out != "texture" and rng.random() < 0.3 else None
    if left_out != "texture" and pattern is None and thing.texture != "plain":
        words.append(thing.texture)  # plain goes without saying
    words += [thing.colour, thing.shape]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, *(["with", pattern] if pattern else [])])


# ── understanding ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Claims:
    """What a text states. Attributes are those of `Thing`; `relations` are (thing, relation, thing) by position."""

    things: list[dict[str, str]] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    background: str | None = None
    is_well_formed: bool = True  # False: unknown, hanging or doubled words; such a text is never true


def _lexicon() -> dict[tuple[str, ...], tuple[str, str]]:
    entries: dict[str, tuple[str, str]] = {"a": ("article", ""), "an": ("article", ""), "and": ("and", ""), "with": ("with", "")}
    entries["a picture of"] = ("lead", "")
    entries |= {word: ("size", size) for size, words in SIZE_WORDS.items() for word in words}
    entries |= {word: ("texture", word) for word in HARD.textures}
    entries |= {f"with {word}": ("pattern", texture) for texture, word in PATTERNS.items()}
    entries |= {word: ("colour", word) for word in HARD.colours}
    entries |= {word: ("shape", word) for word in HARD.shapes}
    entries |= {phrase: ("place", place) for place, phrases in PLACE_PHRASES.items() for phrase in phrases}
    entries |= {phrase: ("background", name) for name, phrase in BACKGROUND_PHRASES.items()}
    entries |= {name: ("scenery", name) for name in HARD.backgrounds}
    for relation, phrases in RELATION_PHRASES.items():
        entries |= dict.fromkeys(phrases, ("relation", relation))
    entries |= {f"to the {side} of": ("relation", f"{side} of") for side in ("left", "right")}
    return {tuple(phrase.split()): meaning for phrase, meaning in entries.items()}


LEXICON = _lexicon()
VOCABULARY = frozenset(word for phrase in LEXICON for word in phrase)
_LONGEST = max(map(len, LEXICON))


def _units(text: str) -> list[tuple[str, str]]:
    """(kind, value) of the phrases of a text, longest first; an unknown word has the kind `unknown`."""
    words = text.lower().removesuffix(".").split()
    units = []
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            meaning = LEXICON.get(tuple(words[at : at + length]))
            if meaning is not None:
                break
        else:
            meaning, length = ("unknown", words[at]), 1
        units.append(meaning)
        at += length
    return units


def claims(text: str) -> Claims | None:
    """What a text states, in any order a captioner may produce; None where it states no thing.

    The grammar is: ["a picture of"] [background "with"] thing {relation or "and" thing}, a thing being
    [article] adjectives shape followed by pattern, place and background. Anything else clears `is_well_formed`.
    """
    stated = Claims()
    units = _units(text)
    if units and units[0][0] == "lead":
        units = units[1:]
    if len(units) > 1 and units[0][0] == "scenery" and units[1][0] == "with":
        stated.background = units[0][1]
        units = units[2:]
    begun: dict[str, str] = {}  # attributes of a thing whose shape has not come yet
    link: str | None = None  # relation that waits for its second thing
    is_open = True  # a thing may begin here: at the start, and after a relation or "and"
    for kind, value in units:
        if kind in ("article", "size", "texture", "colour", "shape") and is_open:
            is_doubled = kind in begun or (kind == "article" and bool(begun))
            stated.is_well_formed &= not is_doubled
            begun[kind] = value
            if kind == "shape":
                begun.pop("article", None)
                stated.things.append(begun)
                if link:
                    stated.relations.append((len(stated.things) - 2, link, len(stated.things) - 1))
                begun, link, is_open = {}, None, False
        elif kind in ("pattern", "place") and stated.things and not is_open:
            attribute = "texture" if kind == "pattern" else kind
            stated.is_well_formed &= attribute not in stated.things[-1]
            stated.things[-1][attribute] = value
        elif kind == "background" and stated.things and not is_open:
            stated.is_well_formed &= stated.background is None
            stated.background = value
        elif kind in ("relation", "and") and stated.things and not is_open:
            link, is_open = (value or None), True
        else:
            stated.is_well_formed = False
    if is_open or begun:
        stated.is_well_formed = False
    return stated if stated.things else None


def is_true(text: str, scene: Scene) -> bool:
    """True where at least one thing is stated and everything stated holds, for some assignment to the scene's things."""
    stated = claims(text)
    return stated is not None and _holds(stated, scene)


def states_whole_scene(text: str, scene: Scene) -> bool:
    """True for a true text that leaves out no thing, attribute, place or relation, nor the background.

    Two things' places follow from their relation and the other way round; one of the two is enough.
    """
    stated = claims(text)
    if stated is None or not _holds(stated, scene) or stated.background is None or len(stated.things) < len(scene.things):
        return False
    if not all({"colour", "shape", "size"} <= thing.keys() for thing in stated.things):
        return False
    # What is stated holds, so it is enough to count; plain goes without saying.
    unsaid = sum(thing.texture != "plain" for thing in scene.things)
    unsaid -= sum(thing.get("texture", "plain") != "plain" for thing in stated.things)
    if unsaid > 0:
        return False
    return bool(stated.relations) or (scene.relation != "inside" and all("place" in thing for thing in stated.things))


def _holds(stated: Claims, scene: Scene) -> bool:
    if not stated.is_well_formed or stated.background not in (None, scene.background):
        return False
    return any(
        all(_is_like(thing, claim) for thing, claim in zip(order, stated.things, strict=True))
        and all(_stands(scene, order[a], relation, order[b]) for a, relation, b in stated.relations)
        for order in permutations(scene.things, len(stated.things))
    )


def _is_like(thing: Thing, claim: dict[str, str]) -> bool:
    return all(getattr(thing, name) == value for name, value in claim.items())


def _stands(scene: Scene, first: Thing, relation: str, second: Thing) -> bool:
    if scene.relation is None:
        return False
    if (first, second) == scene.things:
        return relation == scene.relation
    return relation == CONVERSE[scene.relation]
