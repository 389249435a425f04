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
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}: change one of them")
        if self.stem == "conv" and (self.patch & (self.patch - 1) or self.patch < 2):
            raise ValueError(f"stem: conv needs a patch that is a power of two, found {self.patch}")
        if self.positions == "sincos2d" and self.width % 4:
            raise ValueError(f"positions: sincos2d needs a width that is a multiple of 4, found {self.width}")
        return self


class TextConfig(Section):
    """A BERT (post-norm) that serves as text encoder, image-grounded encoder and image-grounded decoder."""

    vocabulary: Literal["bert", "trained"] = "bert"
    """bert: bert-base-uncased's WordPiece. trained: WordPiece trained on the run's texts; `vocab_size` is then an upper bound."""
    vocab_size: Positive
    """All tokens, [DEC] and [ENC] included: they are the last two ids."""
    width: Positive
    layers: Positive
    heads: Positive
    intermediate: Positive
    """Hidden width of the feed-forward."""
    max_positions: Positive = 512
    dropout: Share = 0.0
    """Of embeddings and of each block's output, in training (BLIP 0.1)."""
    attention_dropout: Share = 0.0
    """Of attention weights, in training (BLIP 0.1)."""
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    shared: bool = True
    """Encoder and decoder share all but self-attention (BLIP section 3.2, Table 3)."""
    tied_vocabulary: bool = True
    """The output projection is the word embedding."""
    pad_id: int = 0
    cls_id: int = 101
    sep_id: int = 102

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}: change one of them")
        for name, token in (("pad_id", self.pad_id), ("cls_id", self.cls_id), ("sep_id", self.sep_id)):
            if self.vocabulary == "bert" and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} {token} is no token of a vocabulary of {self.vocab_size}: say which id it has")
        return self

    @property
    def dec_id(self) -> int:
        return self.vocab_size - 2

    @property
    def enc_id(self) -> int:
        return self.vocab_size - 1
