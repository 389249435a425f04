"""BLIP's three losses as pure functions: image-text contrast, image-text matching, language modelling (BLIP section 3.1).

Know nothing of networks, queues or of how negatives are drawn.

Axes at the end of tensor names: B pairs, K candidates (batch first, then queue), R texts, T tokens, M kept tokens, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["itc", "itm", "lm"]
Negatives = tuple[Tensor, Tensor]
"""Two [B] of indices into the batch: text i's negative image, and image i's negative text."""
IGNORED = -100
"""Label of a position that no loss sees."""


def soft_targets(sims_BK: Tensor, positives_BK: Tensor, alpha: float) -> Tensor:
    """alpha * softmax(momentum similarities) + (1 - alpha) * positives, no gradient (ALBEF section 3.3)."""
    return alpha * sims_BK.detach().softmax(1) + (1 - alpha) * positives_BK


def one_hot_positives(pairs: int, candidates: int, device: torch.device) -> Tensor:
    """[B, K]: pair i's own candidate is column i."""
    return torch.eye(pairs, candidates, device=device)


def positives_by_image(image_ids_B: Tensor, candidate_ids_K: Tensor) -> Tensor:
    """[B, K]: every candidate of the same image is a positive, each row summing to one (BLIP's retrieval fine-tuning)."""
    same_BK = (image_ids_B[:, None] == candidate_ids_K[None]).float()
    return same_BK / same_BK.sum(1, keepdim=True)


def itc_loss(sims_i2t_BK: Tensor, sims_t2i_BK: Tensor, targets_i2t_BK: Tensor, targets_t2i_BK: Tensor) -> Tensor:
    """Mean of both directions' cross-entropy with soft targets; similarities are already divided by the temperature."""
    return (F.cross_entropy(sims_i2t_BK, targets_i2t_BK) + F.cross_entropy(sims_t2i_BK, targets_t2i_BK)) / 2


def itm_loss(logits_R2: Tensor, labels_R: Tensor) -> Tensor:
    """Cross-entropy; label 1 is a match, `IGNORED` a pair that could not be formed."""
    return F.cross_entropy(logits_R2, labels_R, ignore_index=IGNORED)


def lm_labels(ids_RT: Tensor, mask_RT: Tensor, prompt_length: int = 0) -> Tensor:
    """[R, T - 1]: the label of position t is token t + 1; padding and the first `prompt_length` tokens are ignored."""
    labels_RT = ids_RT.masked_fill(mask_RT == 0, IGNORED)
    labels_RT[:, :prompt_length] = IGNORED
    return labels_RT[:, 1:]


def lm_loss(logits_MV: Tensor, labels_M: Tensor, smoothing: float = 0.1) -> Tensor:
    """Mean over the kept tokens of the label-smoothed cross-entropy; [SEP] is a target."""
    return F.cross_entropy(logits_MV, labels_M, label_smoothing=smoothing, ignore_index=IGNORED)


def log_weights(sims_BB: Tensor, forbidden_BB: Tensor, floor: float = 0.0) -> Tensor:
    """Logarithms of the weights by which a hard negative is drawn: softmax(similarities) + floor, nothing where forbidden."""
    weights = sims_BB.detach().float().log_softmax(1)
    if floor:
        weights = (weights.exp() + floor).log()
    return weights.masked_fill(forbidden_BB, -torch.inf)


def draw_negatives(log_weights_BB: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One column per row, drawn with probability proportional to its weight; and whether the row had any to draw from.

    Gumbel-max with noise from a CPU generator: the same draw on every device, and never a division by an underflowed sum.
    """
    noise = torch.rand(log_weights_BB.shape, generator=generator, dtype=torch.float64).clamp_min_(1e-300)
    gumbel = -(-noise.log()).clamp_min_(1e-300).log()
    return (log_weights_BB + gumbel.to(log_weights_BB)).argmax(1), (log_weights_BB > -torch.inf).any(1)
