"""Decontamination: pictures decide, texts are counted."""

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.dedup.decontamination import contaminated, normalised, read_evaluation
from capfilt.errors import InputError
from capfilt.schema import PAIRS


def png(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


class MeanColour:
    """Embeds a picture as its mean colour: equal colours are equal pictures, primary colours are at right angles."""

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        vectors = np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))


def pair_file(folder: Path, images: list[bytes], captions: list[list[str]] | None = None) -> str:
    texts = captions or [["a picture"]] * len(images)
    columns = [[f"k{i}" for i in range(len(images))], images, [8] * len(images), [8] * len(images), texts]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PAIRS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=PAIRS), folder / "heldout.parquet")
    return str(folder / "heldout.parquet")


def test_equal_bytes_and_close_pictures_are_found(tmp_path: Path) -> None:
    known = read_evaluation([pair_file(tmp_path, [RED, b"no picture", GREEN])], MeanColour())
    assert known.undecodable == 1
    vectors = np.array([[0.999, 0.01, 0], [0, 0.1, 1], [1, 1, 0]], dtype=np.float16)
    hashes = [None, sha256(b"no picture").hexdigest(), "else", sha256(GREEN).hexdigest()]
    hits = contaminated(hashes, vectors, np.array([0, 2, 3]), known, 0.97)
    assert {row: hit[0] for row, hit in hits.items()} == {
        0: "heldout.parquet#k0",
        1: "heldout.parquet#k1",
        3: "heldout.parquet#k2",
    }
    assert [hits[row][2] for row in (0, 1, 3)] == ["cosine", "sha256", "sha256"]


def test_without_an_embedder_bytes_alone_decide(tmp_path: Path) -> None:
    known = read_evaluation([pair_file(tmp_path, [RED, BLUE])], None)
    hits = contaminated([sha256(BLUE).hexdigest(), "else"], np.eye(2, 3), np.array([0, 1]), known, 0.1)
    assert hits == {0: ("heldout.parquet#k1", 1.0, "sha256")}


def test_the_closest_picture_is_named(tmp_path: Path) -> None:
    known = read_evaluation([pair_file(tmp_path, [RED, png((250, 60, 0))])], MeanColour())
    hits = contaminated([None], np.array([[250, 61, 0]]), np.array([0]), known, 0.9)
    assert hits[0][0] == "heldout.parquet#k1"


def test_texts_are_equal_but_for_case_space_and_final_punctuation(tmp_path: Path) -> None:
    known = read_evaluation([pair_file(tmp_path, [RED], [["A red  square.", "Red"]])], None)
    assert known.texts == {"a red square", "red"}
    assert normalised(pa.array(["a RED\tsquare ", None])).to_pylist() == ["a red square", None]


def test_a_missing_file_and_a_missing_column_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Correct the path"):
        read_evaluation([str(tmp_path / "none.parquet")], None)
    pq.write_table(pa.table({"key": ["a"], "image": [b""]}), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="captions"):
        read_evaluation([str(tmp_path / "bare.parquet")], None)


def test_a_text_alone_is_a_text_and_a_picture_that_is_not_there_cannot_be_decoded(tmp_path: Path) -> None:
    rows = {"key": ["a", "b"], "image": [RED, None], "captions": ["A red square.", None]}
    pq.write_table(pa.table(rows), tmp_path / "plain.parquet")
    known = read_evaluation([str(tmp_path / "plain.parquet")], MeanColour())
    assert (known.texts, known.undecodable, known.names) == ({"a red square"}, 1, ["plain.parquet#a", "plain.parquet#b"])
    hits = contaminated([None, sha256(RED).hexdigest()], np.eye(2, 3), np.array([0, 1]), known, 0.9)
    assert {row: hit[0] for row, hit in hits.items()} == {0: "plain.parquet#a", 1: "plain.parquet#a"}


@pytest.mark.parametrize("column", ["image", "captions"])
def test_columns_of_another_type_are_told(tmp_path: Path, column: str) -> None:
    rows = {"key": ["a"], "image": [RED], "captions": ["a"]} | {column: [{"bytes": RED, "path": "x"}]}
    pq.write_table(pa.table(rows), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=rf"dedup.decontaminate: expected .* column {column}, found struct<.*other\.parquet"):
        read_evaluation([str(tmp_path / "other.parquet")], None)
