"""What is done to next-token scores before a token is chosen: the repetition penalty, and the cut to the nucleus.

Knows nothing of networks, of how a choice is made, or of beams.

Axes at the end of tensor names: R rows, V vocabulary, L tokens so far, K candidate tokens.
"""

import torch
from torch import Tensor

PREFIX = 256
"""Tokens looked at first: at top_p 0.9 a trained captioner's nucleus is nearly always smaller."""
WIDENING = 8
"""How many times more are looked at where a nucleus reaches further."""


def penalised(scores_RV: Tensor, ids_RL: Tensor, penalty: float) -> Tensor:
    """Scores of tokens that the row already has, divided by `penalty` if positive and multiplied if negative (CTRL)."""
    if penalty == 1.0:
        return scores_RV
    seen_RL = scores_RV.gather(1, ids_RL)
    return scores_RV.scatter(1, ids_RL, torch.where(seen_RL < 0, seen_RL * penalty, seen_RL / penalty))


def without(scores_RV: Tensor, token: int) -> Tensor:
    """A copy in which nobody can choose `token`."""
    scores_RV = scores_RV.clone()
    scores_RV[:, token] = -torch.inf
    return scores_RV


def candidates(
    scores_RV: Tensor, top_p: float, top_k: int | None, temperature: float, is_too_wide: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, [R, K], and their log-probabilities, -inf where cut.

    Token i, in falling order of probability, stays while what precedes it has less than `top_p`; so does every token that is as
    probable as the last one that stays (equal scores are common in bfloat16, and their order is nobody's promise). `top_k` cuts
    first, and the probabilities are those among its tokens. The vocabulary is not sorted: only the highest `PREFIX` scores are
    looked at, `WIDENING` times more while some row's nucleus reaches further; the nucleus of a row is the same either way.

    With `is_too_wide`, a bool on the device, nothing waits for the device: no shape depends on a score, and instead of looking
    further it is set where some row's nucleus reaches beyond the highest `PREFIX`, so that what came out must not be used.
    """
    if temperature != 1.0:
        scores_RV = scores_RV / temperature
    vocabulary = scores_RV.shape[1]
    if top_k is not None:
        top_RK, tokens_RK = scores_RV.topk(min(top_k, vocabulary), dim=1)
        total_R1 = top_RK.logsumexp(1, keepdim=True)
        kept_RK = _nucleus(top_RK, total_R1, top_p)
        return _cut(tokens_RK, top_RK - total_R1, kept_RK, is_even=is_too_wide is not None)
    if top_p >= 1.0:
        return torch.arange(vocabulary, device=scores_RV.device).expand(len(scores_RV), -1), scores_RV.log_softmax(1)
    total_R1 = scores_RV.logsumexp(1, keepdim=True)
    width = min(PREFIX, vocabulary)
    while True:
        top_RK, tokens_RK = scores_RV.topk(width, dim=1)
        kept_RK = _nucleus(top_RK, total_R1, top_p)
        if is_too_wide is not None:
            if width < vocabulary:
                is_too_wide |= kept_RK[:, -1].any()
            return _cut(tokens_RK, top_RK - total_R1, kept_RK, is_even=True)
        if width == vocabulary or not bool(kept_RK[:, -1].any()):
            return _cut(tokens_RK, top_RK - total_R1, kept_RK)
        width = min(WIDENING * width, vocabulary)


def _nucleus(top_RK: Tensor, total_R1: Tensor, top_p: float) -> Tensor:
    """Which of the highest scores, in falling order, stay. Summed in float64: the border shall not depend on their number."""
    p_RK = (top_RK - total_R1).double().exp()
    is_inside_RK = p_RK.cumsum(1) - p_RK < top_p
    is_inside_RK[:, 0] = True
    last_R1 = is_inside_RK.sum(1, keepdim=True) - 1
    return top_RK >= top_RK.gather(1, last_R1)


def _cut(tokens_RK: Tensor, log_p_RK: Tensor, kept_RK: Tensor, *, is_even: bool = False) -> tuple[Tensor, Tensor]:
    """Columns that no row keeps are left out, so that noise is made only for what remains; not where shapes shall be even."""
    if is_even:
        return tokens_RK, log_p_RK.masked_fill(~kept_RK, -torch.inf)
    widest = int(kept_RK.sum(1).max())
    return tokens_RK[:, :widest], log_p_RK.masked_fill(~kept_RK, -torch.inf)[:, :widest]
