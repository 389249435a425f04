"""What a MED learns from: pre-training with ITC, ITM and LM, and the fine-tunings of filter and captioner (BLIP section 3).

Answer `losses(batch)` by name; know nothing of optimisers, schedules or data. docs/paper_map.md says which term is whose.

Axes at the end of tensor names: B pairs (this worker's), A all pairs that are contrasted (with several workers and
`negatives: global` everyone's, else B), K candidates (those, then the queue), T tokens, E common space, M kept tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from capfilt.modeling.batch import Batch
from capfilt.modeling.layers import KeysValues
from capfilt.modeling.losses import (
    IGNORED,
    LossName,
    Negatives,
    itc_loss,
    lm_labels,
    lm_loss,
    log_weights,
    positives_by_image,
    soft_targets,
)
from capfilt.modeling.med.contrast import MedContrast, MedObjective, learnt_tokens
from capfilt.modeling.med.network import MED, with_first


class MedCaptionerFinetuning(MedObjective):
    """LM alone; the prompt is seen but not learnt (BLIP's captioning fine-tuning)."""

    def __init__(self, model: MED, *, prompt_length: int = 0) -> None:
        """`prompt_length`: tokens at the head of every text that are the prompt, position 0 counted."""
        super().__init__(model)
        self.prompt_length = prompt_length

    def set_progress(self, step: int, steps_per_ramp: int, part: int = 0) -> None:
        """Nothing ramps here."""

    def terms(self, batch: Batch) -> dict[str, int]:
        """LM is a mean over the tokens that are learnt."""
        return {"lm": learnt_tokens(batch, self.prompt_length)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image_kv = self.model.text_decoder.image_kv(self.model.encode_image(batch.pixels_BCHW))
        return {"lm": language_loss(self.model, batch, image_kv, self.prompt_length)}


class MedPretraining(MedContrast):
    """ITC + ITM + LM (BLIP section 3.1), in the order of the published code.

    ITM negatives come from this batch alone, by online-against-momentum similarity.
    """

    def losses(self, batch: Batch, *, negatives: Negatives | None = None) -> dict[str, Tensor]:
        """The asked losses by name; moves the momentum copy and the queue on. `negatives` takes the place of the draw."""
        self.clamp_temperature()
        pairs = len(batch.ids_BT)
        image_embeds_BND = self.model.encode_image(batch.pixels_BCHW)
        found: dict[str, Tensor] = {}
        image_kv = self.model.text_encoder.image_kv(image_embeds_BND) if self.asked & {"itm", "lm"} else []
        if self.asked & {"itc", "itm"}:
            contrast = self.contrast(batch, image_embeds_BND)
            if "itc" in self.asked:
                own_BK = self._own(pairs, contrast.online_i2t_BK.shape[1]).to(image_embeds_BND.device).float()
                found["itc"] = itc_loss(
                    contrast.online_i2t_BK,
                    contrast.online_t2i_BK,
                    soft_targets(contrast.momentum_i2t_BK, own_BK, self.alpha),
                    soft_targets(contrast.momentum_t2i_BK, own_BK, self.alpha),
                )
            if "itm" in self.asked:
                everyone = pairs * self.crowd.size
                own_BA = self._own(pairs, everyone).to(image_embeds_BND.device)
                found["itm"] = self.matching(
                    batch,
                    image_embeds_BND,
                    image_kv,
                    log_weights(contrast.online_i2t_BK[:, :everyone], own_BA, 1e-4),
                    log_weights(contrast.online_t2i_BK[:, :everyone], own_BA, 1e-4),
                    negatives,
                )
            self.enqueue(contrast, batch.image_ids_B)
        if "lm" in self.asked:
            shared = self.model.config.text.shared
            found["lm"] = language_loss(
                self.model, batch, image_kv if shared else self.model.text_decoder.image_kv(image_embeds_BND)
            )
        return found

    def _own(self, pairs: int, candidates: int) -> Tensor:
        """bool [B, candidates]: which is the pair's own."""
        return F.one_hot(self.crowd.rows(pairs), candidates).bool()


class MedFilterFinetuning(MedContrast):
    """ITC + ITM where every text of an image is a positive, in the batch and in the queue (BLIP's retrieval fine-tuning).

    ITM negatives come by online-against-online similarity, never from the same image; a pair that finds none in its batch
    forms no negative.
    """

    possible: tuple[LossName, ...] = ("itc", "itm")

    def losses(self, batch: Batch, *, negatives: Negatives | None = None) -> dict[str, Tensor]:
        """The asked losses by name; moves the momentum copy and the queue on. `negatives` takes the place of the draw."""
        self.clamp_temperature()
        image_embeds_BND = self.model.encode_image(batch.pixels_BCHW)
        contrast = self.contrast(batch, image_embeds_BND)
        found: dict[str, Tensor] = {}
        image_ids_A = self.crowd.gather(batch.image_ids_B)
        if "itc" in self.asked:
            positives_BK = positives_by_image(batch.image_ids_B, torch.cat([image_ids_A, self.queue.image_ids_Q]))
            found["itc"] = itc_loss(
                contrast.online_i2t_BK,
                contrast.online_t2i_BK,
                soft_targets(contrast.momentum_i2t_BK, positives_BK, self.alpha),
                soft_targets(contrast.momentum_t2i_BK, positives_BK, self.alpha),
            )
        if "itm" in self.asked:
            same_BA = batch.image_ids_B[:, None] == image_ids_A[None]
            with torch.no_grad(), torch.autocast(image_embeds_BND.device.type, enabled=False):
                sims_i2t_BA = contrast.image_BE @ self.crowd.gather(contrast.text_BE).T / self.model.temp
                sims_t2i_BA = contrast.text_BE @ self.crowd.gather(contrast.image_BE).T / self.model.temp
            found["itm"] = self.matching(
                batch,
                image_embeds_BND,
                self.model.text_encoder.image_kv(image_embeds_BND),
                log_weights(sims_i2t_BA, same_BA),
                log_weights(sims_t2i_BA, same_BA),
                negatives,
            )
        self.enqueue(contrast, batch.image_ids_B)
        return found


def language_loss(model: MED, batch: Batch, image_kv: list[KeysValues], prompt_length: int = 0) -> Tensor:
    """LM loss of the batch's texts; the vocabulary is scored only where a token is kept.

    Padding needs no mask: it stands to the right of every kept token, and a token sees only what precedes it.
    """
    labels_RT = lm_labels(batch.ids_BT, batch.mask_BT, prompt_length)
    states_RTW = model.text_decoder(with_first(batch.ids_BT[:, :-1], model.config.text.dec_id), None, image_kv, causal=True)
    kept_M = (labels_RT != IGNORED).flatten().nonzero()[:, 0]
    logits_MV = model.head(states_RTW.flatten(0, 1).index_select(0, kept_M))
    return lm_loss(logits_MV.float(), labels_RT.flatten()[kept_M])
