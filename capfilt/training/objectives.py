"""What each family learns from in each training of a round: one objective per network and stage, and the losses it has.

Knows networks; nothing of data, files or steps.
"""

from typing import Any, Literal, assert_never, cast

from torch import nn

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

Stage = Literal["pretrain", "captioner", "filter"]

LOSSES: dict[type[Network], dict[Stage, tuple[str, ...]]] = {
    MED: {"pretrain": ("itc", "itm", "lm"), "captioner": ("lm",), "filter": ("itc", "itm")},
    CoCa: {"pretrain": ("itc", "lm"), "captioner": ("lm",), "filter": ("itc",)},
    QFormer: {"pretrain": ("itc", "itm", "lm"), "captioner": ("lm",), "filter": ("itc", "itm")},
    Blip2: {"pretrain": ("lm",), "captioner": ("lm",), "filter": ()},
    ClipCap: {"pretrain": ("lm",), "captioner": ("lm",), "filter": ()},
    SOHO: {"pretrain": ("mlm", "mvm", "itm"), "captioner": (), "filter": ("itm",)},
}
"""The losses each network has, by training, in the order in which it names them; none: it cannot take the role."""


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
    names = asked(model, stage, config)
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


def asked(model: Network, stage: Stage, config: OptimConfig) -> tuple[str, ...]:
    """The losses that `config` gives a weight, in the network's own order.

    Raises:
        ConfigError: If the network has one of them not, or has none for this training.
    """
    possible = LOSSES[type(model)][stage]
    weights = config.losses.weights()
    if not possible:
        others = sorted({family_of(other) for other, stages in LOSSES.items() if stages[stage]})
        raise ConfigError(
            f"finetune.{stage}.start: expected one of {', '.join(others)}, found a {family(model)}, which is no {stage}. "
            "Begin with another model"
        )
    unknown = [name for name in weights if name not in possible]
    if unknown or not weights:
        where = "pretrain" if stage == "pretrain" else f"finetune.{stage}"
        raise ConfigError(
            f"{where}.losses: expected some of {', '.join(possible)}, which a {family(model)} learns from, found "
            f"{', '.join(unknown or weights) or 'none'}. Correct the names"
        )
    return tuple(name for name in possible if name in weights)


def ramp_epochs(model: Network, stage: Stage) -> int:
    """Epochs that the objective's `set_progress` counts in: a MED's alpha ramps over two (filter: one), a SOHO's trunk waits."""
    match model:
        case SOHO():
            return model.config.freeze_trunk_epochs if stage == "pretrain" else 0
        case _:
            return 2 if stage == "pretrain" else 1


def family(model: Network) -> str:
    """What messages call it."""
    return family_of(type(model))


def family_of(network: type[Network]) -> str:
    names: dict[type[Network], str] = {
        MED: "MED",
        CoCa: "CoCa",
        QFormer: "BLIP-2",
        Blip2: "BLIP-2 with a language model",
        ClipCap: "ClipCap",
        SOHO: "SOHO",
    }
    return names[network]
