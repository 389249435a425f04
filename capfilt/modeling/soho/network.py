"""SOHO, seeing out of the box: pictures and texts end to end through one cross-modal transformer (arXiv:2104.03135).

A trainable ResNet, 1x1 convolution and 2x2 max pooling give features; the visual dictionary turns them into visual tokens with
2-D sine positions; text tokens and visual tokens then run through one BERT together. Gives dictionary indices, ITM, MLM and MVM
logits and, on request, the losses it is trained with; knows nothing of optimisers, tokenising or files.

Axes at the end of tensor names: B images, R texts (rows), T text tokens, N visual tokens, S both (text first), D width of
features, tokens and states, H and W positions of the grid, K codes, V vocabulary, C channels, X and Y pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.parts import BertConfig
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.modeling.batch import Batch, as_batch, known_names
from capfilt.modeling.layers import initialise
from capfilt.modeling.soho.dictionary import VisualEmbedding, visible_positions
from capfilt.modeling.soho.resnet import ResNet
from capfilt.modeling.text import MASKED, FeedForwardBlock, SelfBlock, TextEmbeddings, TextLayer

if TYPE_CHECKING:
    from capfilt.modeling.soho.training import Choices

SohoLoss = Literal["mlm", "mvm", "itm"]


class TypedTextEmbeddings(TextEmbeddings):
    """BERT's: word, position and token type; every token is of type 0."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.types = nn.Embedding(2, config.width)

    def forward(self, ids_RT: Tensor, start: int = 0) -> Tensor:
        positions_TD = self.positions.weight[start : start + ids_RT.shape[1]] + self.types.weight[0]
        out_RTD: Tensor = self.dropout(self.norm(self.words(ids_RT) + positions_TD))
        return out_RTD


class CrossModalTransformer(nn.Module):
    """A BERT whose tokens are those of a text, then those of a picture; every one sees every other (SOHO section 3.3)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = TypedTextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(SelfBlock(config), None, FeedForwardBlock(config)) for _ in range(config.layers))

    def forward(
        self, ids_RT: Tensor, mask_RT: Tensor, tokens_RND: Tensor, visible_RN: Tensor, *, first_only: bool = False
    ) -> Tensor:
        """States [R, S, D], or [R, 1, D] with `first_only`: the last layer then works for position 0 only."""
        words_RTD: Tensor = self.embeddings(ids_RT)
        x_RSD = torch.cat([words_RTD, tokens_RND.to(words_RTD.dtype)], dim=1)
        visible_RS = torch.cat([mask_RT, visible_RN.to(mask_RT.dtype)], dim=1).to(x_RSD.dtype)
        bias = (1 - visible_RS)[:, None, None, :] * MASKED
        last = len(self.layers) - 1
        for i, layer in enumerate(cast("list[TextLayer]", list(self.layers))):
            x_RSD = layer.self_block(x_RSD, bias, causal=False, first_only=first_only and i == last)
            x_RSD = layer.feed_forward(x_RSD)
        return x_RSD


class SOHO(nn.Module):
    """Text ids are the tokenizer's: [CLS] ... [SEP], padded right. `visible_BHW` says which positions of the grid are no padding;
    None is all of them, as with square pictures."""

    def __init__(self, config: SohoArchitecture) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNet(config.image)
        self.visual = VisualEmbedding(config.dictionary, config.image.out_width, config.text.width)
        self.transformer = CrossModalTransformer(config.text)
        self.itm_head = nn.Linear(config.text.width, 2, bias=False)
        initialise(self, config.init_std)

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        config: "SohoArchitecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "SOHO":
        """A SOHO in evaluation mode with the weights of the original code (researchmm/soho).

        Args:
            state_dict: That of SOHOSingleStreamPre under its own names (`backbone.*`, `neck.*`, `language.bert.*`, `head.*`),
                bare or under `state_dict` or `model`, with or without `module.`.
            config: What shapes do not say; None takes the published configuration (heads of 64, erf GELU, dropout 0.1, averages
                of counts with decay 0.4, unused codes fade, probability 0.015 of masking one code per batch, stem and first
                stage frozen). A SohoArchitecture, the name or path of an architecture YAML, or a dictionary of either's fields
                or of the original's own (`neck: {decay: ..., mask_prob: ...}`, `language: {num_attention_heads: ...}`, ...).

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
            ConfigError: If `config` describes no architecture.
        """
        from capfilt.modeling.soho.original import from_original

        return from_original(state_dict, config)

    def load_trunk(self, state_dict: Mapping[str, Any]) -> None:
        """ImageNet weights of torchvision's or timm's ResNet of this size into the trunk; their classifier is left out.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
        """
        from capfilt.modeling.soho.original import load_trunk

        load_trunk(self, state_dict)

    # ── pictures ────────────────────────────────────────────────────────────────────────────────────────────

    def visual_features(self, pixels: Tensor) -> Tensor:
        """[B, D, H, W]: trunk, 2x2 max pooling and 1x1 convolution; the v of SOHO section 3.1."""
        return self.visual.features(self.trunk(pixels))

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """H and W of the features of such pictures."""
        height, width = (-(-side // self.config.image.stride) // 2 for side in pixels.shape[-2:])
        return height, width

    def visible(self, pixels: Tensor, sizes_B2: Tensor | None) -> Tensor:
        """bool [B, H, W]: positions that are no padding, from each picture's height and width in pixels; None: all."""
        canvas = (pixels.shape[-2], pixels.shape[-1])
        if sizes_B2 is None:
            sizes_B2 = torch.tensor([canvas], device=pixels.device).expand(len(pixels), -1)
        return visible_positions(sizes_B2.to(pixels.device), canvas, self.grid(pixels))

    def dictionary_indices(self, features: Tensor) -> Tensor:
        """[B, N] int64: the code nearest to each feature by L2 (SOHO section 3.2)."""
        return self.visual.dictionary.indices(self.visual.looked_up(features)).view(len(features), -1)

    def update_dictionary(self, features: Tensor, indices: Tensor | None = None) -> None:
        """Move the codes by one batch (SOHO section 3.2; `config.dictionary.update` says how). No gradient.

        `indices`: from `dictionary_indices`; None asks it.
        """
        if indices is None:
            indices = self.dictionary_indices(features)
        with torch.no_grad():
            self.visual.dictionary.update(self.visual.looked_up(features), indices.flatten())

    def visual_tokens(
        self,
        features: Tensor,
        indices: Tensor | None = None,
        *,
        visible_BHW: Tensor | None = None,
        masked_BN: Tensor | None = None,
    ) -> Tensor:
        """[B, N, D]: what the transformer reads of a picture.

        Args:
            features: From `visual_features`.
            indices: Their codes; None looks them up. The codes' values are those the dictionary has now.
            visible_BHW: See the class.
            masked_BN: True where the mask takes the token's place; its position stays known.
        """
        looked_up_MD = self.visual.looked_up(features)
        if indices is None:
            indices = self.visual.dictionary.indices(looked_up_MD)
        if visible_BHW is None:
            visible_BHW = features.new_ones(features.shape[0], *features.shape[2:], dtype=torch.bool)
        mixed_BND = self.visual(features, looked_up_MD, indices.flatten())
        return self.visual.place(mixed_BND, visible_BHW, masked_BN)

    def encode_image(self, pixels: Tensor, visible_BHW: Tensor | None = None) -> Tensor:
        """[B, N, D]: visual tokens, nothing masked; what the methods below call `image_embeds`."""
        return self.visual_tokens(self.visual_features(pixels), visible_BHW=visible_BHW)

    def image_features(self, features: Tensor, visible_BHW: Tensor | None = None) -> Tensor:
        """[B, D], unit norm: the mean feature, which no text has a part in. For comparing pictures with pictures."""
        if visible_BHW is None:
            return F.normalize(features.mean((2, 3)), dim=-1)
        return F.normalize((features * visible_BHW[:, None]).sum((2, 3)), dim=-1)

    # ── pictures and texts ──────────────────────────────────────────────────────────────────────────────────

    def states(
        self,
        ids: Tensor,
        mask: Tensor,
        image_embeds: Tensor,
        image_of_text: Tensor | None = None,
        *,
        visible_BHW: Tensor | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """[R, S, D]: joint states of texts, each with a picture; the text's come first. [R, 1, D] with `first_only`.

        Args:
            ids: Texts.
            mask: 1 for tokens.
            image_embeds: From `encode_image` or `visual_tokens`.
            image_of_text: [R] index of each text's image. None: R is a multiple of B and texts come image by image.
            visible_BHW: See the class.
            first_only: Position 0 alone.
        """
        rows, images = len(ids), len(image_embeds)
        if visible_BHW is None:
            visible_BN = mask.new_ones(image_embeds.shape[:2])
        else:
            visible_BN = visible_BHW.flatten(1)
        if image_of_text is None and rows != images:
            image_of_text = torch.arange(images, device=ids.device).repeat_interleave(rows // images)
        if image_of_text is not None:
            image_embeds, visible_BN = image_embeds[image_of_text], visible_BN[image_of_text]
        found: Tensor = self.transformer(ids, mask, image_embeds, visible_BN, first_only=first_only)
        return found

    def itm_logits(
        self,
        ids: Tensor,
        mask: Tensor,
        image_embeds: Tensor,
        image_of_text: Tensor | None = None,
        *,
        visible_BHW: Tensor | None = None,
    ) -> Tensor:
        """[R, 2]; the softmax of index 1 is the probability that text and image match. Arguments as in `states`."""
        found = self.states(ids, mask, image_embeds, image_of_text, visible_BHW=visible_BHW, first_only=True)
        return self.match(found[:, 0])

    def mlm_logits(
        self,
        ids: Tensor,
        mask: Tensor,
        image_embeds: Tensor,
        image_of_text: Tensor | None = None,
        *,
        visible_BHW: Tensor | None = None,
    ) -> Tensor:
        """[R, T, V]: scores of the word at each position. Arguments as in `states`."""
        found = self.states(ids, mask, image_embeds, image_of_text, visible_BHW=visible_BHW)
        return self.words(found[:, : ids.shape[1]])

    def mvm_logits(
        self,
        ids: Tensor,
        mask: Tensor,
        image_embeds: Tensor,
        image_of_text: Tensor | None = None,
        *,
        visible_BHW: Tensor | None = None,
    ) -> Tensor:
        """[R, N, K]: scores of the code at each position of the picture. Arguments as in `states`; `image_embeds` is usually
        from `visual_tokens` with something masked."""
        found = self.states(ids, mask, image_embeds, image_of_text, visible_BHW=visible_BHW)
        return self.codes(found[:, ids.shape[1] :])

    def match(self, states_D: Tensor) -> Tensor:
        """[..., D] of position 0 -> [..., 2]."""
        logits_2: Tensor = self.itm_head(states_D)
        return logits_2

    def words(self, states_D: Tensor) -> Tensor:
        """[..., D] -> [..., V]: products with the word embeddings, no bias."""
        return F.linear(states_D, self.transformer.embeddings.words.weight)

    def codes(self, states_D: Tensor) -> Tensor:
        """[..., D] -> [..., K]: cosines with the codes, which get no gradient; no temperature."""
        codes_KD = F.normalize(self.visual.dictionary.codes_KD, dim=-1)
        return F.linear(F.normalize(states_D, dim=-1), codes_KD.to(states_D.dtype))

    def losses(
        self,
        batch: Batch | Mapping[str, Tensor],
        *,
        choices: "Choices | None" = None,
        names: Sequence[SohoLoss] = ("mlm", "mvm", "itm"),
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """One step's losses by name; their sum is SOHO's (section 3.3). In training mode the dictionary moves on.

        Args:
            batch: A Batch, or a dictionary of its tensors: `pixels` [B, C, X, Y], `ids` [B, T], `mask` [B, T] and, where wanted,
                `image_ids` [B] and `sizes` [B, 2], height and width of each picture in pixels without padding.
            choices: What is masked and which texts are exchanged; None draws them from `seed`.
            names: The losses wanted. What no loss asks for is not masked by a draw.
            seed: Of the draw.
        """
        from capfilt.modeling.soho.training import draw_choices, losses_of

        pixels_BCXY, text, sizes_B2 = parts_of(batch)
        visible_BHW = self.visible(pixels_BCXY, sizes_B2)
        if choices is None:
            generator = torch.Generator().manual_seed(seed)
            choices = draw_choices(text, visible_BHW, self.config, generator, names)
        return losses_of(self, pixels_BCXY, visible_BHW, choices, names)


def parts_of(batch: Batch | Mapping[str, Tensor]) -> tuple[Tensor, Batch, Tensor | None]:
    """Pixels, the batch as a Batch, and sizes where it has them; without `image_ids` every pair is an image of its own."""
    if isinstance(batch, Batch):
        return batch.pixels_BCHW, batch, None
    batch = known_names(batch)
    made = as_batch(batch)
    return made.pixels_BCHW, made, batch.get("sizes")
