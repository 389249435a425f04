"""What a MED looks like: the typed form of models/med_*.yaml.

Only sizes and named choices; knows nothing of weights, training recipes or torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.architectures.parts import CLIP_MEAN, CLIP_STD, Rgb, Role, TextConfig, VisionConfig, check_length
from capfilt.config.base import Positive, Section, Share


class MedArchitecture(Section):
    """BLIP's multimodal mixture of encoder-decoder (BLIP section 3.1)."""

    kind: Literal["med"]
    image: VisionConfig
    text: TextConfig
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = ("captioner", "filter")
    """What the weights can do. Published fine-tunes have one role; a MED that is pre-trained here has both."""
    embed_dim: Positive = 256
    """Width of the common image-text space of ITC."""
    queue_size: Annotated[int, Field(ge=0)] = 57_600
    """Momentum features kept as further negatives."""
    momentum: Share = 0.995
    alpha: Share = 0.4
    """Weight of the momentum model's soft targets at the end of the ramp."""
    itm_position: Literal["enc", "cls"] = "enc"
    """Token at position 0 for ITM: [ENC] in BLIP's pre-training, fine-tuning and retrieval evaluation; the published scorer
    (BLIP_ITM, and transformers after it) feeds [CLS] to the same weights."""
    max_text_length: Positive = 30
    """Tokens of a text in pre-training, specials counted."""
    image_mean: Rgb = CLIP_MEAN
    image_std: Rgb = CLIP_STD
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of fresh linear and embedding weights."""

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        check_length(self.max_text_length, self.text.max_positions)
        return self
