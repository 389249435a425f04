"""What BLIP-2 learns from: stage 1 with ITC, ITM and ITG, stage 2 with the frozen language model's loss (BLIP-2 section 3).

Answer `losses(batch)` by name; know nothing of optimisers, schedules or data. Frozen parts take no gradient and are in no state
that an optimiser sees. The generators that draw negatives and cuts are in the state dict, so that a resumed run draws the same.

Axes at the end of tensor names: B pairs, T tokens, E common space, M kept tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from capfilt.config.architectures.parts import Role
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer, missing_part, take_looks
from capfilt.modeling.layers import KeysValues
from capfilt.modeling.losses import (
    IGNORED,
    LossName,
    Negatives,
    draw_negatives,
    itc_loss,
    itm_loss,
    lm_labels,
    lm_loss,
    log_weights,
    positives_by_image,
)

ROLE_OF: dict[LossName, Role] = {"itc": "filter", "itm": "filter", "lm": "captioner"}
SMOOTHING = 0.1
"""Of the labels of ITC and ITG (LAVIS)."""


class _Drawing(nn.Module):
    """Has a generator of its own, part of its state."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing ramps in BLIP-2: no queue, no momentum."""

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


class QFormerTraining(_Drawing):
    """ITC + ITM + ITG (BLIP-2 section 3.2), or some of them: the captioner's fine-tuning is `lm`, the filter's `itc` and `itm`.

    Texts of one image are positives of each other and never negatives. The queries look at the images once; ITG sees their keys
    and values.
    """

    def __init__(
        self, model: QFormer, *, losses: Sequence[LossName] | None = None, prompt_length: int = 0, seed: int = 0
    ) -> None:
        """
        Args:
            model: Trained in place, but for its image encoder.
            losses: None takes all that the model's roles allow.
            prompt_length: Tokens at the head of every text that ITG sees and does not learn, position 0 counted.
            seed: Of the negatives that are drawn.

        Raises:
            ConfigError: If a loss is unknown.
            CheckpointError: If the model has no head for it.
        """
        super().__init__(seed)
        possible = tuple(name for name in get_args(LossName) if ROLE_OF[name] in model.config.roles)
        asked = possible if losses is None else tuple(losses)
        unknown = sorted(set(asked) - set(get_args(LossName)))
        if unknown or not asked:
            raise ConfigError(
                f"losses: expected some of {', '.join(get_args(LossName))}, found {list(asked)}; correct the names, or give "
                "the Q-Former a role"
            )
        for name in asked:
            if name not in possible:
                raise CheckpointError(f"losses, {name}: {missing_part(ROLE_OF[name])}")
        self.model = model
        self.asked = frozenset(asked)
        self.prompt_length = prompt_length

    def losses(self, batch: Batch, *, negatives: Negatives | None = None) -> dict[str, Tensor]:
        """The asked losses by name. `negatives` takes the place of the draw."""
        model, found = self.model, {}
        image_embeds_BND = model.encode_image(batch.pixels_BCHW)
        image_kv = model.tower.image_kv(image_embeds_BND)
        queried = model.tower.look(image_kv, len(image_embeds_BND))
        if self.asked & {"itc", "itm"}:
            image_BQE = model.project_queries(queried.states_BQW).float()
            text_BE = model.text_features(batch.ids_BT, batch.mask_BT).float()
            # In bfloat16 a cosine has two digits, and the temperature multiplies its error by 14.
            with torch.autocast(text_BE.device.type, enabled=False):
                sims_BB = model.itc_similarities(image_BQE, text_BE) / model.temp
            if "itc" in self.asked:
                targets_BB = positives_by_image(batch.image_ids_B, batch.image_ids_B)
                targets_BB = (1 - SMOOTHING) * targets_BB + SMOOTHING / len(targets_BB)
                found["itc"] = itc_loss(sims_BB, sims_BB.T, targets_BB, targets_BB)
            if "itm" in self.asked:
                found["itm"] = self._matching(batch, image_kv, sims_BB, negatives)
        if "lm" in self.asked:
            labels_BT = lm_labels(batch.ids_BT, batch.mask_BT, self.prompt_length)
            # Padding needs no mask: it stands to the right of every kept token, and a token sees only what precedes it.
            states_BTW = model.tower.write(model.begun(batch.ids_BT[:, :-1]), None, queried.keys_values)
            kept_M = (labels_BT != IGNORED).flatten().nonzero()[:, 0]
            logits_MV = model.head(states_BTW.flatten(0, 1).index_select(0, kept_M))
            found["lm"] = lm_loss(logits_MV.float(), labels_BT.flatten()[kept_M], SMOOTHING)
        return found

    def _matching(self, batch: Batch, image_kv: list[KeysValues | None], sims_BB: Tensor, negatives: Negatives | None) -> Tensor:
        """ITM on 3 B rows: own pairs; each text with a negative image; each image with a negative text."""
        device = batch.ids_BT.device
        own_B = torch.arange(len(batch.ids_BT))
        if negatives is None:
            same_BB = batch.image_ids_B[:, None] == batch.image_ids_B[None]
            negative_image_B, has_image_B = draw_negatives(log_weights(sims_BB.T, same_BB).cpu(), self.generator)
            negative_text_B, has_text_B = draw_negatives(log_weights(sims_BB, same_BB).cpu(), self.generator)
        else:
            negative_image_B, negative_text_B = (index.cpu() for index in negatives)
            has_image_B = has_text_B = torch.ones_like(own_B, dtype=torch.bool)
        texts = torch.cat([own_B, own_B, negative_text_B]).to(device)
        images = torch.cat([own_B, negative_image_B, own_B]).to(device)
        logits_R2 = self.model.itm_logits_from(batch.ids_BT[texts], batch.mask_BT[texts], take_looks(image_kv, images))
        none_B = torch.full_like(own_B, IGNORED)
        labels_R = torch.cat([torch.ones_like(own_B), none_B.where(~has_image_B, 0), none_B.where(~has_text_B, 0)])
        return itm_loss(logits_R2.float(), labels_R.to(device))


class Blip2Training(_Drawing):
    """Stage 2 (BLIP-2 section 3.3): the frozen language model's own loss, on the text alone, trains Q-Former and projection.

    Decoder-only: every token of the text, given the queries and what precedes it. Encoder-decoder: each text is cut in two at a
    drawn place; the encoder reads queries, prefix and a closing token, as it reads a prompt, the decoder's suffix is learnt
    (prefix language modelling).

    Texts are the language model's tokenizer's (`LanguageTokenizer`).
    """

    def __init__(self, model: Blip2, *, prompt_length: int = 0, cut: bool = True, seed: int = 0) -> None:
        """
        Args:
            model: Trained in place, but for image encoder and language model.
            prompt_length: Tokens at the head of every text that are the prompt: seen and not learnt. An encoder-decoder's
                encoder reads them and the closing token, which is not counted.
            cut: Encoder-decoder: whether the text after the prompt is cut at random (pre-training) or learnt whole
                (captioning).
            seed: Of the places of the cuts.
        """
        super().__init__(seed)
        self.model = model
        self.prompt_length = prompt_length
        self.cut = cut

    def losses(self, batch: Batch, *, cuts_B: Tensor | None = None) -> dict[str, Tensor]:
        """`lm`. `cuts_B`: tokens of each text that are all an encoder-decoder's encoder reads; None draws or takes the prompt."""
        model = self.model
        prefix_BQU = model.prefix_embeds(model.qformer.encode_image(batch.pixels_BCHW))
        if model.language.is_encoder_decoder:
            is_given = cuts_B is not None
            if cuts_B is None:
                cuts_B = self._cuts(batch)
            lm = model.language.suffix_loss(prefix_BQU, batch.ids_BT, batch.mask_BT, cuts_B, is_closed=not is_given)
            return {"lm": lm}
        return {"lm": model.language.text_loss(prefix_BQU, batch.ids_BT, batch.mask_BT, self.prompt_length)}

    def _cuts(self, batch: Batch) -> Tensor:
        """After the prompt, evenly among the places that leave the closing token to the decoder."""
        lengths_B = batch.mask_BT.sum(1).cpu()
        first_B = lengths_B.new_full(lengths_B.shape, self.prompt_length).minimum(lengths_B - 1)
        if self.cut:
            drawn_B = torch.rand(len(lengths_B), generator=self.generator, dtype=torch.float64)
            first_B = first_B + (drawn_B * (lengths_B - first_B)).long()
        return first_B.to(batch.ids_BT.device)
