"""CoCa's image side: the encoder (ViT or ConvNet) and the attentional poolers on top of it (CoCa section 3.2).

Knows nothing of texts.

Axes at the end of tensor names: B images, C channels, H and W pixels, N image tokens, D image width, Q queries, P pooler width.
"""

from typing import assert_never, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.coca import CocaConvNetConfig, CocaImageConfig, CocaPoolerConfig, CocaVitConfig
from capfilt.modeling.layers import CrossAttention, FeedForward, attend, join_heads, split_heads
from capfilt.modeling.text import MASKED
from capfilt.modeling.vision import ConvStem, PatchStem, VisionTransformer


class ClipVisionTransformer(VisionTransformer):
    """The ViT of CLIP: a stem without bias, a norm before the first block, none after the last."""

    def __init__(self, config: CocaVitConfig) -> None:
        super().__init__(config)
        self.stem = PatchStem(3, config.width, config.patch, stride=config.patch, bias=False)
        del self.norm
        self.norm_before = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, pixels_BCHW: Tensor, *, first_only: bool = False) -> Tensor:
        """[B, N, D]; [B, 1, D] with `first_only`."""
        grid_BDHW = self.stem(pixels_BCHW)
        x_BND = torch.cat([self.cls.expand(len(grid_BDHW), -1, -1), grid_BDHW.flatten(2).transpose(1, 2)], dim=1)
        x_BND = cast("Tensor", self.norm_before(x_BND + self.positions_for(grid_BDHW.shape[-1])))
        for i, block in enumerate(self.blocks):
            x_BND = block(x_BND, first_only=first_only and i == len(self.blocks) - 1)
        return x_BND


class ConvBlock(nn.Module):
    """Depthwise convolution, norm, feed-forward, residual (ConvNeXt, arXiv:2201.03545)."""

    def __init__(self, config: CocaConvNetConfig) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(config.width, config.width, config.kernel, padding=config.kernel // 2, groups=config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config.width, int(config.width * config.mlp_ratio), config.activation)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        mixed_BHWD = self.mlp(self.norm(self.depthwise(x_BDHW).permute(0, 2, 3, 1)))
        out_BDHW: Tensor = x_BDHW + mixed_BHWD.permute(0, 3, 1, 2)
        return out_BDHW


class ConvNet(nn.Module):
    """Pixels to one vector per place of the last grid, row by row; no class token, no positions."""

    def __init__(self, config: CocaConvNetConfig) -> None:
        super().__init__()
        self.stem = ConvStem(config.patch, config.width)
        self.blocks = nn.Sequential(*(ConvBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, N, D], after the final norm."""
        tokens_BND: Tensor = self.norm(self.blocks(self.stem(pixels_BCHW)).flatten(2).transpose(1, 2))
        return tokens_BND


def image_encoder(config: CocaImageConfig) -> nn.Module:
    """[B, 3, H, W] -> [B, N, D]."""
    match config:
        case CocaVitConfig():
            return ClipVisionTransformer(config) if config.style == "clip" else VisionTransformer(config)
        case CocaConvNetConfig():
            return ConvNet(config)
        case _:
            assert_never(config)


class AttentionalPooler(nn.Module):
    """Learned queries that attend to tokens once: any number of tokens in, `queries` vectors out.

    The paper's adapter for every use downstream: one with a single query and a linear layer classifies frozen image tokens, the
    tokens of all frames of a video (section 3.3), or the decoder's outputs (appendix B).
    """

    def __init__(self, token_width: int, width: int, heads: int, queries: int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.norm_query = nn.LayerNorm(width, norm_eps)
        self.norm_tokens = nn.LayerNorm(token_width, norm_eps)
        self.attention = CrossAttention(width, token_width, heads)

    def forward(self, tokens_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, Q, P]. `mask_BN`: 1 for tokens, 0 for those that may not be seen; None sees all."""
        keys, values = self.attention.keys_values(self.norm_tokens(tokens_BND))
        queries = split_heads(self.attention.q(self.norm_query(self.query))[None], self.attention.heads)
        bias = None if mask_BN is None else (1 - mask_BN.to(keys.dtype))[:, None, None, :] * MASKED
        mixed = attend(queries.expand(len(keys), -1, -1, -1), keys, values, bias)
        pooled_BQP: Tensor = self.attention.out(join_heads(mixed))
        return pooled_BQP


class Poolers(nn.Module):
    """Image tokens to the vectors that the rest of the network sees."""

    def __init__(self, config: CocaPoolerConfig, image_width: int) -> None:
        super().__init__()
        self.layout = config.layout
        has_own_norms = config.norm == "after"
        self.norm_before = nn.Identity() if has_own_norms else nn.LayerNorm(image_width, config.norm_eps)
        self.captioning = AttentionalPooler(image_width, config.width, config.heads, config.queries, config.norm_eps)
        self.norm_captioning = nn.LayerNorm(config.width, config.norm_eps) if has_own_norms else nn.Identity()
        if config.layout != "joint":
            seen = image_width if config.layout == "parallel" else config.width
            self.contrastive = AttentionalPooler(seen, config.width, config.heads, 1, config.norm_eps)
            self.norm_contrastive = nn.LayerNorm(config.width, config.norm_eps) if has_own_norms else nn.Identity()

    def forward(
        self, tokens_BND: Tensor, *, contrastive: bool = True, captioning: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """The contrastive vector [B, P] and the decoder's [B, Q, P]; None for what is not asked, whose weights then get no
        gradient, not even zeros that weight decay would follow.
        """
        tokens_BND = self.norm_before(tokens_BND)
        caption_BQP = None
        if captioning or self.layout != "parallel":
            caption_BQP = self.norm_captioning(self.captioning(tokens_BND))
        if self.layout == "joint":
            assert caption_BQP is not None
            return caption_BQP[:, 0], caption_BQP[:, 1:]
        if not contrastive:
            return None, caption_BQP
        seen = tokens_BND if self.layout == "parallel" else caption_BQP
        return self.norm_contrastive(self.contrastive(seen))[:, 0], caption_BQP


def mean_feature(features_BFE: Tensor) -> Tensor:
    """[B, E], unit norm: the mean of the unit-norm features of F frames (CoCa section 3.3, zero-shot video retrieval)."""
    return F.normalize(features_BFE.mean(1), dim=-1)
