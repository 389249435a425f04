"""A text and two pictures as BLIP reads them: each layer looks at both, and what it saw is merged (BLIP section 5.4).

Gives the text's first state; knows nothing of what it is classified as.

Axes at the end of tensor names: B texts, T tokens, W text width, N image tokens, D image width.
"""

import copy

import torch
from torch import Tensor, nn

from capfilt.modeling.layers import KeysValues, initialise
from capfilt.modeling.med.network import MED, with_first
from capfilt.modeling.text import MASKED, CrossBlock, TextTower


class TwinCross(nn.Module):
    """Cross-attention to each of two pictures, both begun from `cross`, which becomes the first; merged, residual, norm.

    Merged by the mean, or with `is_linear` by a fresh linear map of the two side by side.
    """

    def __init__(self, cross: CrossBlock, *, is_linear: bool, std: float) -> None:
        super().__init__()
        self.first, self.second = cross.attention, copy.deepcopy(cross.attention)
        self.norm, self.dropout = cross.norm, cross.dropout
        width = cross.attention.out.out_features
        self.merge = nn.Linear(2 * width, width) if is_linear else None
        if self.merge is not None:
            initialise(self.merge, std)

    def keys_values(self, first_BND: Tensor, second_BND: Tensor) -> tuple[KeysValues, KeysValues]:
        return self.first.keys_values(first_BND), self.second.keys_values(second_BND)

    def forward(self, x_BTW: Tensor, images: tuple[KeysValues, KeysValues]) -> Tensor:
        first_BTW, second_BTW = self.first(x_BTW, images[0]), self.second(x_BTW, images[1])
        if self.merge is None:
            merged_BTW = (first_BTW + second_BTW) / 2
        else:
            merged_BTW = self.merge(torch.cat([first_BTW, second_BTW], dim=-1))
        out_BTW: Tensor = self.norm(self.dropout(merged_BTW) + x_BTW)
        return out_BTW


class MedTwoImages(nn.Module):
    """The text encoder of `model`, which it takes as its own, with two pictures.

    The lower half of the layers takes the mean of both, the upper half a linear map (of BLIP's twelve the first six, and the
    others).
    """

    def __init__(self, model: MED) -> None:
        super().__init__()
        self.config = model.config
        self.text_encoder: TextTower = model.text_encoder
        layers = self.text_encoder.in_order()
        twins = []
        for number, layer in enumerate(layers):
            assert layer.cross is not None
            twins.append(TwinCross(layer.cross, is_linear=number >= len(layers) // 2, std=model.config.init_std))
        self.twins = nn.ModuleList(twins)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, first_BND: Tensor, second_BND: Tensor) -> Tensor:
        """[B, W]: the state of [ENC], grounded in both pictures.

        Args:
            ids_BT: Texts; position 0 becomes [ENC].
            mask_BT: 1 for tokens.
            first_BND: The first pictures, from `MED.encode_image`.
            second_BND: The second ones.
        """
        tower = self.text_encoder
        x_BTW: Tensor = tower.embeddings(with_first(ids_BT, self.config.text.enc_id))
        bias = (1 - mask_BT.to(x_BTW.dtype))[:, None, None, :] * MASKED
        last = len(self.twins) - 1
        for number, (layer, twin) in enumerate(zip(tower.in_order(), self.twins, strict=True)):
            assert isinstance(twin, TwinCross)
            x_BTW = layer.self_block(x_BTW, bias, causal=False, first_only=number == last)
            x_BTW = layer.feed_forward(twin(x_BTW, twin.keys_values(first_BND, second_BND)))
        return x_BTW[:, 0]
