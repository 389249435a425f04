"""Beam search with the results of transformers 5: finished texts compete by score / generated length ** penalty.

Knows nothing of networks. The prompt runs once per image, and beams share their image's keys and values.

Axes at the end of tensor names: B images, b beams, c = 2 b continuations, L output, P prompt, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from capfilt.config.decoding import Beam
from capfilt.modeling.scores import penalised, without

if TYPE_CHECKING:
    from capfilt.modeling.decoding import Decoder

_NEVER = -1e9


def beam_search(decoder: "Decoder[Any]", image_embeds: Any, prompt_BP: Tensor, decoding: Beam) -> tuple[Tensor, Tensor]:
    """The best text of each image, [B, L] with padding after its closing token, and the network's own log-probability, [B].

    Stops for an image when its best running beam, at today's length, is below all its finished ones (early_stopping=False).
    """
    images, prompt_length = prompt_BP.shape
    beams, device, length = decoding.beams, prompt_BP.device, prompt_length
    texts_BbL = torch.full((images, beams, decoding.max_length), decoder.pad_id, dtype=torch.int64, device=device)
    texts_BbL[:, :, :length] = prompt_BP[:, None]
    own_Bb = torch.zeros(images, beams, dtype=torch.float32, device=device)
    running_Bb = torch.full((images, beams), _NEVER, device=device)
    running_Bb[:, 0] = 0.0  # all beams are the prompt: only one may be continued
    done_texts_BbL, done_own_Bb = texts_BbL.clone(), own_Bb.clone()
    done_scores_Bb = torch.full((images, beams), _NEVER, device=device)
    is_done_Bb = torch.zeros(images, beams, dtype=torch.bool, device=device)
    may_improve_B1 = torch.ones(images, 1, dtype=torch.bool, device=device)
    first_row_B1 = torch.arange(images, device=device)[:, None] * beams

    scores_BV, cache = decoder.start(image_embeds, prompt_BP, beams, decoding.max_length)
    scores_RV = scores_BV.repeat_interleave(beams, 0)
    while True:
        # Continue every beam by every token; keep twice the beams, so that enough remain if the best ones end here.
        plain_RV = scores_RV.float().log_softmax(1)
        steered_RV = penalised(plain_RV, texts_BbL.flatten(0, 1)[:, :length], decoding.repetition_penalty)
        if length < decoding.min_length:
            steered_RV = without(steered_RV, decoder.eos_id)
        vocabulary = plain_RV.shape[1]
        total_BF = (steered_RV.view(images, beams, vocabulary) + running_Bb[:, :, None]).flatten(1)
        total_Bc, flat_Bc = total_BF.topk(2 * beams, dim=1)
        beam_Bc, token_Bc = flat_Bc // vocabulary, flat_Bc % vocabulary
        texts_BcL = _pick(texts_BbL, beam_Bc)
        texts_BcL[:, :, length] = token_Bc
        own_Bc = own_Bb.gather(1, beam_Bc) + plain_RV.view(images, -1).gather(1, flat_Bc)
        ends_Bc = (token_Bc == decoder.eos_id) | (length + 1 == decoding.max_length)

        # The best that go on.
        going_Bc = total_Bc + ends_Bc * _NEVER
        next_Bb = going_Bc.topk(beams, dim=1).indices
        texts_BbL, own_Bb = _pick(texts_BcL, next_Bb), own_Bc.gather(1, next_Bb)
        running_Bb = going_Bc.gather(1, next_Bb)

        # The best that have ended; a continuation beyond the first b may not end a text.
        ended_Bc = ends_Bc.clone()
        ended_Bc[:, beams:] = False
        final_Bc = total_Bc / ((length + 1 - prompt_length) ** decoding.length_penalty)
        final_Bc = final_Bc + ~may_improve_B1 * _NEVER + ~ended_Bc * _NEVER
        merged = torch.cat([done_scores_Bb, final_Bc], dim=1)
        best_Bb = merged.topk(beams, dim=1).indices
        done_scores_Bb = merged.gather(1, best_Bb)
        done_texts_BbL = _pick(torch.cat([done_texts_BbL, texts_BcL], dim=1), best_Bb)
        done_own_Bb = torch.cat([done_own_Bb, own_Bc], dim=1).gather(1, best_Bb)
        is_done_Bb = torch.cat([is_done_Bb, ended_Bc], dim=1).gather(1, best_Bb)

        length += 1
        possible_B1 = running_Bb[:, :1] / ((length - prompt_length) ** decoding.length_penalty)
        worst_Bb = torch.where(is_done_Bb, done_scores_Bb.min(1, keepdim=True).values, _NEVER)
        may_improve_B1 = may_improve_B1 & (possible_B1 > worst_Bb).any(1, keepdim=True)
        if length == decoding.max_length or not bool(may_improve_B1.any()):
            return done_texts_BbL[:, 0], done_own_Bb[:, 0]
        cache.reorder((first_row_B1 + beam_Bc.gather(1, next_Bb)).flatten())
        scores_RV = decoder.step(texts_BbL[:, :, length - 1].flatten(), cache)


def _pick(texts_BbL: Tensor, index_Bc: Tensor) -> Tensor:
    return texts_BbL.gather(1, index_Bc[:, :, None].expand(-1, -1, texts_BbL.shape[2]))
