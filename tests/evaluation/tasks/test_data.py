import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from capfilt.errors import InputError
from capfilt.evaluation.tasks.base import majority
from capfilt.evaluation.tasks.data import Labels, Shown, evenly, read_task


def test_frames_are_taken_at_equal_distances() -> None:
    assert evenly(32, 16).tolist() == list(range(1, 32, 2))
    assert evenly(16, 16).tolist() == list(range(16))
    assert evenly(2, 4).tolist() == [0, 0, 1, 1], "of fewer frames some are taken twice"


def test_a_file_without_rows_column_or_value_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match="expected rows with image, label, found none"):
        read_task(path, ("image", "label"))
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": ["a", None]}), path)
    with pytest.raises(InputError, match="found none for label in row 1"):
        read_task(path, ("image", "label"))
    with pytest.raises(InputError, match="found no question"):
        read_task(path, ("image", "question"))
    with pytest.raises(InputError, match="expected a Parquet file, found none"):
        read_task(str(tmp_path / "missing.parquet"), ("image",))


def test_a_label_that_was_not_learnt_has_no_number() -> None:
    labels = Labels(["red", "blue", "red", 3])
    assert labels.names == ["3", "blue", "red"]
    assert labels.numbers(["red", "green", 3]).tolist() == [2, -1, 0]


def test_labels_that_were_not_learnt_are_no_answer_without_looking() -> None:
    assert majority(np.array([-1, -1, -1, 0, 1, 1])) == 2 / 6
    assert majority(np.array([-1, -1])) == 0


def test_rows_show_their_pictures_in_order(data: Path, tmp_path: Path) -> None:
    rows = read_task(str(data / "test-two_images.parquet"), ("image", "image_2"))
    shown = Shown([[row["image"], row["image_2"]] for row in rows], 24, tmp_path / "spool", "x")
    first = Shown([[row["image"]] for row in rows], 24, tmp_path / "spool-1", "x")
    second = Shown([[row["image_2"]] for row in rows], 24, tmp_path / "spool-2", "x")
    pixels = shown.take(evenly(len(rows), len(rows)))
    assert pixels.shape == (len(rows), 2, 3, 24, 24)
    assert (pixels[:, 0] == first.take(evenly(len(rows), len(rows)))[:, 0]).all()
    assert (pixels[:, 1] == second.take(evenly(len(rows), len(rows)))[:, 0]).all()


def test_bytes_that_are_no_picture_are_told_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x row 0: expected an encoded picture"):
        Shown([[b"nothing"]], 24, tmp_path / "spool", "x")


def test_a_network_that_knows_the_middle_is_shown_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (48, 24), "red")
    wide.paste("blue", (12, 0, 36, 24))  # the middle square
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    middle, squeezed = (
        Shown([[stream.getvalue()]], 12, tmp_path / "spool", "x", takes_middle=takes_middle).take(np.arange(1))[0, 0]
        for takes_middle in (True, False)
    )
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8)
    assert torch.equal(middle[:, 6, 1], blue)
    assert not torch.equal(squeezed[:, 6, 1], blue)
