"""What a SOHO learns from: masked words, masked codes and matching, with equal weights (SOHO section 3.3).

Answers `losses(batch)` by name; knows nothing of optimisers, schedules or data. All chance is in `Choices`, drawn from a CPU
generator whose state is in the state dict, so that a resumed run goes on as it would have.

Axes at the end of tensor names: B pairs, T text tokens, N visual tokens, H and W positions of the grid, M kept positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.train import ItmNegatives, Matching
from capfilt.errors import ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.losses import IGNORED, itm_loss
from capfilt.modeling.soho.dictionary import same_code
from capfilt.modeling.soho.negatives import negative_texts
from capfilt.modeling.soho.network import SOHO, SohoLoss

HIDDEN, REPLACED = 0.8, 0.9
"""Of the words to be predicted 80 % become [MASK], the next 10 % a random word, the rest stays (BERT section 3.1)."""
TINY = 1e-6
"""Added to a count that may be zero, as in the published code."""


@dataclass(frozen=True)
class Choices:
    """What chance decides in one step on B pairs."""

    ids_BT: Tensor
    """What the network reads, masked words and exchanged texts included."""
    mask_BT: Tensor
    """1 for their tokens."""
    words_BT: Tensor
    """The word to be predicted where one is, `IGNORED` elsewhere."""
    matches_B: Tensor
    """int64, 1 where the text is the picture's own."""
    locations_B: Tensor
    """int64, the position of each picture's grid whose code is masked."""
    chosen_B: Tensor
    """bool, whether the picture has a code masked at all."""


def draw_choices(
    batch: Batch,
    visible_BHW: Tensor,
    config: SohoArchitecture,
    generator: torch.Generator,
    names: Sequence[SohoLoss],
    negatives: ItmNegatives = "random",
) -> Choices:
    """Exchange texts for ITM, hide words for MLM and a code for MVM, each only where `names` has it.

    Args:
        batch: The pairs. A text is exchanged for one of another picture (`image_ids_B`) of the batch, if there is any.
        visible_BHW: Positions that are no padding.
        config: Probabilities and the id of [MASK].
        generator: On the CPU: the same draw on every device.
        names: Of the losses that will be asked.
        negatives: What a text is exchanged for.
    """
    device = batch.ids_BT.device
    pairs = len(batch.ids_BT)
    ids_BT, mask_BT, matches_B = batch.ids_BT, batch.mask_BT, torch.ones(pairs, dtype=torch.int64)
    if "itm" in names:
        other = negative_texts(negatives, batch, specials(config), generator)
        is_exchanged_B = (torch.rand(pairs, generator=generator) < config.negative_probability).to(device) & other.has_B
        ids_BT = torch.where(is_exchanged_B[:, None], other.ids_BT, ids_BT)
        mask_BT = torch.where(is_exchanged_B[:, None], other.mask_BT, mask_BT)
        matches_B = (~is_exchanged_B).long()
    words_BT = torch.full_like(ids_BT, IGNORED)
    if "mlm" in names:
        ids_BT, words_BT = mask_words(ids_BT, mask_BT, config, generator)
    locations_B, chosen_B = torch.zeros(pairs, dtype=torch.int64), torch.zeros(pairs, dtype=torch.bool)
    if "mvm" in names:
        locations_B, chosen_B = _draw_locations(visible_BHW.flatten(1).cpu(), config, generator)
    return Choices(ids_BT, mask_BT, words_BT, *(x.to(device, non_blocking=True) for x in (matches_B, locations_B, chosen_B)))


def mask_words(ids_BT: Tensor, mask_BT: Tensor, config: SohoArchitecture, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids to read, and labels: the word at the positions to be predicted, `IGNORED` elsewhere. [CLS] and [SEP] stay."""
    text = config.text
    noise_2BT = torch.rand((2, *ids_BT.shape), generator=generator)
    random_BT = torch.randint(text.vocab_size, ids_BT.shape, generator=generator)
    chance_BT, kind_BT, random_BT = (x.to(ids_BT.device) for x in (*noise_2BT, random_BT))
    is_word_BT = (mask_BT != 0) & (ids_BT != text.cls_id) & (ids_BT != text.sep_id)
    is_asked_BT = is_word_BT & (chance_BT < config.mlm_probability)
    read_BT = torch.where(kind_BT < HIDDEN, text.mask_id, torch.where(kind_BT < REPLACED, random_BT, ids_BT))
    return torch.where(is_asked_BT, read_BT, ids_BT), torch.where(is_asked_BT, ids_BT, IGNORED)


def _draw_locations(visible_BN: Tensor, config: SohoArchitecture, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A position of each picture and whether it is masked. One for each pair is never padding; one for all may be."""
    pairs, positions = visible_BN.shape
    if config.mvm_draw == "pair":
        noise_BN = torch.rand((pairs, positions), generator=generator).masked_fill(~visible_BN, -1)
        locations_B = noise_BN.argmax(1)
    else:
        locations_B = torch.randint(positions, (1,), generator=generator).expand(pairs)
    return locations_B, torch.rand(pairs, generator=generator) < config.mvm_probability


def losses_of(
    model: SOHO, pixels_BCXY: Tensor, visible_BHW: Tensor, choices: Choices, names: Sequence[SohoLoss]
) -> dict[str, Tensor]:
    """The losses by name, all from one pass. In training mode the dictionary moves on."""
    return _from_one_pass(model, _look(model, pixels_BCXY), visible_BHW, choices, names)


def _look(model: SOHO, pixels_BCXY: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, D, H, W] and codes [B, N]. In training mode the dictionary moves on: indices are by the codes before, tokens
    and MVM's scores by those after, as in the published code."""
    features_BDHW = model.visual_features(pixels_BCXY)
    indices_BN = model.dictionary_indices(features_BDHW)
    if model.training:
        model.update_dictionary(features_BDHW.detach(), indices_BN)
    return features_BDHW, indices_BN


def _from_one_pass(
    model: SOHO, seen: tuple[Tensor, Tensor], visible_BHW: Tensor, choices: Choices, names: Sequence[SohoLoss]
) -> dict[str, Tensor]:
    features_BDHW, indices_BN = seen
    visible_BN = visible_BHW.flatten(1)
    masked_BN = same_code(indices_BN, visible_BN, choices.locations_B, choices.chosen_B)
    tokens_BND = model.visual_tokens(features_BDHW, indices_BN, visible_BHW=visible_BHW, masked_BN=masked_BN)
    is_matching_alone = set(names) == {"itm"}
    states_BSD = model.states(choices.ids_BT, choices.mask_BT, tokens_BND, visible_BHW=visible_BHW, first_only=is_matching_alone)
    found: dict[str, Tensor] = {}
    length = choices.ids_BT.shape[1]
    if "mlm" in names:
        kept_M = (choices.words_BT != IGNORED).flatten().nonzero()[:, 0]
        logits_MV = model.words(states_BSD[:, :length].flatten(0, 1).index_select(0, kept_M))
        found["mlm"] = _mean_over_kept(logits_MV, choices.words_BT.flatten()[kept_M])
    if "mvm" in names:
        kept_M = masked_BN.flatten().nonzero()[:, 0]
        logits_MK = model.codes(states_BSD[:, length:].flatten(0, 1).index_select(0, kept_M))
        found["mvm"] = _mean_over_kept(logits_MK, indices_BN.flatten()[kept_M])
    if "itm" in names:
        found["itm"] = itm_loss(model.match(states_BSD[:, 0]).float(), choices.matches_B)
    return found


def _matching(
    model: SOHO, seen: tuple[Tensor, Tensor], visible_BHW: Tensor, batch: Batch, kind: ItmNegatives, generator: torch.Generator
) -> Tensor:
    """ITM on 2 B rows, nothing hidden: each picture with its own text, and with one that is not about it."""
    other = negative_texts(kind, batch, specials(model.config), generator)
    tokens_BND = model.visual_tokens(*seen, visible_BHW=visible_BHW)
    own_B = torch.arange(len(batch.ids_BT), device=batch.ids_BT.device)
    logits_R2 = model.itm_logits(
        torch.cat([batch.ids_BT, other.ids_BT]),
        torch.cat([batch.mask_BT, other.mask_BT]),
        tokens_BND,
        torch.cat([own_B, own_B]),
        visible_BHW=visible_BHW,
    )
    none_B = torch.full_like(own_B, IGNORED)
    return itm_loss(logits_R2.float(), torch.cat([torch.ones_like(own_B), none_B.where(~other.has_B, 0)]))


def specials(config: SohoArchitecture) -> tuple[int, ...]:
    """Ids that are no words."""
    return config.text.pad_id, config.text.cls_id, config.text.sep_id, config.text.mask_id


def _mean_over_kept(logits: Tensor, labels_M: Tensor) -> Tensor:
    """Zero where nothing is kept."""
    return F.cross_entropy(logits.float(), labels_M, reduction="sum") / (len(labels_M) + TINY)


class SohoPretraining(nn.Module):
    """MLM + MVM + ITM. With `losses=("itm",)` it is the filter's fine-tuning: whole texts and pictures, exchanged or not.

    `matching` says what ITM's pairs are and where its negatives come from; None is the published code's way.
    """

    possible: tuple[str, ...] = get_args(SohoLoss)

    def __init__(
        self,
        model: SOHO,
        *,
        losses: Sequence[SohoLoss] = ("mlm", "mvm", "itm"),
        seed: int = 0,
        matching: Matching | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(losses) - set(self.possible))
        if unknown or not losses:
            raise ConfigError(f"losses: expected some of {', '.join(self.possible)}, found {list(losses)}; correct the names")
        self.model = model
        self.asked = tuple(losses)
        self.matching = matching or Matching()
        self.generator = torch.Generator().manual_seed(seed)

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """The trunk does not learn in the first `steps_per_ramp` steps: `freeze_trunk_epochs` epochs (SOHO section 3.2)."""
        self.model.trunk.freeze(step < steps_per_ramp)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The asked losses by name; in training mode the dictionary moves on."""
        model, matching = self.model, self.matching
        visible_BHW = model.visible(batch.pixels_BCHW, None)
        seen = _look(model, batch.pixels_BCHW)
        has_pass_of_its_own = matching.pairs == "both" and "itm" in self.asked
        names = tuple(name for name in self.asked if name != "itm" or not has_pass_of_its_own)
        found: dict[str, Tensor] = {}
        if names:
            choices = draw_choices(batch, visible_BHW, model.config, self.generator, names, matching.negatives)
            found |= _from_one_pass(model, seen, visible_BHW, choices, names)
        if has_pass_of_its_own:
            found["itm"] = _matching(model, seen, visible_BHW, batch, matching.negatives, self.generator)
        return found
