"""A noisy pool of real pictures whose truth is known, from Flickr8k's pictures and real web texts: used by real_pool.py.

Of the training pictures some become human pairs with all their captions. Of the others a third keep a caption of their own, a
third get a near miss and a third an alt text from LAION. Held out are pictures of the validation split. Everything follows from
the data and the seed. The files hold other people's pictures: they are for measuring, not for passing on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.identity import uid_of
from capfilt.schema import PAIRS

HOST = "photos.real-pool.test"
KINDS = ("own", "near_miss", "alt_text")
_STOP_WORDS = """
a an and are as at be being by for from has have his her him in into is it its of off on one or out over some that the their
them there they this through to two up very while who with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
Float64Array = npt.NDArray[np.float64]
Row = dict[str, Any]


def words(text: str) -> list[str]:
    """Lower-case words without the commonest, a plural's s cut off: "Two dogs run." is dog, run."""
    found = (word for word in re.findall(r"[a-z]+", text.lower()) if word not in STOP_WORDS)
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


class Nearest:
    """Captions by cosine of their TF-IDF vectors (tf 1 + log, idf log N/df); `owner[i]` is the picture of caption i."""

    def __init__(self, captions: Sequence[str], owner: Sequence[int]) -> None:
        self._words = [Counter(words(caption)) for caption in captions]
        self._owner = np.array(owner)
        df = Counter(word for counted in self._words for word in counted)
        self._idf = {word: np.log(len(captions) / count) for word, count in df.items()}
        norms = np.array([np.sqrt(sum(self._weight(w, n) ** 2 for w, n in counted.items())) or 1 for counted in self._words])
        lists: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, counted in enumerate(self._words):
            for word, count in counted.items():
                lists[word].append((number, self._weight(word, count) / norms[number]))
        self._lists = {word: (np.array([n for n, _ in at]), np.array([w for _, w in at])) for word, at in lists.items()}

    def near_miss(self, caption: int) -> int:
        """The nearest caption of another picture that says something no caption of this picture says.

        So it has a word that is in none of them. Still it may happen to hold: five people do not say everything about a picture.
        """
        scores = np.zeros(len(self._owner))
        for word, count in self._words[caption].items():
            at, weights = self._lists[word]
            scores[at] += self._weight(word, count) * weights
        own = self._owner == self._owner[caption]
        told = set().union(*(self._words[number] for number in np.flatnonzero(own)))
        scores[own] = -1
        for number in np.argsort(-scores, kind="stable"):
            if not self._words[number].keys() <= told:
                return int(number)
        raise SystemExit("every caption of the other pictures says only what this picture's captions say")

    def _weight(self, word: str, count: int) -> float:
        return float((1 + np.log(count)) * self._idf[word])


def make_pool(data: Path, out: Path, *, web: int, human: int, heldout: int, seed: int) -> dict[str, int]:
    """Write pool, truth, human, heldout, spare and served .parquet into `out`; give back what is in them.

    `pool` has uid, url, text and image, so that it is read as bytes or, by its addresses, downloaded; `served` is what a server
    answers them with. `spare` are the training pictures that are left over, with their captions: for choosing settings.

    Args:
        data: The folder with flickr8k/ and web_text/.
        web: Rows of the pool. `human`, `heldout`: pictures of each.
    """
    rng = Random(seed)
    train = read_pictures(data, "train")
    rng.shuffle(train)
    if len(train) < web + human:
        raise SystemExit(f"expected {web + human} training pictures in {data}, found {len(train)}")
    humans, pictures = train[:human], train[human : human + web]
    texts = [(number, caption) for number, picture in enumerate(train) for caption in picture["captions"]]
    nearest = Nearest([caption for _, caption in texts], [number for number, _ in texts])
    first_text = np.searchsorted([number for number, _ in texts], np.arange(len(train)))
    alt_texts = rng.sample(read_alt_texts(data), web)
    rows: list[Row] = []
    for number, picture in enumerate(pictures):
        kind, own = KINDS[number % len(KINDS)], rng.randrange(len(picture["captions"]))
        match kind:
            case "own":
                text = picture["captions"][own]
            case "near_miss":
                text = texts[nearest.near_miss(int(first_text[human + number]) + own)][1]
            case _:
                text = alt_texts[number]
        url = f"http://{HOST}/{picture['key']}"
        rows.append({"uid": uid_of(url, text), "url": url, "text": text, "image": picture["image"], "noise_kind": kind})
    rng.shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    names = ("uid", "url", "text", "image")
    _write(out / "pool.parquet", {name: [row[name] for row in rows] for name in names})
    _write(
        out / "truth.parquet",
        {
            "uid": [row["uid"] for row in rows],
            "url": [row["url"] for row in rows],
            "text_is_true": [row["noise_kind"] == "own" for row in rows],
            "noise_kind": [row["noise_kind"] for row in rows],
        },
    )
    _write(out / "served.parquet", {"path": [f"/{p['key']}" for p in pictures], "image": [p["image"] for p in pictures]})
    held = read_pictures(data, "val")[:heldout]
    for name, pairs in (("human", humans), ("heldout", held), ("spare", train[human + web :])):
        kept = [{column: pair[column] for column in PAIRS.names} for pair in pairs]
        pq.write_table(pa.Table.from_pylist(kept, PAIRS), out / f"{name}.parquet")
    counts = Counter(row["noise_kind"] for row in rows)
    return {"rows": len(rows), **{kind: counts[kind] for kind in KINDS}, "human_pictures": len(humans), "heldout": len(held)}


def read_pictures(data: Path, split: str) -> list[Row]:
    """key, image, width, height and captions of every picture of a Flickr8k split, in the files' order."""
    files = sorted((data / "flickr8k").glob(f"{split}-*.parquet"))
    if not files:
        raise SystemExit(f"expected {data}/flickr8k/{split}-*.parquet, found none; give the folder that has flickr8k/")
    return [row for path in files for row in pq.read_table(path, columns=PAIRS.names).to_pylist()]


def read_alt_texts(data: Path) -> list[str]:
    """Distinct LAION alt texts, in the file's order."""
    table = pq.read_table(data / "web_text" / "web_text.parquet", columns=["text", "source"]).to_pylist()
    return list(dict.fromkeys(row["text"] for row in table if row["source"].startswith("laion") and row["text"]))


def _write(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=1024)
