"""What a BLIP-2 looks like: frozen image encoder, Q-Former, and on request a frozen language model (BLIP-2 section 3).

Only sizes and named choices; knows nothing of weights, training recipes or torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.architectures.parts import CLIP_MEAN, CLIP_STD, BertConfig, Rgb, Role, VisionConfig, check_ids, check_length
from capfilt.config.base import Positive, Section


class Blip2Image(VisionConfig):
    """The frozen image encoder: a ViT, of which all tokens are used."""

    layers: Annotated[int, Field(ge=0)]
    """0: no encoder here; pictures come as features [tokens, width] of one elsewhere."""
    final_norm: bool = True
    """Whether the encoder itself ends in a norm (a MED's does, EVA's does not), before the one that learns."""
    checkpoint: str | None = None
    """Folder, file or hub name of the MED whose image encoder is taken; its sizes must be these. null: the weights come with
    the Q-Former's own."""


class QFormerConfig(BertConfig):
    """The Q-Former: a BERT that texts and learned queries run through together (BLIP-2 section 3.1)."""

    tied_vocabulary: bool = True
    """The output projection is the word embedding."""
    pad_id: int = 0
    cls_id: int = 101
    sep_id: int = 102
    dec_id: int | None = None
    """The token that begins a text to be generated. null: the last but one, where capfilt's tokenizer has [DEC]; BLIP-2's
    vocabulary of 30,523 has it last."""
    queries: Positive = 32
    """Learned queries: as many vectors describe a picture, whatever its resolution."""
    cross_every: Positive = 2
    """Queries look at the picture in layers 0, n, 2 n …"""

    @model_validator(mode="after")
    def _ids_are_tokens(self) -> Self:
        check_ids(self.vocabulary, self.vocab_size, pad_id=self.pad_id, cls_id=self.cls_id, sep_id=self.sep_id)
        if self.dec_id is not None and not 0 <= self.dec_id < self.vocab_size:
            raise ValueError(f"dec_id {self.dec_id} is no token of a vocabulary of {self.vocab_size}: say which id it has")
        return self

    @property
    def first_id(self) -> int:
        """[DEC]'s id."""
        return self.vocab_size - 2 if self.dec_id is None else self.dec_id


class LanguageConfig(Section):
    """The frozen language model that reads the queries' outputs as soft prompts (BLIP-2 section 3.3)."""

    checkpoint: str | None = None
    """A transformers folder or hub name: decoder-only (OPT, GPT-2) or encoder-decoder (T5); or a ClipCap's folder, whose GPT-2 is
    taken. null: what the pipeline's `init.text` names."""
    eos_id: int | None = None
    """The token that ends a text. null: the model's own; BLIP-2 ends OPT's texts with a line break, 50118."""


class Blip2Architecture(Section):
    """BLIP-2: a Q-Former between a frozen image encoder and, in stage 2, a frozen language model."""

    kind: Literal["blip2"]
    image: Blip2Image
    text: QFormerConfig
    roles: tuple[Role, ...] = ("captioner", "filter")
    """What the Q-Former's weights can do. captioner: text generation grounded in images (ITG). filter: ITC and ITM. Neither:
    queries alone, as in stage 2, whose captioner is the language model."""
    embed_dim: Positive = 256
    """Width of the common image-text space of ITC."""
    language: LanguageConfig | None = None
    """Stage 2; null is stage 1."""
    bridge_norm_eps: float = 1e-5
    """Of the norm between image encoder and Q-Former, which learns (LAVIS 1e-5; transformers' folders say 1e-6)."""
    max_text_length: Positive = 32
    """Tokens of a text, specials counted."""
    image_mean: Rgb = CLIP_MEAN
    image_std: Rgb = CLIP_STD
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of fresh linear and embedding weights, and of the queries."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.roles:
            check_length(self.max_text_length, self.text.max_positions)
        return self
