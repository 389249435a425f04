"""What a ClipCap looks like: an image embedding, a mapper from it to a prefix, and a GPT-2 that goes on from the prefix.

Only sizes and named choices; knows nothing of weights, training recipes or torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.architectures.parts import CLIP_MEAN, CLIP_STD, Activation, Rgb, Role, VisionConfig, check_heads, check_ids
from capfilt.config.base import Positive, Section, Share


class ClipImage(Section):
    """CLIP's ViT with its projection; from transformers (CLIPVisionModelWithProjection). Never learns."""

    kind: Literal["clip"]
    size: Positive = 224
    """Pixels of the square input."""
    patch: Positive = 32
    width: Positive = 768
    layers: Positive = 12
    heads: Positive = 12
    intermediate: Positive = 3072
    """Hidden width of the feed-forward."""
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5


class MedImage(VisionConfig):
    """The image side of a MED: its ViT and its projection to the common space, unit norm: what its filter writes into the
    column `embedding`. Never learns."""

    kind: Literal["med"]


ImageConfig = Annotated[ClipImage | MedImage, Field(discriminator="kind")]


class MlpMapper(Section):
    """Linear, tanh, linear: enough where GPT-2 learns too (ClipCap section 3.3)."""

    kind: Literal["mlp"]
    hidden: Positive | None = None
    """null: half the width of the whole prefix, as in the published code."""


class TransformerMapper(Section):
    """The embedding as `clip_length` vectors, learned constants behind them, a transformer over both; the prefix is what stands
    at the constants' places (ClipCap section 3.3)."""

    kind: Literal["transformer"]
    clip_length: Positive = 10
    """Vectors that the embedding becomes (the paper's K)."""
    layers: Positive = 8
    heads: Positive = 8
    mlp_ratio: Annotated[float, Field(gt=0)] = 2.0


MapperConfig = Annotated[MlpMapper | TransformerMapper, Field(discriminator="kind")]


class GptConfig(Section):
    """A GPT-2 of any size (pre-norm, causal, learned positions)."""

    vocabulary: Literal["gpt2", "trained"] = "gpt2"
    """gpt2: GPT-2's byte-level BPE. trained: WordPiece trained on the run's texts; `vocab_size` is then an upper bound."""
    vocab_size: Positive = 50_257
    width: Positive = 768
    layers: Positive = 12
    heads: Positive = 12
    intermediate: Positive | None = None
    """Hidden width of the feed-forward; null: four times the width."""
    max_positions: Positive = 1024
    """Prefix and text together."""
    dropout: Share = 0.1
    """Of embeddings, attention weights and block outputs, where GPT-2 learns."""
    norm_eps: float = 1e-5
    activation: Activation = "gelu_tanh"
    tied_vocabulary: bool = True
    """The output projection is the word embedding."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of a fresh GPT-2's weights."""
    end_id: Annotated[int, Field(ge=0)] = 50_256
    """The token that ends a text: <|endoftext|>, which our training appends. The published checkpoints know no end token; theirs
    is the full stop, 13."""
    pad_id: Annotated[int, Field(ge=0)] = 0
    """Fills batches; never seen and never learnt. GPT-2 has none of its own."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        check_heads(self.width, self.heads)
        check_ids(self.vocabulary, self.vocab_size, end_id=self.end_id, pad_id=self.pad_id)
        return self


class ClipCapArchitecture(Section):
    """ClipCap: an image embedding becomes the first `prefix_length` vectors of a GPT-2's text (ClipCap section 3)."""

    kind: Literal["clipcap"]
    embed_dim: Positive = 512
    """Width of the image embedding: 512 for CLIP ViT-B/32 and ViT-B/16, 768 for ViT-L/14, 640 for RN50x4."""
    image: ImageConfig | None = None
    """What makes the embedding of a picture; null where embeddings come stored."""
    normalise: bool = False
    """Bring the embedding to unit norm before the mapper. The published code does not unless asked (--normalize_prefix); CLIP's
    embeddings have a norm of about 10."""
    prefix_length: Positive = 10
    """Vectors of the prefix (the paper's k)."""
    mapper: MapperConfig
    text: GptConfig
    learns: Literal["mapper", "mapper_and_text"] = "mapper"
    """What training changes: the mapper before a frozen GPT-2, or GPT-2 too (ClipCap section 3.2)."""
    loss_over: Literal["mask", "not_token_0"] = "mask"
    """Which tokens are learnt: mask, every one that is no padding. not_token_0, for comparison with the published code: no token
    0, which is its padding, but also a true '!'."""
    max_text_length: Positive = 40
    """Tokens of a text, the ending one counted; the prefix is not."""
    image_mean: Rgb = CLIP_MEAN
    image_std: Rgb = CLIP_STD

    @model_validator(mode="after")
    def _fits(self) -> Self:
        room = self.text.max_positions - self.prefix_length
        if self.max_text_length > room:
            raise ValueError(
                f"max_text_length {self.max_text_length} is above the {room} positions that prefix_length {self.prefix_length} "
                f"leaves of text.max_positions {self.text.max_positions}: lower one"
            )
        if isinstance(self.mapper, TransformerMapper) and self.text.width % self.mapper.heads:
            raise ValueError(
                f"text.width {self.text.width} is not a multiple of mapper.heads {self.mapper.heads}: change one of them"
            )
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """A ClipCap writes captions and scores nothing."""
        return ("captioner",)
