"""Section `read`: where rows come from, one class per kind of source."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from capfilt.config.base import Positive, Section, operational

KeepType = Literal["text", "float", "int", "bool"]


class Source(Section):
    """What every kind of source has."""

    paths: list[str] = Field(min_length=1)  # fsspec paths; globs and braces such as `{00000..00010}` are expanded
    keep_columns: list[str] = []
    """Input columns to carry along as `upstream`: for `screen` rules, for `download.blur_boxes`, and into the data set."""
    keep_types: dict[str, KeepType] = {}
    """Type of a carried column that its file does not type (text files, JSON): text unless said here, but the well-known scores
    and sizes (`similarity`, `punsafe`, `original_width` …) are numbers. A Parquet column keeps its own type."""
    rows_per_chunk: Positive = 1024
    """At most so many rows are one chunk, the unit of work, commit and retry. Fewer where pictures are large, up to about 10,000
    for millions of rows."""
    on_bad_file: Literal["refuse", "skip"] = operational("refuse")  # an unreadable file ends the run, or is left out

    @model_validator(mode="after")
    def _types_are_of_carried_columns(self) -> Self:
        strangers = [name for name in self.keep_types if name not in self.keep_columns]
        if strangers:
            raise ValueError(f"keep_types names {', '.join(strangers)}, which keep_columns does not carry. Add it there")
        return self


class UrlList(Source):
    """Addresses and texts in Parquet, CSV, TSV or JSONL, the last three also as .gz or .zst."""

    kind: Literal["url_list"] = "url_list"
    columns: dict[Literal["uid", "url", "text"], str | None] = {}
    """Ours: theirs. What is not named is found by its well-known name (docs/sources.md); `text: null` says there is none."""

    @model_validator(mode="after")
    def _url_is_there(self) -> Self:
        if self.columns.get("url", "") is None:
            raise ValueError("columns: expected the column of `url`, found null. Name it, or leave it out to have it found")
        return self


class _Pictures(Source):
    """A source that has the pictures themselves."""

    columns: dict[Literal["uid", "url", "text", "image"], str | None] = {}
    """Ours: theirs. What is not named is found by its well-known name (docs/sources.md); `text: null` says there is none."""

    @model_validator(mode="after")
    def _image_is_there(self) -> Self:
        if self.columns.get("image", "") is None:
            raise ValueError("columns: expected the column of `image`, found null. Name it, or leave it out to have it found")
        return self


class ParquetImages(_Pictures):
    """Parquet files with the pictures inside, as bytes or as a struct with the field `bytes`."""

    kind: Literal["parquet_images"]


class WebDataset(_Pictures):
    """Tars of `key.jpg`, `key.txt`, `key.json`; `columns` and `keep_columns` name endings and fields of the JSON."""

    kind: Literal["webdataset"]


class Img2dataset(_Pictures):
    """Output folders of img2dataset in its formats webdataset, files or parquet."""

    kind: Literal["img2dataset"]


class Folder(Source):
    """Folders of pictures, their texts in a captions file or in a .txt beside each picture."""

    kind: Literal["folder"]
    columns: dict[
        Literal["uid", "url", "text", "file"], str | None
    ] = {}  # of the captions file, or of a .json beside each picture
    captions: str | None = None
    """CSV, TSV, JSONL or Parquet inside each folder, with file names and texts. null: `metadata.*` or `captions.*` where there is
    one, else a .txt beside each picture."""


def _kind(value: Any) -> Any:
    """A section without `kind` is a URL list."""
    return value.get("kind", "url_list") if isinstance(value, dict) else getattr(value, "kind", None)


ReadConfig = Annotated[
    Annotated[UrlList, Tag("url_list")]
    | Annotated[ParquetImages, Tag("parquet_images")]
    | Annotated[WebDataset, Tag("webdataset")]
    | Annotated[Img2dataset, Tag("img2dataset")]
    | Annotated[Folder, Tag("folder")],
    Discriminator(_kind),
]
