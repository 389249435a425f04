"""Texts that a picture is not about, for ITM to find out: other pictures', by chance or near ones.

Works on a batch's token ids alone; knows nothing of networks and pictures. All chance comes from the caller's CPU generator.

Axes at the end of tensor names: B pairs, T text tokens, U different tokens of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from capfilt.config.train import ItmNegatives
from capfilt.modeling.batch import Batch
from capfilt.modeling.losses import draw_negatives

NEARNESS = 0.1
"""Temperature of the draw of a near text: one that shares 0.1 more of the weighted words is e times as likely."""
COMMON = 0.1
"""Weight of a word that stands in every text of the batch; a rarer one has the logarithm of how rare it is."""
EQUAL = 0.999
"""Shared weighted words from which on two texts say the same, whatever the order."""


@dataclass(frozen=True)
class Negatives:
    """A text for each picture of a batch, and whether there was any."""

    ids_BT: Tensor
    mask_BT: Tensor
    has_B: Tensor
    """bool; where it is False, the row means nothing."""


def negative_texts(kind: ItmNegatives, batch: Batch, specials: Sequence[int], generator: torch.Generator) -> Negatives:
    """Texts of other pictures (`image_ids_B`), on the batch's device.

    Args:
        kind: See `config.train.Matching`.
        batch: The pairs.
        specials: Ids that are no words: padding, [CLS], [SEP], [MASK].
        generator: On the CPU: the same draw on every device.
    """
    device = batch.ids_BT.device
    match kind:
        case "random":
            drawn_B, has_B = draw_negatives(torch.zeros(_same(batch).shape).masked_fill(_same(batch), -torch.inf), generator)
        case "near":
            drawn_B, has_B = _near(batch, specials, generator)
        case _:
            assert_never(kind)
    drawn_B = drawn_B.to(device)
    return Negatives(batch.ids_BT[drawn_B], batch.mask_BT[drawn_B], has_B.to(device))


def _same(batch: Batch) -> Tensor:
    """bool [B, B] on the CPU: pairs of one picture."""
    return (batch.image_ids_B[:, None] == batch.image_ids_B[None]).cpu()


def _near(batch: Batch, specials: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[B] row of the text drawn, and whether there is any: the more words are shared, rare ones counting more, the likelier."""
    ids_BT, mask_BT = batch.ids_BT.cpu(), batch.mask_BT.cpu()
    words_U, place_BT = torch.unique(ids_BT, return_inverse=True)
    is_word_BT = (mask_BT != 0) & ~torch.isin(ids_BT, torch.tensor(list(specials)))
    has_BU = torch.zeros(len(ids_BT), len(words_U)).scatter_reduce_(1, place_BT, is_word_BT.float(), "amax")
    rarity_U = (len(ids_BT) / has_BU.sum(0).clamp_min(1)).log().clamp_min(COMMON)
    weighed_BU = F.normalize(has_BU * rarity_U, dim=1)
    shared_BB = weighed_BU @ weighed_BU.T
    return draw_negatives((shared_BB / NEARNESS).masked_fill(_same(batch) | (shared_BB > EQUAL), -torch.inf), generator)
