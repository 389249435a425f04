"""The small web's files: `build` writes what the pipeline reads, what the server serves, and the truth about both.

    web.parquet        url, text                                          the pipeline's input
    human.parquet      key, image, width, height, captions                pictures with human texts
    heldout.parquet    the same columns                                   pictures for evaluation
    truth.parquet      TRUTH                                              read by `evaluate` alone
    pictures.parquet   url, url_kind, body                                read by the server alone
    labelled.parquet   key, image, width, height, label                   where `labelled_pictures` are asked for

The same config and seed give the same bytes. Knows nothing of sockets.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.miniweb import MiniwebConfig
from capfilt.miniweb.addresses import DUPLICATES, HAS_BODY, again, encode, quotas, url_kinds
from capfilt.miniweb.drawing import render
from capfilt.miniweb.language import describe, is_true
from capfilt.miniweb.noise import draw_kind, draw_text
from capfilt.miniweb.world import Scene, World, sample_scene

VERSION = 1  # of everything that changes the bytes: world, drawing, language, noise, addresses
MARK = b"capfilt.miniweb"
FILES = ("web.parquet", "human.parquet", "heldout.parquet", "truth.parquet", "pictures.parquet")
LABELLED_FILE = "labelled.parquet"

WEB = pa.schema([("url", pa.string()), ("text", pa.string())])
PAIRS = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
    ]
)
TRUTH = pa.schema(
    [
        ("url", pa.string()),  # of a web row, else null
        ("key", pa.string()),  # of a human or held-out picture, else null
        ("text", pa.string()),  # a web row's text, else the first caption
        ("text_is_true", pa.bool_()),
        ("noise_kind", pa.string()),  # of `noise.SHARES`; `human` for a key
        ("url_kind", pa.string()),  # of `addresses`; `human` or `heldout` for a key
        ("scene", pa.string()),  # JSON of a Scene: what the picture shows
        ("duplicate_of", pa.string()),  # url or key of the picture that this one repeats, else null
    ]
)
LABELLED = pa.schema([*[PAIRS.field(name) for name in ("key", "image", "width", "height")], pa.field("label", pa.string())])
PICTURES = pa.schema([("url", pa.string()), ("url_kind", pa.string()), ("body", pa.binary())])


@dataclass(frozen=True)
class Shown:
    """A picture in its encoded form."""

    scene: Scene
    width: int
    height: int
    body: bytes


def build(config: MiniwebConfig, folder: Path, *, seed: int) -> None:
    """Writes the files into `folder`, or nothing where they are there for this config and seed."""
    told = config.model_dump(mode="json", exclude=None if config.labelled_pictures else {"labelled_pictures"})
    mark = json.dumps({"version": VERSION, "seed": seed, "config": told}, sort_keys=True).encode()
    if is_built(folder, mark, (*FILES, LABELLED_FILE) if config.labelled_pictures else FILES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    world = World(config.preset, config.unseen, config.two_things)
    human = _pairs(world, "human", config.human_pairs, seed)
    heldout = _pairs(world, "heldout", config.heldout_pairs, seed)
    web, pictures, truth = _web(config, world, seed, heldout)
    tables = {
        "pictures.parquet": pa.Table.from_pylist(pictures, PICTURES),
        "web.parquet": pa.Table.from_pylist(web, WEB),
        "human.parquet": pa.Table.from_pylist([pair for pair, _ in human], PAIRS),
        "heldout.parquet": pa.Table.from_pylist([pair for pair, _ in heldout], PAIRS),
        "truth.parquet": pa.Table.from_pylist([*truth, *_truth_of(human, "human"), *_truth_of(heldout, "heldout")], TRUTH),
    }
    if config.labelled_pictures:
        tables[LABELLED_FILE] = pa.Table.from_pylist(
            _labelled(World(config.preset, config.unseen, 0.0), config.labelled_pictures, seed), LABELLED
        )
    for name, table in tables.items():
        _write(table.replace_schema_metadata({MARK: mark}), folder / name)


def is_built(folder: Path, mark: bytes, names: tuple[str, ...] = FILES) -> bool:
    """True where every file stands in `folder` and carries the mark."""
    for name in names:
        path = folder / name
        if not path.is_file() or (pq.read_schema(path).metadata or {}).get(MARK) != mark:
            return False
    return True


def _write(table: pa.Table, path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as stream:
        pq.write_table(table, stream, row_group_size=1000, compression="zstd", store_schema=True)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


# ── pictures with human texts ───────────────────────────────────────────────────────────────────────────────


def _pairs(world: World, name: str, count: int, seed: int) -> list[tuple[dict[str, object], Scene]]:
    """`count` pictures of scenes that differ as long as the world has enough of them, with two or three wordings each."""
    pairs: list[tuple[dict[str, object], Scene]] = []
    seen: set[Scene] = set()
    for number in range(count):
        rng = Random(f"{seed}/{name}/{number}")
        scene = next((scene for scene in (sample_scene(world, rng) for _ in range(20)) if scene not in seen), None)
        scene = scene or sample_scene(world, rng)
        seen.add(scene)
        shown = _show(scene, "ok", rng)
        captions: dict[str, None] = {}  # ordered, without repetition
        for _ in range(3 if name == "heldout" else rng.randint(2, 3)):
            captions[describe(scene, rng)] = None
        while len(captions) < 2:
            captions[describe(scene, rng)] = None
        row = {"key": f"{name}-{number:06d}", "image": shown.body, "width": shown.width, "height": shown.height}
        pairs.append(({**row, "captions": list(captions)}, scene))
    return pairs


def _truth_of(pairs: list[tuple[dict[str, object], Scene]], kind: str) -> list[dict[str, object]]:
    rows = []
    for pair, scene in pairs:
        captions = pair["captions"]
        assert isinstance(captions, list)
        row = {"key": pair["key"], "text": captions[0], "text_is_true": is_true(captions[0], scene)}
        rows.append({**row, "noise_kind": "human", "url_kind": kind, "scene": scene.to_json()})
    return rows


def _labelled(world: World, count: int, seed: int) -> list[dict[str, object]]:
    """`count` pictures of one thing each, and what an annotator calls it: its colour and shape."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        rng = Random(f"{seed}/labelled/{number}")
        scene = sample_scene(world, rng)
        shown = _show(scene, "ok", rng)
        thing = scene.things[0]
        row = {"key": f"labelled-{number:06d}", "image": shown.body, "width": shown.width, "height": shown.height}
        rows.append({**row, "label": f"{thing.colour} {thing.shape}"})
    return rows


# ── the web ─────────────────────────────────────────────────────────────────────────────────────────────────

Rows = list[dict[str, object]]


def _web(
    config: MiniwebConfig, world: World, seed: int, heldout: list[tuple[dict[str, object], Scene]]
) -> tuple[Rows, Rows, Rows]:
    """Rows of web.parquet, pictures.parquet and truth.parquet."""
    chance = Random(f"{seed}/web")
    kinds = url_kinds(config.pictures, config.bad_urls, chance)
    urls = [_url(number, kind, config.hosts, chance) for number, kind in enumerate(kinds)]
    repeats = _repeats(kinds, config, len(heldout), chance)
    shown: dict[int, Shown] = {}
    duplicate_of: dict[int, str] = {}
    for number in sorted(range(config.pictures), key=lambda number: (number in repeats, number)):  # what is repeated comes first
        rng = Random(f"{seed}/web/{number}")
        if number not in repeats:
            shown[number] = _show(_suited(sample_scene(world, rng), kinds[number]), kinds[number], rng)
            continue
        how, source = repeats[number]
        if how == "heldout":
            pair, scene = heldout[source]
            body = pair["image"]
            assert isinstance(body, bytes)
            duplicate_of[number] = str(pair["key"])
            is_same = rng.random() < 0.5
        else:
            scene, body = shown[source].scene, shown[source].body
            duplicate_of[number] = urls[source]
            is_same = how == "exact"
        shown[number] = Shown(scene, 0, 0, body if is_same else again(body, rng))

    web: Rows = []
    pictures: Rows = []
    truth: Rows = []
    for number, (url, kind) in enumerate(zip(urls, kinds, strict=True)):
        rng = Random(f"{seed}/text/{number}")
        scene = shown[number].scene
        noise_kind = draw_kind(world, rng)
        text = draw_text(noise_kind, scene, shown[rng.randrange(config.pictures)].scene, world=world, rng=rng)
        web.append({"url": url, "text": text})
        pictures.append({"url": url, "url_kind": kind, "body": shown[number].body if kind in HAS_BODY else None})
        row = {"url": url, "text": text, "text_is_true": is_true(text, scene), "noise_kind": noise_kind, "url_kind": kind}
        truth.append({**row, "scene": scene.to_json(), "duplicate_of": duplicate_of.get(number)})
    return web, pictures, truth


def _url(number: int, kind: str, hosts: list[str], rng: Random) -> str:
    host = hosts[-1] if kind == "robots" else rng.choice(hosts[:-1])
    return f"http://{host}/p/{number:06d}.{'png' if kind in ('png', 'bomb') else 'jpg'}"


def _repeats(kinds: list[str], config: MiniwebConfig, heldout: int, rng: Random) -> dict[int, tuple[str, int]]:
    """Number of each duplicate -> (how, number of the web or held-out picture that it repeats)."""
    plain = [number for number, kind in enumerate(kinds) if kind == "ok"]
    rng.shuffle(plain)
    counts = quotas(DUPLICATES, config.duplicates * config.pictures)
    hows = [how for how, count in counts.items() for _ in range(count)][: len(plain) // 2]
    copies, sources = plain[: len(hows)], plain[len(hows) :]
    return {
        copy: (how, rng.randrange(heldout) if how == "heldout" else rng.choice(sources))
        for copy, how in zip(copies, hows, strict=True)
    }


def _suited(scene: Scene, kind: str) -> Scene:
    """A grey picture shows black and white things on grey bricks, so that its colours can still be told."""
    if kind != "grayscale":
        return scene
    things = tuple(replace(thing, colour=colour) for thing, colour in zip(scene.things, ("black", "white"), strict=False))
    return replace(scene, things=things, background="bricks")


def _show(scene: Scene, kind: str, rng: Random) -> Shown:
    width, height = _size(kind, rng)
    return Shown(scene, width, height, encode(render(scene, width=width, height=height, rng=rng), kind, rng))


def _size(kind: str, rng: Random) -> tuple[int, int]:
    """Width and height in pixels: shorter side 96 to 320, 3:4 to 4:3, both even on a logarithmic scale."""
    if kind == "thumbnail":
        return 24, 24
    if kind == "banner":
        return 400, 96
    shorter = 96 * (320 / 96) ** rng.random()
    longer = shorter * (4 / 3) ** rng.random()
    sides = round(shorter), round(longer)
    return sides if rng.random() < 0.5 else (sides[1], sides[0])
