"""Sections that several families' architectures have: a ViT, a BERT.

Only sizes and named choices; knows no family, no weights and no torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, Share

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Of the feed-forwards. gelu: exact (erf), as BLIP; gelu_tanh: its tanh form; quick_gelu: x * sigmoid(1.702 x)."""

Role = Literal["captioner", "filter"]
"""captioner: the image-grounded decoder. filter: the text encoder with the heads of ITC and ITM. Both need the image encoder."""
Rgb = tuple[float, float, float]
CLIP_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)
"""Of pixels from 0 to 1; BLIP, BLIP-2 and CoCa took CLIP's."""


def missing_role(source: str, role: Role) -> str:
    """The sentence for a network that is asked for what its weights cannot do."""
    if role == "captioner":
        return f"{source}: expected a text decoder to write captions, found a filter only. Name a captioning checkpoint"
    return (
        f"{source}: expected a text encoder with ITC and ITM heads to match texts, found a captioner only. "
        "Name an ITM or retrieval checkpoint"
    )


class VisionConfig(Section):
    """A ViT (pre-norm, class token first, final norm)."""

    size: Positive
    """Pixels of the square input."""
    patch: Positive
    """Pixels per token side; with `stem: conv` a power of two, reached by convolutions of stride 2."""
    width: Positive
    layers: Positive
    heads: Positive
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    stem: Literal["patch", "conv"] = "patch"
    """patch: one linear map per patch (ViT, BLIP). conv: 3x3 stride-2 convolutions, two per halving, with batch norm and GELU."""
    positions: Literal["learned", "sincos2d"] = "learned"
    norm_eps: float = 1e-6
    """BLIP 1e-6; transformers' published folders say 1e-5, which moves features by about 2e-5."""
    activation: Activation = "gelu"
    drop_path: Share = 0.0
    """In training, the share of pictures for which the last block's branches are left out, growing linearly from 0 at the first
    block (BLIP: 0.1 for ViT-L, 0 for ViT-B)."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}: change one of them")
        check_heads(self.width, self.heads)
        if self.stem == "conv" and (self.patch & (self.patch - 1) or self.patch < 2):
            raise ValueError(f"stem: conv needs a patch that is a power of two, found {self.patch}")
        if self.positions == "sincos2d" and self.width % 4:
            raise ValueError(f"positions: sincos2d needs a width that is a multiple of 4, found {self.width}")
        return self


class BertConfig(Section):
    """The sizes of a BERT (post-norm), as MED's text towers, the Q-Former and SOHO's transformer have them."""

    vocabulary: Literal["bert", "trained"] = "bert"
    """bert: bert-base-uncased's WordPiece. trained: WordPiece trained on the run's texts; `vocab_size` is then an upper bound."""
    vocab_size: Positive
    """All tokens, those that a family appends ([DEC], [ENC]) included."""
    width: Positive
    layers: Positive
    heads: Positive
    intermediate: Positive
    """Hidden width of each feed-forward."""
    max_positions: Positive = 512
    """Of texts."""
    dropout: Share = 0.0
    """Of embeddings and of each block's output, in training (0.1 in BLIP, BLIP-2 and SOHO)."""
    attention_dropout: Share = 0.0
    """Of attention weights, in training (0.1 in BLIP, BLIP-2 and SOHO)."""
    norm_eps: float = 1e-12
    activation: Activation = "gelu"

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        check_heads(self.width, self.heads)
        return self


class TextConfig(BertConfig):
    """A BERT that serves as text encoder, image-grounded encoder and decoder; [DEC] and [ENC] are its last two ids."""

    shared: bool = True
    """Encoder and decoder share all but self-attention (BLIP section 3.2, Table 3)."""
    tied_vocabulary: bool = True
    """The output projection is the word embedding."""
    pad_id: int = 0
    cls_id: int = 101
    sep_id: int = 102

    @model_validator(mode="after")
    def _ids_are_tokens(self) -> Self:
        check_ids(self.vocabulary, self.vocab_size, pad_id=self.pad_id, cls_id=self.cls_id, sep_id=self.sep_id)
        return self

    @property
    def dec_id(self) -> int:
        return self.vocab_size - 2

    @property
    def enc_id(self) -> int:
        return self.vocab_size - 1


def check_heads(width: int, heads: int) -> None:
    """Raises: ValueError: If attention heads do not share the width equally."""
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}: change one of them")


def check_ids(vocabulary: str, vocab_size: int, **ids: int) -> None:
    """Raises: ValueError: If an id is no token. A vocabulary to be trained says its ids itself."""
    for name, token in ids.items():
        if vocabulary != "trained" and not 0 <= token < vocab_size:
            raise ValueError(f"{name} {token} is no token of a vocabulary of {vocab_size}: say which id it has")


def check_length(max_text_length: int, max_positions: int) -> None:
    """Raises: ValueError: If a text may be longer than there are positions."""
    if max_text_length > max_positions:
        raise ValueError(f"max_text_length {max_text_length} is above text.max_positions {max_positions}: lower it")
