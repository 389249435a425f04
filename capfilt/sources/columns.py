"""Which columns a kind of source must have and may have, and under which names they are looked for."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from capfilt.config.read import Folder, Img2dataset, ParquetImages, ReadConfig, UrlList, WebDataset
from capfilt.sources import names


def wanted(config: ReadConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Our names of the columns that must be there, and of those that may."""
    match config:
        case UrlList():
            return ("url", "text"), ("uid",)
        case ParquetImages() | WebDataset() | Img2dataset():
            return ("image", "text"), ("url", "uid")
        case Folder():
            return ("file", "text"), ("url", "uid")
        case _ as unreachable:
            assert_never(unreachable)


def find_columns(
    config: ReadConfig, found: Sequence[str], path: str, by_place: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Ours -> theirs in a file with the columns `found`; `by_place` are those of a file without names.

    Raises:
        InputError: If one is missing.
    """
    must, may = wanted(config)
    return names.find({**(by_place or {}), **mapped(config)}, must, may, found, path)


def candidates(config: ReadConfig) -> dict[str, tuple[str, ...]]:
    """Ours -> the names of theirs, for files whose records need not all have the same: the first with a value counts."""
    must, may = wanted(config)
    told = mapped(config)
    return {
        ours: ((theirs,) if (theirs := told[ours]) is not None else ()) if ours in told else names.KNOWN[ours]
        for ours in (*must, *may)
    }


def mapped(config: ReadConfig) -> dict[str, str | None]:
    """`read.columns` as it stands in the pipeline file."""
    return {str(ours): theirs for ours, theirs in config.columns.items()}
