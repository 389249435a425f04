"""What a CoCa looks like: the typed form of models/coca_*.yaml.

Only sizes and named choices; knows nothing of weights, training recipes or torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.architectures.parts import (
    CLIP_MEAN,
    CLIP_STD,
    Activation,
    Rgb,
    Role,
    VisionConfig,
    check_heads,
    check_ids,
    check_length,
)
from capfilt.config.base import Positive, Section


class CocaVitConfig(VisionConfig):
    """A ViT; all its tokens, the class token too, go to the poolers."""

    kind: Literal["vit"]
    style: Literal["vit", "clip"] = "vit"
    """vit: a norm after the last block. clip: a norm before the first block and none after the last, a stem without bias (CLIP,
    open_clip's CoCa)."""

    @model_validator(mode="after")
    def _clip_has_patches(self) -> Self:
        if self.style == "clip" and (self.stem, self.positions) != ("patch", "learned"):
            raise ValueError(
                f"style: clip goes with stem: patch and positions: learned, found {self.stem} and {self.positions}: change one"
            )
        return self


class CocaConvNetConfig(Section):
    """A ConvNet: strided 3x3 convolutions, then residual blocks of a depthwise convolution and a feed-forward (ConvNeXt)."""

    kind: Literal["convnet"]
    size: Positive
    """Pixels of the square input."""
    patch: Positive
    """Pixels per token side, a power of two: the stride of the whole network."""
    width: Positive
    layers: Positive
    """Residual blocks."""
    kernel: Positive = 7
    """Side of the depthwise convolution, odd."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    norm_eps: float = 1e-6
    activation: Activation = "gelu"

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}: change one of them")
        if self.patch & (self.patch - 1) or self.patch < 2:
            raise ValueError(f"patch must be a power of two of at least 2, found {self.patch}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, found {self.kernel}")
        return self


CocaImageConfig = Annotated[CocaVitConfig | CocaConvNetConfig, Field(discriminator="kind")]


class CocaPoolerConfig(Section):
    """Attentional poolers: learned queries that attend to the image encoder's tokens once (CoCa section 3.2)."""

    layout: Literal["joint", "parallel", "cascade"] = "cascade"
    """joint: one pooler, its query 0 for the contrastive loss, the others for the decoder (open_clip's released weights).
    parallel: two poolers, both on the image tokens (the paper's Figure 2). cascade: the contrastive pooler looks at what the
    captioning pooler gives (the paper's models)."""
    queries: Positive = 256
    """Vectors per image. joint: all of them (released: 1 + 255). Otherwise the decoder's; one contrastive query comes to them."""
    width: Positive
    heads: Positive
    norm: Literal["after", "before"] = "after"
    """after: a norm on what each pooler gives. before: one norm on the image tokens instead (open_clip's own parallel and
    cascade, which it calls untested)."""
    norm_eps: float = 1e-5

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.width, self.heads)
        if self.layout == "joint" and self.queries < 2:
            raise ValueError("layout: joint needs at least 2 queries, one for the contrastive loss and one for the decoder")
        if self.layout == "joint" and self.norm == "before":
            raise ValueError("layout: joint goes with norm: after: change one of them")
        return self


class CocaTextConfig(Section):
    """The decoder's unimodal half (pre-norm, causal, no cross-attention) and what both halves share."""

    vocabulary: Literal["bert", "trained", "clip"] = "bert"
    """bert: bert-base-uncased's WordPiece. trained: WordPiece trained on the run's texts; `vocab_size` is then an upper bound.
    clip: CLIP's byte pairs (open_clip's released weights)."""
    vocab_size: Positive
    width: Positive
    layers: Positive
    heads: Positive
    intermediate: Positive
    """Hidden width of the feed-forward."""
    max_positions: Positive = 76
    """Tokens of the longest text; the learned [CLS] comes on top."""
    cls_mask: Literal["corrected", "released"] = "corrected"
    """corrected: padding is hidden, [CLS] sees the text and itself. released: the mask of all weights that open_clip published,
    shifted by one: the first padding token is visible, and [CLS] sees itself only where the text fills its length."""
    cls_position: Literal["text", "padded"] = "text"
    """Position embedding of [CLS]. text: the one after the text's last token, so that padding changes nothing. padded: the one
    after the padding (open_clip): texts must then be padded to one length, open_clip's is `max_positions`."""
    norm_eps: float = 1e-5
    activation: Activation = "gelu"
    pad_id: int = 0
    cls_id: int = 101
    """The token that starts a text ([CLS], CLIP's <start_of_text>); not the learned [CLS] at its end, which has no id."""
    sep_id: int = 102
    """The token that ends a text."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.width, self.heads)
        check_ids(self.vocabulary, self.vocab_size, pad_id=self.pad_id, cls_id=self.cls_id, sep_id=self.sep_id)
        return self


class CocaMultimodalConfig(Section):
    """The decoder's second half: causal self-attention and cross-attention to the captioning queries, as wide as the first."""

    layers: Positive
    """The paper splits the decoder in half: as many as `text.layers`."""
    heads: Positive
    intermediate: Positive
    self_mlp: bool = False
    """A feed-forward after self-attention too, not only after cross-attention (open_clip)."""


class CocaArchitecture(Section):
    """CoCa, contrastive captioner (arXiv:2205.01917)."""

    kind: Literal["coca"]
    image: CocaImageConfig
    pooler: CocaPoolerConfig
    text: CocaTextConfig
    multimodal: CocaMultimodalConfig
    embed_dim: Positive
    """Width of the common image-text space."""
    max_text_length: Positive = 76
    """Tokens of a text in training, specials counted."""
    image_mean: Rgb = CLIP_MEAN
    image_std: Rgb = CLIP_STD
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of fresh linear and embedding weights."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.text.width % self.multimodal.heads:
            raise ValueError(
                f"text.width {self.text.width} is not a multiple of multimodal.heads {self.multimodal.heads}: change one of them"
            )
        check_length(self.max_text_length, self.text.max_positions)
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """Every CoCa captions (decoder) and filters (contrastive cosine)."""
        return ("captioner", "filter")
