"""Small data for `capfilt evaluate` from scenes whose truth is known: questions, statements, pairs of pictures, labels, clips.

    python -m capfilt.miniweb.tasks FOLDER --rows 400 --seed 0

    {train,test}-vqa.parquet          image, question, answer
    {train,test}-entailment.parquet   image, text, label          entailment, neutral, contradiction
    {train,test}-two_images.parquet   image, image_2, text, label true, false
    {train,test}-labelled.parquet     image, colour, shape, label
    {train,test}-pairs.parquet        image, captions
    {train,test}-clips.parquet        frames, captions, label     what the thing does

The same arguments give the same bytes. Knows nothing of models. A guess without looking is right in half of `two_images` and of
`entailment`: half of all statements are false, and half of all say something that no picture shows.
"""

import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from capfilt.miniweb.drawing import CENTRES, DIAMETERS, draw_thing, render
from capfilt.miniweb.language import describe, is_true
from capfilt.miniweb.scenery import background
from capfilt.miniweb.world import Scene, Thing, World, sample_scene

Row = dict[str, Any]
SIDE = 64
FRAMES = 20
ACTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "growing": (0.0, 0.0)}
HIDDEN = ("heavy", "light", "cheap", "old", "new")
"""Of a thing, and not to be seen."""
MIDDLE = {"centre": "middle"}
BINARY, TEXT = pa.binary(), pa.string()
SCHEMAS = {
    "vqa": pa.schema([("image", BINARY), ("question", TEXT), ("answer", TEXT)]),
    "entailment": pa.schema([("image", BINARY), ("text", TEXT), ("label", TEXT)]),
    "two_images": pa.schema([("image", BINARY), ("image_2", BINARY), ("text", TEXT), ("label", TEXT)]),
    "labelled": pa.schema([("image", BINARY), ("colour", TEXT), ("shape", TEXT), ("label", TEXT)]),
    "pairs": pa.schema([("image", BINARY), ("captions", pa.list_(TEXT))]),
    "clips": pa.schema([("frames", pa.list_(BINARY)), ("captions", pa.list_(TEXT)), ("label", TEXT)]),
}


def build_tasks(
    folder: Path, *, rows: int, seed: int, world: World = World(two_things=0.33), names: Sequence[str] = tuple(SCHEMAS)
) -> None:
    """Write all files, or those `names` says, `rows` rows to learn from and half as many to measure on."""
    folder.mkdir(parents=True, exist_ok=True)
    make: dict[str, Callable[[World, Random], Row]] = {
        "vqa": question,
        "entailment": statement,
        "two_images": comparison,
        "labelled": labelled,
        "pairs": pair,
        "clips": clip,
    }
    for name in names:
        for part, count in (("train", rows), ("test", max(1, rows // 2))):
            made = [make[name](world, Random(f"{seed}/{part}/{name}/{number}")) for number in range(count)]
            pq.write_table(pa.Table.from_pylist(made, SCHEMAS[name]), folder / f"{part}-{name}.parquet")


def question(world: World, rng: Random) -> Row:
    """What colour, what shape, where, how many, whether, on what."""
    scene = sample_scene(world, rng)
    thing = rng.choice(scene.things)
    only_shape = all(other is thing or other.shape != thing.shape for other in scene.things)
    asked = ["shape", "where", "count", "whether", "background", *(["colour"] * 2 if only_shape else [])]
    match rng.choice(asked):
        case "colour":
            told = (f"what colour is the {thing.shape}?", thing.colour)
        case "shape":
            told = (f"what shape is the {thing.colour} thing?", thing.shape)
        case "where":
            told = (f"where is the {thing.colour} {thing.shape}?", MIDDLE.get(thing.place, thing.place))
        case "count":
            told = ("how many things are there?", ("one", "two")[len(scene.things) - 1])
        case "whether":
            shown = {(other.colour, other.shape) for other in scene.things}
            while True:
                asked_for = rng.choice([(thing.colour, thing.shape), (rng.choice(world.vocabulary.colours), thing.shape)])
                if asked_for[0] == thing.colour or asked_for not in shown:
                    break
            told = (f"is there a {' '.join(asked_for)}?", "yes" if asked_for in shown else "no")
        case _:
            told = ("what is in the background?", scene.background)
    return {"image": _encoded(_picture(scene, rng)), "question": told[0], "answer": told[1]}


def statement(world: World, rng: Random) -> Row:
    """True or false, with or without something that no picture shows: such a text is neutral unless it is false anyway."""
    scene = sample_scene(world, rng)
    text = describe(scene, rng) if rng.random() < 0.5 else _false(world, scene, rng)
    holds = is_true(text, scene)
    is_hidden = rng.random() < 0.5
    if is_hidden:
        article, rest = ("", text) if not text.startswith(("a ", "an ")) else text.split(" ", 1)
        hidden = rng.choice(HIDDEN)
        text = f"{'an' if hidden[0] in 'aeiou' else 'a'} {hidden} {rest}" if article else f"{text} and it is {hidden}"
    label = "contradiction" if not holds else "neutral" if is_hidden else "entailment"
    return {"image": _encoded(_picture(scene, rng)), "text": text, "label": label}


def comparison(world: World, rng: Random) -> Row:
    """A statement about two pictures of one thing each: fairly true or false."""
    alone = replace(world, two_things=0.0)
    first, second = sample_scene(alone, rng), sample_scene(alone, rng)
    a, b = first.things[0], second.things[0]
    wanted = rng.random() < 0.5
    kind = rng.choice(("same_colour", "each", "left_has"))
    if kind == "same_colour":
        while (a.colour == b.colour) != wanted:
            second = sample_scene(alone, rng)
            b = second.things[0]
        text = "both pictures show things of the same colour"
    elif kind == "each":
        colour = a.colour if rng.random() < 0.5 else b.colour
        while (a.colour == b.colour == colour) != wanted:
            first, second = sample_scene(alone, rng), sample_scene(alone, rng)
            a, b = first.things[0], second.things[0]
            colour = a.colour if rng.random() < 0.5 else b.colour
        text = f"there is a {colour} thing in each picture"
    else:
        colours = [a.colour] if wanted else [c for c in world.vocabulary.colours if c != a.colour]
        text = f"the first picture shows a {rng.choice(colours)} thing"
    images = [_encoded(_picture(scene, rng)) for scene in (first, second)]
    return {"image": images[0], "image_2": images[1], "text": text, "label": str(wanted).lower()}


def labelled(world: World, rng: Random) -> Row:
    scene = sample_scene(replace(world, two_things=0.0), rng)
    thing = scene.things[0]
    name = f"{thing.colour} {thing.shape}"
    return {"image": _encoded(_picture(scene, rng)), "colour": thing.colour, "shape": thing.shape, "label": name}


def pair(world: World, rng: Random) -> Row:
    scene = sample_scene(world, rng)
    return {"image": _encoded(_picture(scene, rng)), "captions": [describe(scene, rng) for _ in range(2)]}


def clip(world: World, rng: Random) -> Row:
    """One thing that moves or grows through `FRAMES` frames."""
    scene = sample_scene(replace(world, two_things=0.0), rng)
    thing = replace(scene.things[0], place="centre", size="small")
    action = rng.choice(tuple(ACTIONS))
    does = "growing" if action == "growing" else f"moving {action}"
    article = "an" if thing.colour[0] in "aeiou" else "a"
    frames = [_encoded(frame) for frame in _frames(scene.background, thing, action, rng)]
    return {"frames": frames, "captions": [f"{article} {thing.colour} {thing.shape} {does}"], "label": action}


def _frames(behind: str, thing: Thing, action: str, rng: Random) -> Iterator[Image.Image]:
    scenery = background(behind, SIDE, SIDE, rng)
    looks = rng.random()  # shade and tilt stay as they are
    x, y = (rng.uniform(centre - 0.05, centre + 0.05) for centre in CENTRES["centre"])
    diameter = rng.uniform(*DIAMETERS["small"])
    across, along = ACTIONS[action]
    for number in range(FRAMES):
        way = number / (FRAMES - 1) - 0.5
        grown = 1.6 ** (2 * way) if action == "growing" else 1.0
        frame = scenery.copy()
        place = ((x + 0.5 * way * across) * SIDE, (y + 0.5 * way * along) * SIDE)
        draw_thing(frame, thing, *place, diameter * grown * SIDE, Random(looks))
        yield frame


def _false(world: World, scene: Scene, rng: Random) -> str:
    """A text about another scene, alike but for one attribute of one thing where that makes it false."""
    while True:
        which = rng.randrange(len(scene.things))
        attribute, choices = rng.choice((("colour", world.vocabulary.colours), ("shape", world.vocabulary.shapes)))
        changed = replace(scene.things[which], **{attribute: rng.choice(choices)})
        things = tuple(changed if i == which else thing for i, thing in enumerate(scene.things))
        text = describe(replace(scene, things=things), rng)
        if not is_true(text, scene):
            return text


def _picture(scene: Scene, rng: Random) -> Image.Image:
    return render(scene, width=SIDE, height=SIDE, rng=rng)


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write small data for `capfilt evaluate`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=400, help="To learn from; half as many to measure on.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=tuple(SCHEMAS), default=tuple(SCHEMAS), help="These files.")
    arguments = parser.parse_args()
    build_tasks(arguments.folder, rows=arguments.rows, seed=arguments.seed, names=arguments.only)
