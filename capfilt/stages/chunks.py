"""Chunk files as tables in the order of row ids, one chunk in memory at a time, only the columns asked for.

Knows nothing about what the columns mean.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.errors import ConfigError, ContractError, InputError


def in_row_order(paths: Sequence[str]) -> list[str]:
    """Files `chunk-<chunk id>.parquet` by chunk id, which is how row ids begin."""
    return sorted(paths, key=lambda path: PurePath(path).name)


def read_chunks(paths: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """One table per chunk file, rows ascending over all of them.

    `columns` may name a field inside a list of structs by its Parquet path, `captions.list.element.origin`: other fields are not
    read. `row_id` is always read. Columns a file does not have are left out.

    Raises:
        InputError: If a file cannot be read.
        ContractError: If row ids do not ascend.
    """
    last: str | None = None
    for path in in_row_order(paths):
        try:
            # One thread: chunks are small, and starting threads for each costs more than it gains.
            with open_parquet(path) as file:
                table = file.read(columns=["row_id", *columns], use_threads=False)
        except (OSError, pa.ArrowInvalid) as problem:
            raise InputError(
                f"expected a chunk file; found `{path}`: {problem}. Run the pipeline again: it makes missing chunks"
            ) from None
        ids = table["row_id"]
        if table.num_rows == 0:
            continue
        ascends = pc.all(pc.less(ids[:-1], ids[1:])).as_py() if len(ids) > 1 else True
        if not ascends or (last is not None and ids[0].as_py() <= last):
            raise ContractError(f"rows must ascend by row_id within and over chunk files; `{path}` breaks the order")
        last = ids[-1].as_py()
        yield table


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file behind a path or any fsspec address, to be used in `with`."""
    if "://" not in path:
        return pq.ParquetFile(path)
    address = fsspec.open(path, "rb")
    address.fs.invalidate_cache()  # what was listed before another process wrote the file
    return pq.ParquetFile(address.open())


def scored_round(run: Path, round_number: int | None) -> Path:
    """Folder of the round with candidates: the last one for None.

    Raises:
        InputError: If there is none.
    """
    numbers = sorted(int(path.name.removeprefix("round-")) for path in run.glob("round-*") if path.name[6:].isdigit())
    scored = [number for number in numbers if candidate_files(run / f"round-{number}")]
    wanted = scored[-1] if round_number is None and scored else round_number
    if wanted not in scored:
        raise InputError(
            f"expected a run with scored candidates at `{run}`; found them in rounds {scored}, asked for "
            f"{'the last' if round_number is None else round_number}. Run the pipeline up to `filter`"
        )
    return run / f"round-{wanted}"


def candidate_files(round_folder: Path) -> list[str]:
    return in_row_order([str(path) for path in (round_folder / "candidates").glob("chunk-*.parquet")])


def local_folder(path: str) -> Path:
    """The folder of a path or file:// address.

    Raises:
        ConfigError: For another address. Path() would silently make a folder called `s3:`.
    """
    if "://" in path.removeprefix("file://"):
        raise ConfigError(
            f"output: expected a local folder for `dedup`, `select` and `write`; found `{path}`. Run them on a local copy"
        )
    return Path(path.removeprefix("file://"))
