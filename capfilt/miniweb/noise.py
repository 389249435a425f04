"""What web texts say about a picture: right, partly wrong, another picture's, or no words about it at all.

`draw_text` makes a text of a named kind; whether it happens to be true is for `language.is_true` to say.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from capfilt.miniweb.language import describe, is_true
from capfilt.miniweb.world import PLACES_BY_RELATION, Scene, World

SHARES: dict[str, float] = {
    "correct": 0.50,
    "partly_wrong": 0.15,
    "other_picture": 0.12,
    "file_name": 0.05,
    "spam": 0.05,
    "truncated": 0.05,
    "other_language": 0.04,
    "empty": 0.04,
}
UNSEEN_SHARES: dict[str, float] = {"listing": 0.06}
"""Added when `World.unseen`; the others shrink in proportion."""


def _table(words: str) -> dict[str, str]:
    english = "red orange yellow green blue purple black white circle square triangle star cross ring heart diamond moon bar"
    return dict(zip(f"{english} left right top bottom centre big small".split(), words.split(", "), strict=True))


GERMAN = _table(
    "roter, oranger, gelber, grüner, blauer, lila, schwarzer, weißer, Kreis, Quader, Keil, Stern, Stab, Ring, "
    "Herzschmuck, Diamant, Mond, Balken, links, rechts, oben, unten, mittig, großer, kleiner"
)
FRENCH = _table(
    "rouge, orangé, jaune, vert, bleu, violet, noir, blanc, cercle, carré, triangle, astre, croisillon, anneau, "
    "coeur, losange, croissant, barre, à gauche, à droite, en haut, en bas, au centre, grand, petit"
)
SPANISH = _table(
    "rojo, naranja, amarillo, verde, azul, morado, negro, blanco, círculo, cuadrado, triángulo, lucero, aspa, anillo, "
    "corazón, rombo, gajo, barra, a la izquierda, a la derecha, arriba, abajo, en el centro, grande, pequeño"
)
SPAM = (
    "buy cheap {shape} posters online best price free shipping",
    "click here for hot deals on {colour} {shape} prints",
    "{colour} wallpaper hd free download 4k {colour} {colour} best",
    "top 10 {shape} ideas you will not believe | shop now",
    "best {colour} {shape} 2024 sale sale sale coupon code",
)
LISTINGS = (
    "{size} {colour} {shape} poster 40x60 free shipping",
    "new ! {colour} {shape} canvas print size {size} in stock",
    "{texture} {shape} in {colour} | {size} | ships today",
)


def shares(world: World) -> dict[str, float]:
    """Share of every noise kind among web texts; adds up to 1."""
    if not world.unseen:
        return SHARES
    rest = 1 - sum(UNSEEN_SHARES.values())
    return {**{kind: share * rest for kind, share in SHARES.items()}, **UNSEEN_SHARES}


def draw_kind(world: World, rng: Random) -> str:
    table = shares(world)
    return rng.choices(list(table), weights=list(table.values()))[0]


def draw_text(kind: str, scene: Scene, other_scene: Scene, *, world: World, rng: Random) -> str:
    """A web text of the kind for a picture of `scene`; `other_scene` is another picture's.

    `correct` is true, `partly_wrong` and `other_picture` are false, `truncated` is what remains of a true text, and
    the rest says nothing that counts as true.
    """
    match kind:
        case "correct":
            return describe(scene, rng)
        case "partly_wrong":
            return _false_text(scene, lambda: describe(_with_one_change(scene, world, rng), rng))
        case "other_picture":
            return _false_text(
                scene, lambda: describe(other_scene, rng), lambda: describe(_with_one_change(scene, world, rng), rng)
            )
        case "file_name":
            return _file_name(rng)
        case "spam":
            return _fill(rng.choice(SPAM), scene, rng)
        case "truncated":
            words = describe(scene, rng).split()
            return " ".join(words[: rng.randint(2, len(words) - 2)])
        case "other_language":
            return _foreign(scene, rng)
        case "empty":
            return rng.choice(("", "", " "))
        case "listing":
            return _fill(rng.choice(LISTINGS), _with_one_change(scene, world, rng), rng)
        case _:
            raise ValueError(f"expected a noise kind of SHARES or UNSEEN_SHARES; found {kind!r}; add it to draw_text")


def _false_text(scene: Scene, *draws: Callable[[], str]) -> str:
    """The first false text of the draws, each tried a few times: a change may sit in an attribute that the text leaves out."""
    for draw in draws:
        for _ in range(50):
            text = draw()
            if not is_true(text, scene):
                return text
    raise AssertionError(f"no draw made a text that is false of {scene}")


def _with_one_change(scene: Scene, world: World, rng: Random) -> Scene:
    """A scene that the world allows and that differs in one attribute of one thing, in the background or in the relation."""
    words = world.vocabulary
    choices = {"colour": words.colours, "shape": words.shapes, "size": words.sizes, "texture": words.textures}
    while True:
        change = rng.choice(("colour", "colour", "shape", "shape", "size", "texture", "stand", "stand", "background"))
        if change == "background":
            changed = replace(scene, background=rng.choice(words.backgrounds))
        elif change == "stand":
            changed = _moved(scene, world, rng)
        else:
            at = rng.randrange(len(scene.things))
            thing = replace(scene.things[at], **{change: rng.choice(choices[change])})
            changed = replace(scene, things=(*scene.things[:at], thing, *scene.things[at + 1 :]))
        if changed != scene and world.allows(changed):
            return changed


def _moved(scene: Scene, world: World, rng: Random) -> Scene:
    """One thing at another place; two things with their roles exchanged or in another relation."""
    if scene.relation is None:
        return replace(scene, things=(replace(scene.things[0], place=rng.choice(world.vocabulary.places)),))
    relation = rng.choice((scene.relation, *world.vocabulary.relations))
    things = scene.things[::-1] if relation == scene.relation else scene.things
    placed = tuple(replace(thing, place=place) for thing, place in zip(things, PLACES_BY_RELATION[relation], strict=True))
    return replace(scene, things=placed, relation=relation)


def _file_name(rng: Random) -> str:
    number = rng.randrange(1, 9999)
    return rng.choice(
        (
            f"IMG_{number:04d}.JPG",
            f"DSC{number:05d}.jpg",
            f"DSC_{number:04d} NIKON D{rng.choice((70, 90, 750))}",
            f"P10{number:05d}.JPG",
            f"image-{number}-{rng.choice((300, 600, 1024))}x{rng.choice((200, 400, 768))}.jpeg",
            f"Screenshot 20{rng.randrange(10, 25)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}.png",
        )
    )


def _fill(pattern: str, scene: Scene, rng: Random) -> str:
    thing = rng.choice(scene.things)
    return pattern.format(colour=thing.colour, shape=thing.shape, size=thing.size, texture=thing.texture)


def _foreign(scene: Scene, rng: Random) -> str:
    """What the first thing is, in German (adjectives first), French or Spanish (adjectives last)."""
    table = rng.choice((GERMAN, FRENCH, SPANISH))
    thing = scene.things[0]
    words = [thing.size, thing.colour, thing.shape] if table is GERMAN else [thing.shape, thing.colour, thing.size]
    return " ".join(table[word] for word in (*words, thing.place))
