"""Section `screen`: cheap rules on carried columns, pictures and texts."""

from typing import Annotated, Literal

from pydantic import Field

from capfilt.config.base import Positive, Section


class MinSide(Section):
    kind: Literal["min_side"]
    px: Positive


class MaxAspect(Section):
    kind: Literal["max_aspect"]
    ratio: float = Field(ge=1)


class MaxValue(Section):
    """Rejects the row when the carried column is greater; a missing value passes."""

    kind: Literal["max_value"]
    column: str
    value: float


class MinValue(Section):
    """Rejects the row when the carried column is smaller; a missing value passes."""

    kind: Literal["min_value"]
    column: str
    value: float


ImageRule = Annotated[MinSide | MaxAspect | MaxValue | MinValue, Field(discriminator="kind")]


class NotEmpty(Section):
    kind: Literal["not_empty"]


class NotFileName(Section):
    """Rejects camera strings and file names such as `IMG_2034.JPG`."""

    kind: Literal["not_file_name"]


class Words(Section):
    kind: Literal["words"]
    min: int = Field(default=1, ge=0)
    max: int = Field(default=10_000, ge=1)


TextRule = Annotated[NotEmpty | NotFileName | Words, Field(discriminator="kind")]


class ScreenConfig(Section):
    image: list[ImageRule] = []  # reject the row
    text: list[TextRule] = []  # reject the web text only
