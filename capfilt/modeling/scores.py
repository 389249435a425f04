"""What is done to next-token scores before a token is chosen: the repetition penalty, and the cut to the nucleus.

Knows nothing of networks, of how a choice is made, or of beams.

Axes at the end of tensor names: R rows, V vocabulary, L tokens so far, K candidate tokens.
"""

import torch
from torch import Tensor

PREFIX = 256
"""Tokens looked at before a full sort: at top_p 0.9 a trained captioner's nucleus is nearly always smaller."""


def penalised(scores_RV: Tensor, ids_RL: Tensor, penalty: float) -> Tensor:
    """Scores of tokens that the row already has, divided by `penalty` if positive and multiplied if negative (CTRL)."""
    if penalty == 1.0:
        return scores_RV
    seen_RL = scores_RV.gather(1, ids_RL)
    return scores_RV.scatter(1, ids_RL, torch.where(seen_RL < 0, seen_RL * penalty, seen_RL / penalty))


def candidates(scores_RV: Tensor, top_p: float, top_k: int | None, temperature: float) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, [R, K], and their log-probabilities, -inf where cut.

    Token i, in falling order of probability, stays while what precedes it has less than `top_p`. `top_k` cuts first, and the
    probabilities are those among its tokens. Only the highest `PREFIX` scores are sorted, all of a row's only where the nucleus
    reaches further; the nucleus of a row is the same either way.
    """
    scores_RV = scores_RV / temperature
    vocabulary = scores_RV.shape[1]
    if top_k is not None:
        top_RK, tokens_RK = scores_RV.topk(min(top_k, vocabulary), dim=1)
        log_p_RK = _cut(top_RK, top_RK.logsumexp(1, keepdim=True), top_p)
        return tokens_RK[:, : log_p_RK.shape[1]], log_p_RK
    if top_p >= 1.0:
        return torch.arange(vocabulary, device=scores_RV.device).expand(len(scores_RV), -1), scores_RV.log_softmax(1)
    total_R1 = scores_RV.logsumexp(1, keepdim=True)
    top_RK, tokens_RK = scores_RV.topk(min(PREFIX, vocabulary), dim=1)
    if bool(((top_RK - total_R1).exp().sum(1) < top_p).any()):
        top_RK, tokens_RK = scores_RV.sort(dim=1, descending=True)
    log_p_RK = _cut(top_RK, total_R1, top_p)
    return tokens_RK[:, : log_p_RK.shape[1]], log_p_RK


def _cut(top_RK: Tensor, total_R1: Tensor, top_p: float) -> Tensor:
    """Columns that no row keeps are left out: noise is made for what remains."""
    log_p_RK = top_RK - total_R1
    p_RK = log_p_RK.exp()
    kept_RK = p_RK.cumsum(1) - p_RK < top_p
    kept_RK[:, 0] = True
    widest = int(kept_RK.sum(1).max())
    return log_p_RK.masked_fill(~kept_RK, -torch.inf)[:, :widest]
