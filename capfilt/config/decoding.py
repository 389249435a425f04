"""How a captioner turns next-token scores into a text: greedy, beam or nucleus.

Only the choices and their meaning; knows nothing of the networks, nor of the engine that carries the choices out.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from capfilt.config.base import Positive, Section
from capfilt.errors import ConfigError

Penalty = Annotated[float, Field(gt=0)]


class _Lengths(Section):
    max_length: Positive = 20
    """Tokens, the prompt and its first special token counted, the closing [SEP] too."""
    min_length: Annotated[int, Field(ge=0)] = 5
    """No end of text before this many tokens, counted as in `max_length`."""
    repetition_penalty: Penalty = 1.0
    """> 1 lowers tokens that the text (prompt included) already has; 1 is off (CTRL, arXiv:1909.05858)."""

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}: lower one or raise the other")
        return self


class Greedy(_Lengths):
    """The most probable token each time."""

    kind: Literal["greedy"] = "greedy"


class Beam(_Lengths):
    """Beam search as transformers 5 does it: scores divided by generated length ** length_penalty, no early stopping."""

    kind: Literal["beam"] = "beam"
    beams: Positive = 3
    """Texts that are followed at once; more find more probable texts and take longer."""
    length_penalty: float = 1.0
    """> 0 favours longer texts, 0 compares plain sums."""


class Nucleus(_Lengths):
    """Sampling from the smallest set of tokens whose probability reaches `top_p` (BLIP section 5.2: 0.9).

    The published code's nucleus branch hard-codes a repetition penalty of 1.1; here it is written down where it is wanted.
    """

    kind: Literal["nucleus"] = "nucleus"
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """1 samples from the whole vocabulary."""
    top_k: Positive | None = None
    """At most this many tokens, cut before `top_p`; null is no cut."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Below 1 prefers probable tokens more, above 1 less; 1 is the model's own distribution."""


Decoding = Annotated[Greedy | Beam | Nucleus, Field(discriminator="kind")]


def as_decoding(decoding: Decoding | Mapping[str, Any]) -> Decoding:
    """From a dictionary as the YAML has it, `{"kind": "beam", "beams": 3, "max_length": 20}`; a choice comes back as it is.

    Raises:
        ConfigError: If the dictionary describes none; lists each wrong field.
    """
    if not isinstance(decoding, Mapping):
        return decoding
    try:
        found: Decoding = TypeAdapter(Decoding).validate_python(dict(decoding))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise ConfigError(
            "\n  ".join(["decoding: expected greedy, beam or nucleus, found", *lines]) + "\nCorrect these"
        ) from None
    return found
