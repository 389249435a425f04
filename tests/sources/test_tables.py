from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import InputError
from capfilt.sources.tables import open_table


def test_a_table_is_opened_with_the_columns_that_are_needed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "more": [1]}), tmp_path / "table.parquet")
    assert open_table(str(tmp_path / "table.parquet"), ["text"]).metadata.num_rows == 1


def test_what_is_no_such_table_is_told_with_what_it_should_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "table.parquet")
    (tmp_path / "other.parquet").write_bytes(b"no Parquet")
    for name, told in (
        ("none.parquet", "expected a Parquet file with pairs, found none"),
        ("other.parquet", "expected a Parquet file with pairs, found .*write it again"),
        ("table.parquet", "expected the columns image, text, found no image"),
    ):
        with pytest.raises(InputError, match=told):
            open_table(str(tmp_path / name), ["image", "text"], "pairs")
