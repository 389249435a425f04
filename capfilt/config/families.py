"""What each family of networks learns from and begins with, as far as settings alone say it: refused before any network is built.

Knows names and architectures; no network, no file, no torch.
"""

from pathlib import Path
from typing import Literal, assert_never

from capfilt.config.architectures import Architecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.train import OptimConfig, PretrainConfig
from capfilt.errors import ConfigError

Stage = Literal["pretrain", "captioner", "filter"]

LOSSES: dict[str, dict[Stage, tuple[str, ...]]] = {
    "MED": {"pretrain": ("itc", "itm", "lm"), "captioner": ("lm",), "filter": ("itc", "itm")},
    "CoCa": {"pretrain": ("itc", "lm"), "captioner": ("lm",), "filter": ("itc",)},
    "BLIP-2": {"pretrain": ("itc", "itm", "lm"), "captioner": ("lm",), "filter": ("itc", "itm")},
    "BLIP-2 with a language model": {"pretrain": ("lm",), "captioner": ("lm",), "filter": ()},
    "ClipCap": {"pretrain": ("lm",), "captioner": ("lm",), "filter": ()},
    "SOHO": {"pretrain": ("mlm", "mvm", "itm"), "captioner": (), "filter": ("itm",)},
}
"""The losses each family has, by training, in the order in which it names them; none: it cannot take the role."""


BUILT_ON = {
    ("BLIP-2", "image"): "MED",
    ("BLIP-2 with a language model", "image"): "BLIP-2",
    ("BLIP-2 with a language model", "text"): "ClipCap",
    ("ClipCap", "image"): "MED",
}
"""Family and key of `init` that may name an earlier section -> the family of that section's model."""


def family_of(architecture: Architecture) -> str:
    """What messages call it; a key of `LOSSES`."""
    match architecture:
        case MedArchitecture():
            return "MED"
        case CocaArchitecture():
            return "CoCa"
        case Blip2Architecture():
            return "BLIP-2" if architecture.language is None else "BLIP-2 with a language model"
        case ClipCapArchitecture():
            return "ClipCap"
        case SohoArchitecture():
            return "SOHO"
        case _:
            assert_never(architecture)


def asked_losses(family: str, stage: Stage, config: OptimConfig, where: str = "") -> tuple[str, ...]:
    """The losses that `config` gives a weight, in the family's own order.

    Args:
        where: The section, for messages; empty: as the stage says it.

    Raises:
        ConfigError: If the family has one of them not, or has none for this training.
    """
    where = where or ("pretrain" if stage == "pretrain" else f"finetune.{stage}")
    possible, weights = LOSSES[family][stage], config.losses.weights()
    if not possible:
        others = sorted(other for other, stages in LOSSES.items() if stages[stage])
        raise ConfigError(
            f"{where}.start: expected one of {', '.join(others)}, found a {family}, which is no {stage}. Begin with another model"
        )
    unknown = [name for name in weights if name not in possible]
    if unknown or not weights:
        raise ConfigError(
            f"{where}.losses: expected some of {', '.join(possible)}, which a {family} learns from, found "
            f"{', '.join(unknown or weights) or 'none'}. Correct the names"
        )
    return tuple(name for name in possible if name in weights)


def check_batch(config: OptimConfig, workers: int, where: str = "") -> None:
    """Raises: ConfigError: If the batch cannot be divided among workers and parts. `where`: `pretrain.` and the like."""
    if config.batch_size % (workers * config.accumulate_steps):
        raise ConfigError(
            f"{where}batch_size: expected a multiple of workers x accumulate_steps, {workers} x {config.accumulate_steps}, found "
            f"{config.batch_size}. Change one of them"
        )


def check_negatives(config: OptimConfig, architecture: Architecture, workers: int, where: str = "") -> None:
    """Raises: ConfigError: If workers cannot keep what `negatives: global` promises."""
    if workers > 1 and config.negatives == "global" and getattr(architecture.image, "stem", None) == "conv":
        raise ConfigError(
            f"{where}negatives: global promises what one worker would learn, but the batch norm of stem: conv sees its own "
            "worker's pictures. Write negatives: local, or use an architecture with stem: patch"
        )


def check_beginning(
    config: PretrainConfig,
    architecture: Architecture,
    where: str = "pretrain",
    *,
    image: Path | str | None = None,
    text: Path | str | None = None,
) -> None:
    """Whether `init` names what the family begins with, and nothing else.

    Args:
        image: What `init.image` stands for, where that is known.
        text: The same of `init.text`.

    Raises:
        ConfigError: If it does not.
    """
    image, text = image or config.init.image, text or config.init.text
    match architecture:
        case MedArchitecture():
            pass
        case CocaArchitecture():
            _refuse(f"{where}.init.image", image, "A CoCa's image encoder learns from random weights")
            _refuse(f"{where}.init.text", text, "A CoCa's text decoder learns from random weights")
        case SohoArchitecture():
            _refuse(f"{where}.init.text", text, "A SOHO's transformer learns from random weights")
        case Blip2Architecture():
            eyes = "the MED whose image encoder it looks with" if architecture.language is None else "the BLIP-2 of stage 1"
            _need(f"{where}.init.image", config, image or architecture.image.checkpoint, eyes)
            if architecture.language is not None:
                _need(f"{where}.init.text", config, text or architecture.language.checkpoint, "a language model")
        case ClipCapArchitecture():
            _need(f"{where}.init.image", config, image, "the MED or CLIP whose embeddings it speaks of")
        case _:
            assert_never(architecture)


def _refuse(key: str, found: Path | str | None, why: str) -> None:
    if found is not None:
        raise ConfigError(f"{key}: expected null, found {found}. {why}; leave it out")


def _need(key: str, config: PretrainConfig, found: Path | str | None, what: str) -> None:
    if found is None:
        ours = ", or an earlier `pretrain` section with a ClipCap, whose GPT-2 is taken" if key.endswith("text") else ""
        raise ConfigError(
            f"{key}: architecture {config.architecture} needs {what}, found null. Name a model folder or hub name"
            + (ours or ", or the `name` of an earlier `pretrain` section")
        )


def brings_vocabulary(config: PretrainConfig, architecture: Architecture) -> bool:
    """Whether what the network begins with has the tokenizer, so that none is read or trained."""
    match architecture:
        case Blip2Architecture() if architecture.language is not None:
            return True
        case ClipCapArchitecture():
            return config.init.text is not None
        case _:
            return config.vocabulary is None and config.init.text is not None


def check_vocabulary(config: PretrainConfig, architecture: Architecture, where: str = "pretrain") -> None:
    """Whether there is a vocabulary to read or to train where nothing brings one.

    Raises:
        ConfigError: If the architecture wants a published one that is not named.
    """
    wanted = architecture.text.vocabulary
    if wanted in ("clip", "gpt2"):
        raise ConfigError(
            f"{where}.architecture: {config.architecture} has the vocabulary of published weights ({wanted}), which "
            "a training from random weights does not begin with. Write `text.vocabulary: trained`, or begin with those weights "
            "(`finetune.captioner.start`; ClipCap: `init.text`)"
        )
    if config.vocabulary is None and wanted == "bert":
        raise ConfigError(
            f"{where}.vocabulary: architecture {config.architecture} needs bert-base-uncased's vocab.txt, found null; "
            "name the file, or a BERT in `init.text`, whose own is taken, or write `text.vocabulary: trained` in the architecture"
        )


def check_vocabulary_size(config: PretrainConfig, architecture: Architecture, found: int, where: str = "pretrain") -> None:
    """Raises: ConfigError: If a vocabulary of `found` tokens, [DEC] and [ENC] counted, is not the architecture's own."""
    wanted = architecture.text
    if isinstance(architecture, MedArchitecture) and wanted.vocabulary == "bert" and found != wanted.vocab_size:
        raise ConfigError(
            f"{where}.vocabulary: architecture {config.architecture} expects {wanted.vocab_size} tokens with [DEC] and [ENC], "
            f"{config.vocabulary} gives {found}; name the matching file or architecture"
        )
