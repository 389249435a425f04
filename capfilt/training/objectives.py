"""What each family learns from in each training of a round: one objective per network and stage.

Knows networks; nothing of data, files or steps. Which losses a family has: config/families.py.
"""

from typing import Any, Literal, assert_never, cast

from torch import nn

from capfilt.config.families import Stage, asked_losses, family_of
from capfilt.config.train import OptimConfig, not_its_matching
from capfilt.errors import ConfigError
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.training import Blip2Training, QFormerTraining
from capfilt.modeling.build import Network
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.training import ClipCapTraining
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.coca.training import CocaTraining
from capfilt.modeling.med.network import MED
from capfilt.modeling.med.training import MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining
from capfilt.modeling.ranks import Ranks
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.soho.training import SohoPretraining
from capfilt.training.loop import Trainable


def objective(
    model: Network,
    stage: Stage,
    config: OptimConfig,
    *,
    prompt_length: int = 0,
    seed: int = 0,
    ranks: Ranks = Ranks(),
    is_trunk_frozen: bool = False,
) -> Trainable:
    """The module that answers `losses(batch)`: the loop trains its parameters that ask for a gradient.

    Args:
        config: Its `losses` say which; its `negatives`, among whom.
        prompt_length: Captioner: tokens at the head of every text that are seen and not learnt.
        seed: Of the draws of negatives, masks and cuts.
        is_trunk_frozen: Leave the image encoder as it is (`finetune.trunk: shared`).

    Raises:
        ConfigError: If the network has not a loss that is asked for, or nothing to freeze.
    """
    names = asked_losses(family(model), stage, config)
    if config.matching is not None and not isinstance(model, SOHO):
        where = "pretrain" if stage == "pretrain" else f"finetune.{stage}"
        raise ConfigError(not_its_matching(where, family(model)))
    module = _objective(model, stage, config, names, prompt_length, seed, ranks)
    if is_trunk_frozen:
        # A BLIP-2's image encoder is frozen in every training, a ClipCap's too.
        if isinstance(module, MedPretraining | MedFilterFinetuning | MedCaptionerFinetuning):
            module.freeze_trunk()
        elif not isinstance(model, QFormer | Blip2 | ClipCap):
            raise ConfigError(f"finetune.trunk: expected separate for a {family(model)}, found shared. Write trunk: separate")
    return cast(Trainable, module)


def _objective(
    model: Network, stage: Stage, config: OptimConfig, names: tuple[Any, ...], prompt_length: int, seed: int, ranks: Ranks
) -> nn.Module:
    match model:
        case MED():
            contrast: dict[str, Any] = {"losses": names, "seed": seed, "ranks": ranks, "negatives": config.negatives}
            match stage:
                case "pretrain":
                    return MedPretraining(model, **contrast)
                case "captioner":
                    return MedCaptionerFinetuning(model, prompt_length=prompt_length)
                case "filter":
                    return MedFilterFinetuning(model, **contrast)
                case _:
                    assert_never(stage)
        case CoCa():
            positives: Literal["pair", "image"] = "image" if stage == "filter" else "pair"
            return CocaTraining(model, losses=names, positives=positives, prompt_length=prompt_length)
        case QFormer():
            return QFormerTraining(model, losses=names, prompt_length=prompt_length, seed=seed)
        case Blip2():
            # Pre-training cuts an encoder-decoder's text anywhere, captioning behind the prompt (BLIP-2 section 3.3).
            return Blip2Training(model, prompt_length=prompt_length, cut=stage == "pretrain", seed=seed)
        case ClipCap():
            return ClipCapTraining(model, prompt_length=prompt_length)
        case SOHO():
            return SohoPretraining(model, losses=names, seed=seed, matching=config.matching)
        case _:
            assert_never(model)


def ramp_epochs(model: Network, stage: Stage) -> int:
    """Epochs that the objective's `set_progress` counts in: a MED's alpha ramps over two (filter: one), a SOHO's trunk waits."""
    match model:
        case SOHO():
            return model.config.freeze_trunk_epochs if stage == "pretrain" else 0
        case _:
            return 2 if stage == "pretrain" else 1


def family(model: Network) -> str:
    """What messages call it."""
    return family_of(model.config)
