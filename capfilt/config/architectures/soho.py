"""What a SOHO looks like: the typed form of models/soho_*.yaml.

Only sizes and named choices; knows nothing of weights, training recipes or torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.architectures.parts import BertConfig, Rgb, Role, check_ids, check_length
from capfilt.config.base import Positive, Section, Share


class ResNetConfig(Section):
    """The trainable trunk: a ResNet without its pooling and classifier (arXiv:1512.03385)."""

    size: Positive
    """Pixels of the square input, a multiple of the trunk's stride times two (a 2x2 max pooling follows the trunk)."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: a 7x7 convolution of stride 2, then 3x3 max pooling of stride 2. small: a 3x3 convolution of stride 2, for
    pictures of a few dozen pixels."""
    block: Literal["basic", "bottleneck"] = "basic"
    """basic: two 3x3 convolutions (ResNet-18, -34). bottleneck: 1x1, 3x3, 1x1, four times as wide outside (ResNet-50, -101)."""
    width: Positive = 64
    """Channels of the first stage; each further stage halves the sides and doubles it."""
    blocks: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (2, 2, 2, 2)
    """Blocks of each stage. ResNet-18: 2, 2, 2, 2. ResNet-101: 3, 4, 23, 3."""
    frozen_stages: Annotated[int, Field(ge=-1)] = -1
    """Never trained, norms in evaluation mode. -1: nothing; 0: the stem; 1: the stem and the first stage (the published code,
    whose trunk starts from ImageNet)."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.size % (2 * self.stride):
            raise ValueError(
                f"size {self.size} is not a multiple of {2 * self.stride}, trunk stride times 2x2 pooling: change size or blocks"
            )
        if self.frozen_stages > len(self.blocks):
            raise ValueError(f"frozen_stages {self.frozen_stages} is above the {len(self.blocks)} stages there are: lower it")
        return self

    @property
    def stride(self) -> int:
        """Pixels per side of one feature."""
        return (4 if self.stem == "imagenet" else 2) << (len(self.blocks) - 1)

    @property
    def out_width(self) -> int:
        """Channels of the last stage."""
        return (self.width << (len(self.blocks) - 1)) * (4 if self.block == "bottleneck" else 1)


class VisualDictionaryConfig(Section):
    """The visual dictionary: features to the nearest of its codes, which follow the features (SOHO section 3.2)."""

    codes: Positive = 2048
    update: Literal["ema_mean", "ema_count"] = "ema_mean"
    """ema_mean (paper): code <- decay * code + (1 - decay) * mean of the batch's features that fell on it. ema_count (published
    code): running averages of how many features fell on a code and of their sum; the code is sum / count, smoothed."""
    decay: Share = 0.99
    """Paper 0.99; the published code's averages have 0.4."""
    unused: Literal["keep", "fade"] = "keep"
    """Of `update: ema_count`, a code on which no feature of the batch fell. keep: it stays where it is. fade (published code):
    it goes to zero, one that was never used at the first step, the others within a few. ema_mean always keeps."""
    line_before: bool = False
    """A linear map before the look-up (published code: possible, off)."""
    line_after: bool = True
    """A linear map behind the look-up (published code: on; the paper has none)."""
    mix: Literal["gate", "sum", "code"] = "gate"
    """What a visual token is made of. gate (published): code and feature, weighed by the softmax of two channels of a 1x1
    convolution on both. sum: code + feature. code (paper): the code alone."""
    norm: bool = True
    """Batch norm behind the 1x1 convolutions that make features and gate."""


class SohoTextConfig(BertConfig):
    """The cross-modal transformer: a BERT (bidirectional) over text tokens and visual tokens together."""

    pad_id: int = 0
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ids = {"pad_id": self.pad_id, "cls_id": self.cls_id, "sep_id": self.sep_id, "mask_id": self.mask_id}
        check_ids(self.vocabulary, self.vocab_size, **ids)
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which 2-D sine positions need: change it")
        return self


class SohoArchitecture(Section):
    """SOHO, seeing out of the box (arXiv:2104.03135): pictures and texts end to end, without a detector."""

    kind: Literal["soho"]
    image: ResNetConfig
    dictionary: VisualDictionaryConfig = VisualDictionaryConfig()
    text: SohoTextConfig
    freeze_trunk_epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs at the start of pre-training in which the trunk does not learn, so that the dictionary settles first (paper section
    3.2: 10, from ImageNet's weights; a trunk with random weights has nothing to keep: 0)."""
    mlm_probability: Share = 0.15
    """Of a word to be predicted: 80 % of them are hidden, 10 % replaced by a random one, 10 % left as they are (BERT)."""
    mvm_probability: Share = 0.15
    """Of a picture to have all positions of one code masked (paper 0.15, published code 0.015)."""
    mvm_draw: Literal["pair", "batch"] = "pair"
    """The position whose code is masked: pair (paper): one drawn for each pair; batch (published code): one for the batch."""
    negative_probability: Share = 0.5
    """Of a picture to get another picture's text, which ITM then has to find out."""
    max_text_length: Positive = 30
    """Tokens of a text, specials counted (published code 16)."""
    image_mean: Rgb = (0.485, 0.456, 0.406)
    image_std: Rgb = (0.229, 0.224, 0.225)
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of fresh linear and embedding weights; convolutions follow ResNet's own rule."""

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        check_length(self.max_text_length, self.text.max_positions)
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """A SOHO filters; it has no decoder."""
        return ("filter",)

    @property
    def embed_dim(self) -> int:
        """Width of a picture's embedding."""
        return self.text.width
