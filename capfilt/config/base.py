"""The base class of every config section, and the mark for settings that do not change results."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetJsonSchemaHandler
from pydantic.fields import FieldInfo

from capfilt.config.words import words_of


class Section(BaseModel):
    """A frozen config section that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Fields get the words that stand beside them in the source, so that editors show them."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, text in words_of(cls).items():
            if text and name in schema.get("properties", {}):
                schema["properties"][name]["description"] = text
        return schema


def operational(default: Any = ..., **kwargs: Any) -> Any:
    """A field whose value may change between two starts of one run: it never enters the fingerprint.

    Every other field is result-affecting, so that a forgotten mark errs on the safe side.
    """
    return Field(default, json_schema_extra={"operational": True}, **kwargs)


def is_operational(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("operational") is True


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]

ONE, SEVERAL = "one", "several"
"""Of a key that takes one section or a list of them: `Annotated[Annotated[X, Tag(ONE)] | Annotated[list[X], Tag(SEVERAL)],
ONE_OR_SEVERAL]`, so that a mistake in one is not told as a mistake in both."""
ONE_OR_SEVERAL = Discriminator(lambda value: SEVERAL if isinstance(value, list | tuple) else ONE)
