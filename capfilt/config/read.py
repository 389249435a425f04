"""Section `read`: where rows come from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section


class ReadConfig(Section):
    kind: Literal["url_list"] = "url_list"
    paths: list[str] = Field(min_length=1)  # fsspec paths, globs allowed
    columns: dict[Literal["uid", "url", "text"], str] = {"url": "url", "text": "text"}  # ours: theirs
    keep_columns: list[str] = []  # carried along in `upstream`
    rows_per_chunk: Positive = 1024

    @model_validator(mode="after")
    def _url_is_mapped(self) -> Self:
        if "url" not in self.columns:
            raise ValueError("columns must map `url`; found only " + ", ".join(sorted(self.columns)))
        return self
