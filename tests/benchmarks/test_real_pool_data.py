"""The noisy pool of real pictures, made here from a few painted ones."""

import io
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import Loopback
from PIL import Image
from real_pool_data import Nearest, make_pool, words

from capfilt.schema import PAIRS

THINGS = ("dog", "horse", "bicycle", "boat", "guitar", "kite")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 training and 3 validation pictures with two captions each; 30 alt texts, one of them twice."""
    for split, count in (("train", 24), ("val", 3)):
        rows = []
        for number in range(count):
            out = io.BytesIO()
            Image.new("RGB", (20, 16), (number * 9, 80, 200 - number * 7)).save(out, "JPEG")
            thing = THINGS[number % len(THINGS)]
            texts = [f"a {thing} in place {chr(97 + number)}x", f"the {thing} of owner {chr(97 + number)}y"]
            rows.append({"key": f"{split}{number}.jpg", "image": out.getvalue(), "width": 20, "height": 16, "captions": texts})
        (tmp_path / "flickr8k").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, PAIRS), tmp_path / "flickr8k" / f"{split}-00-of-01.parquet")
    (tmp_path / "web_text").mkdir()
    texts = [f"Buy number {number} now" for number in [0, *range(30)]]
    table = pa.table({"text": [*texts, "a caption"], "source": ["laion_en"] * len(texts) + ["cc3m_validation"]})
    pq.write_table(table, tmp_path / "web_text" / "web_text.parquet")
    return tmp_path


def test_words_are_what_a_caption_says() -> None:
    assert words("Two dogs are on the grass .") == ["dog", "grass"]


def test_a_near_miss_is_near_and_says_something_else() -> None:
    captions = ["a dog runs", "a dog runs fast", "the dog runs", "a dog runs in snow", "a boat", "a car"]
    nearest = Nearest(captions, [0, 0, 1, 2, 3, 4])
    assert captions[nearest.near_miss(0)] == "a dog runs in snow", "not its own, and not one that says nothing new"


def test_a_pool_is_a_third_of_each_kind_and_the_truth_knows(data: Path, tmp_path: Path) -> None:
    found = make_pool(data, tmp_path / "out", web=18, human=6, heldout=2, seed=0)
    assert found == {"rows": 18, "own": 6, "near_miss": 6, "alt_text": 6, "human_pictures": 6, "heldout": 2}
    pool, truth, human = (pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() for name in ("pool", "truth", "human"))
    captions = {row["key"]: row["captions"] for row in pq.read_table(data / "flickr8k").to_pylist()}
    assert len({row["uid"] for row in pool}) == 18
    assert [row["uid"] for row in truth] == [row["uid"] for row in pool]
    for row, known in zip(pool, truth, strict=True):
        own = captions[row["url"].rsplit("/", 1)[1]]
        assert (row["text"] in own) == known["text_is_true"] == (known["noise_kind"] == "own")
        assert row["text"].startswith("Buy") == (known["noise_kind"] == "alt_text")
    assert not {row["url"].rsplit("/", 1)[1] for row in pool} & {row["key"] for row in human}


def test_a_pool_follows_from_data_and_seed(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_pool(data, tmp_path / name, web=18, human=6, heldout=2, seed=seed)
    first, again, other = ((tmp_path / name / "pool.parquet").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_the_server_answers_what_the_file_holds(data: Path, tmp_path: Path) -> None:
    make_pool(data, tmp_path / "out", web=18, human=6, heldout=2, seed=0)
    row = pq.read_table(tmp_path / "out" / "served.parquet").to_pylist()[0]
    with Loopback(tmp_path / "out" / "served.parquet") as server:
        with urllib.request.urlopen(f"http://{server.address}{row['path']}") as answer:
            assert answer.read() == row["image"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{server.address}/robots.txt")
