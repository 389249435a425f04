"""What a training starts from: an architecture that fits vocabulary and pictures, published towers, an earlier model.

Knows nothing of data, losses or steps. What never learns (the image side of BLIP-2 and ClipCap, BLIP-2's language model) comes
whole from a model that is there; its sizes take the place of the architecture's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, assert_never

from capfilt.config.architectures import Architecture, image_side, load_architecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture, ClipImage
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role, missing_role
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.families import check_beginning, check_vocabulary, check_vocabulary_size
from capfilt.config.find import find_yaml
from capfilt.config.train import PretrainConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.blip2.bert import start_qformer
from capfilt.modeling.blip2.build import build_blip2, start_from
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.build import build
from capfilt.modeling.clipcap.build import assemble
from capfilt.modeling.clipcap.image import load_embedder
from capfilt.modeling.families import Loaded, load_language, load_network
from capfilt.modeling.med import MED
from capfilt.modeling.tokenizer import SPECIALS, Tokenizer
from capfilt.modeling.weights import load_tensors, own_tensors, read_weights

Fitting = TypeVar("Fitting", MedArchitecture, CocaArchitecture, Blip2Architecture, ClipCapArchitecture, SohoArchitecture)
VOCABULARY_TEXTS = 1_000_000
"""Texts that a vocabulary is trained on, at most: the first ones."""


@dataclass(frozen=True)
class Beginning:
    """What is known before the pairs are read: the architecture, with pictures of their final size."""

    architecture: Architecture
    image: Path | str | None
    """What `init.image` stands for."""
    text: Path | str | None = None
    """What `init.text` stands for."""
    seen_by: Loaded | None = None
    """BLIP-2: the model whose image encoder, or Q-Former, is taken."""

    @property
    def px(self) -> int:
        return image_side(self.architecture)


def begin(config: PretrainConfig, image: Path | str | None = None, text: Path | str | None = None) -> Beginning:
    """The architecture that `config` names, at its image size.

    Args:
        image: The folder that `config.init.image` stands for, where it is the name of another model.
        text: The same of `config.init.text`.

    Raises:
        ConfigError: If the family does not begin with what `init` names, or needs what it does not name.
        CheckpointError: If that is missing, or is something else.
    """
    architecture = load_architecture(find_yaml(config.architecture, "models"))
    check_beginning(config, architecture, image=image, text=text)
    source = image or config.init.image
    seen_by: Loaded | None = None
    match architecture:
        case MedArchitecture():
            architecture = _sized(architecture, config.image_px)
        case CocaArchitecture():
            architecture = _sized(architecture, config.image_px)
        case SohoArchitecture():
            architecture = _sized(architecture, config.image_px)
        case Blip2Architecture():
            looks_with = source or architecture.image.checkpoint
            assert looks_with is not None
            seen_by = load_network(looks_with)
            architecture = _with_eyes(architecture, seen_by, config)
        case ClipCapArchitecture():
            assert source is not None
            _, section, embed_dim, told = load_embedder(source)
            changes = {"image": section.model_dump(), "embed_dim": embed_dim, **told}
            architecture = _validated(architecture, changes)
            _same_size(config, section.size)
        case _:
            assert_never(architecture)
    return Beginning(architecture, source, text or config.init.text, seen_by)


def fresh(start: Beginning, config: PretrainConfig, texts: Iterable[str], *, prompt: str, seed: int) -> Loaded:
    """The new network with its vocabulary, its weights drawn from `seed` where nothing gives them.

    Args:
        texts: What a vocabulary is trained on.
        prompt: Belongs to them.
    """
    architecture = start.architecture
    match architecture:
        case MedArchitecture():
            tokenizer = tokenizer_for(config, architecture, texts, prompt)
            fitting = fitted(architecture, tokenizer)
            med = build(fitting, seed=seed)
            initialise(med, config)
            return Loaded(med, fitting, tokenizer)
        case CocaArchitecture():
            tokenizer = tokenizer_for(config, architecture, texts, prompt)
            coca = fitted(architecture, tokenizer)
            return Loaded(build(coca, seed=seed), coca, tokenizer)
        case SohoArchitecture():
            tokenizer = tokenizer_for(config, architecture, texts, prompt)
            dictionary = fitted(architecture, tokenizer)
            soho = build(dictionary, seed=seed)
            if start.image is not None:
                soho.load_trunk(read_weights(Path(start.image)))
            return Loaded(soho, dictionary, tokenizer)
        case Blip2Architecture():
            return _blip2(start, architecture, config, texts, prompt, seed)
        case ClipCapArchitecture():
            own = None if config.init.text is not None else tokenizer_for(config, architecture, texts, prompt)
            assert start.image is not None
            return assemble(architecture, text=config.init.text, image=start.image, tokenizer=own, seed=seed)
        case _:
            assert_never(architecture)


def _blip2(
    start: Beginning, architecture: Blip2Architecture, config: PretrainConfig, texts: Iterable[str], prompt: str, seed: int
) -> Loaded:
    assert start.seen_by is not None
    eyes = start.seen_by.model
    if architecture.language is None:
        assert isinstance(eyes, MED)
        tokenizer = tokenizer_for(config, architecture, texts, prompt)
        fitting = fitted(architecture, tokenizer)
        stage_1 = build_blip2(fitting, seed=seed, vision=eyes.vision)
        assert isinstance(stage_1, QFormer)
        if config.init.text is not None:
            start_qformer(stage_1, config.init.text)
        return Loaded(stage_1, fitting, tokenizer)
    assert isinstance(eyes, QFormer)
    checkpoint = start.text or architecture.language.checkpoint
    assert checkpoint is not None
    language, tokenizer_of_language = load_language(checkpoint, eos_id=architecture.language.eos_id)
    room = language.longest - architecture.text.queries
    if architecture.max_text_length > room:
        raise ConfigError(
            f"max_text_length: expected at most the {room} positions that the language model has behind "
            f"{architecture.text.queries} queries, found {architecture.max_text_length}. Lower it in {config.architecture}"
        )
    own = architecture.language.model_copy(update={"checkpoint": str(checkpoint)})
    architecture = architecture.model_copy(update={"language": own})
    model = build_blip2(architecture, seed=seed, vision=eyes.vision, language=language)
    assert not isinstance(model, QFormer)
    start_from(model, eyes)
    return Loaded(model, architecture, tokenizer_of_language)


def _with_eyes(architecture: Blip2Architecture, seen_by: Loaded, config: PretrainConfig) -> Blip2Architecture:
    """The architecture with the sizes of the frozen image encoder, in stage 2 with those of the whole Q-Former."""
    given = seen_by.architecture
    changes: dict[str, Any]
    if architecture.language is None:
        if not isinstance(given, MedArchitecture):
            raise CheckpointError(
                f"pretrain.init.image: expected a MED, found a {given.kind}. Name a model with a MED's image encoder"
            )
        changes = {"image": {**given.image.model_dump(), "final_norm": True, "checkpoint": None}}
    else:
        if not isinstance(seen_by.model, QFormer):
            raise CheckpointError(
                f"pretrain.init.image: expected a BLIP-2 of stage 1, with whose Q-Former stage 2 goes on, found a {given.kind}. "
                "Name that model"
            )
        assert isinstance(given, Blip2Architecture)
        changes = {"image": given.image.model_dump(), "text": given.text.model_dump(), "roles": ()}
    _same_size(config, given.image.size)
    return _validated(architecture, {**changes, "image_mean": given.image_mean, "image_std": given.image_std})


def takes_middle(architecture: Architecture) -> bool:
    """Whether pictures are cut to their middle square, as CLIP does, and not squeezed."""
    return isinstance(architecture.image, ClipImage)


def tokenizer_for(config: PretrainConfig, architecture: Architecture, texts: Iterable[str], prompt: str) -> Tokenizer:
    if config.vocabulary is None and config.init.text is not None:
        from capfilt.modeling.med.checkpoints.towers import tokenizer_of

        return tokenizer_of(config.init.text)
    check_vocabulary(config, architecture)
    if config.vocabulary is None:
        return Tokenizer.train([prompt, *islice(texts, VOCABULARY_TEXTS)], architecture.text.vocab_size)
    tokenizer = Tokenizer.from_vocab(config.vocabulary)
    check_vocabulary_size(config, architecture, len(tokenizer))
    return tokenizer


def fitted(architecture: Fitting, tokenizer: Tokenizer) -> Fitting:
    """The architecture with the tokenizer's real size and ids."""
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_id": tokenizer.pad_id,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
        "dec_id": tokenizer.dec_id,
        "mask_id": tokenizer.tokens().index(SPECIALS[-1]),
    }
    known = type(architecture.text).model_fields
    return _validated(architecture, {"text": {name: value for name, value in text.items() if name in known}})


def initialise(model: MED, config: PretrainConfig) -> None:
    from capfilt.modeling.med.checkpoints.towers import start_image, start_text

    if config.init.image is not None:
        start_image(model, config.init.image)
    if config.init.text is not None:
        start_text(model, config.init.text)


def require_role(loaded: Loaded, role: Role, start: Path | str) -> None:
    if role not in loaded.architecture.roles and not (role == "captioner" and isinstance(loaded.model, Blip2)):
        raise CheckpointError(missing_role(str(start), role))


def resized(loaded: Loaded, px: int) -> Loaded:
    """The same network for pictures of another size.

    Raises:
        ConfigError: If its pictures have one size only.
    """
    architecture, own = loaded.architecture, loaded.model
    if not isinstance(architecture, MedArchitecture) or not isinstance(own, MED):
        raise ConfigError(
            f"finetune.image_px: expected {image_side(architecture)}, the size a {architecture.kind} was trained with, found "
            f"{px}. Write null"
        )
    architecture = _sized(architecture, px)
    model = build(architecture)
    tensors = own_tensors(own)
    if "vision.positions" in tensors:
        tensors["vision.positions"] = own.vision.positions_for(model.vision.side).detach()
    load_tensors(model, tensors, "the pre-trained model")
    return Loaded(model, architecture, loaded.tokenizer)


def _sized(architecture: Fitting, px: int | None) -> Fitting:
    return architecture if px is None else _validated(architecture, {"image": {"size": px}})


def _same_size(config: PretrainConfig, px: int) -> None:
    if config.image_px not in (None, px):
        raise ConfigError(
            f"pretrain.image_px: expected {px}, the size that the frozen image encoder was trained with, found "
            f"{config.image_px}. Write null"
        )


def _validated(architecture: Fitting, changes: dict[str, Any]) -> Fitting:
    """`changes`: by field; of a section, the fields of it that change."""
    content = architecture.model_dump()
    for name, value in changes.items():
        before = content[name]
        is_part = (
            isinstance(value, dict) and isinstance(before, dict) and value.get("kind", before.get("kind")) == before.get("kind")
        )
        content[name] = before | value if is_part else value
    try:
        return type(architecture).model_validate(content)
    except ValueError as error:
        raise ConfigError(
            f"expected an image size and a vocabulary that fit the architecture, found {error}; change them"
        ) from None
