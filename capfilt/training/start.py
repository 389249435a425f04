"""What a training starts from: an architecture that fits vocabulary and pictures, published towers, a pre-trained model.

Knows nothing of data, losses or steps.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from capfilt.config.architecture import Architecture, Role
from capfilt.config.train import PretrainConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.build import build
from capfilt.modeling.med import MED, missing_role
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import LoadedMed, load_tensors, own_tensors

VOCABULARY_TEXTS = 1_000_000
"""Texts that a vocabulary is trained on, at most: the first ones."""


def tokenizer_for(config: PretrainConfig, architecture: Architecture, texts: Iterable[str], prompt: str) -> Tokenizer:
    wanted = architecture.text
    if config.vocabulary is None and config.init.text is not None:
        from capfilt.modeling.med.checkpoints.towers import tokenizer_of

        return tokenizer_of(config.init.text)
    if config.vocabulary is None:
        if wanted.vocabulary == "bert":
            raise ConfigError(
                f"pretrain.vocabulary: architecture {config.architecture} needs bert-base-uncased's vocab.txt, found null; "
                "name the file, or write `text.vocabulary: trained` in the architecture"
            )
        return Tokenizer.train([prompt, *islice(texts, VOCABULARY_TEXTS)], wanted.vocab_size)
    tokenizer = Tokenizer.from_vocab(config.vocabulary)
    if wanted.vocabulary == "bert" and len(tokenizer) != wanted.vocab_size:
        raise ConfigError(
            f"pretrain.vocabulary: architecture {config.architecture} expects {wanted.vocab_size} tokens with [DEC] and [ENC], "
            f"{config.vocabulary} gives {len(tokenizer)}; name the matching file or architecture"
        )
    return tokenizer


def fitted(architecture: Architecture, tokenizer: Tokenizer, px: int) -> Architecture:
    """The architecture with the tokenizer's real size and ids, and the pictures' size."""
    text = {
        "vocab_size": len(tokenizer),
        "pad_id": tokenizer.pad_id,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
    }
    return _validated(architecture, {"text": text, "image": {"size": px}})


def initialise(model: MED, config: PretrainConfig) -> None:
    from capfilt.modeling.med.checkpoints.towers import start_image, start_text

    if config.init.image is not None:
        start_image(model, config.init.image)
    if config.init.text is not None:
        start_text(model, config.init.text)


def require_role(loaded: LoadedMed, role: Role, start: Path | str) -> None:
    if role not in loaded.architecture.roles:
        raise CheckpointError(missing_role(str(start), role))


def resized(loaded: LoadedMed, px: int) -> LoadedMed:
    """The same network for pictures of another size."""
    architecture = _validated(loaded.architecture, {"image": {"size": px}})
    model = build(architecture)
    tensors = own_tensors(loaded.model)
    if "vision.positions" in tensors:
        tensors["vision.positions"] = loaded.model.vision.positions_for(model.vision.side).detach()
    load_tensors(model, tensors, "the pre-trained model")
    return LoadedMed(model, architecture, loaded.tokenizer)


def _validated(architecture: Architecture, changes: dict[str, dict[str, int]]) -> Architecture:
    content = architecture.model_dump()
    for section, values in changes.items():
        content[section] |= values
    try:
        return type(architecture).model_validate(content)
    except ValueError as error:
        raise ConfigError(
            f"expected an image size and a vocabulary that fit the architecture, found {error}; change them"
        ) from None
