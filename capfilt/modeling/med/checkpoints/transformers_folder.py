"""Folders that transformers' BlipForConditionalGeneration and BlipForImageTextRetrieval write, read as a MED.

Weights, tokenizer and image processor; the way back is `export`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from capfilt.config.architecture import MedArchitecture, Role
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.med.checkpoints.names import (
    DECODER,
    ENCODER,
    WHAT,
    is_shared,
    is_tied,
    published_names,
    roles_of,
    with_aliases,
)
from capfilt.modeling.published import activation_of, shape_of, to_ours
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import LoadedMed

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BICUBIC = 3
ITM_POSITION = "capfilt_itm_position"
"""A field of ours in an exported config.json: transformers keeps it and does not read it."""


def load_transformers(folder: Path, vocabulary: str | Path | None = None) -> LoadedMed:
    """The network, its architecture from the folder's settings, and its tokenizer.

    Raises:
        CheckpointError: If a file is missing or is not BLIP's, or if tensors are missing, unexpected or of another shape.
    """
    settings = read_json(folder / CONFIG)
    if settings.get("model_type") != "blip":
        raise CheckpointError(
            f"{folder}: expected a folder of transformers' BLIP (model_type blip), found {settings.get('model_type')!r}. "
            "Give a BlipForConditionalGeneration or BlipForImageTextRetrieval"
        )
    theirs = {name: tensor for name, tensor in with_aliases(read_tensors(folder)).items() if name != "logit_scale"}
    roles = roles_of(theirs)
    if not roles:
        shape_of(theirs, f"{DECODER}embeddings.word_embeddings.weight", 2, WHAT, str(folder))
    tokenizer = folder_tokenizer(folder, vocabulary)
    try:
        architecture = _architecture(folder, settings, theirs, roles, tokenizer)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{folder}: expected settings of a BLIP that a MED can be, found {told}") from None
    if len(tokenizer) != architecture.text.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of {architecture.text.vocab_size} tokens with [DEC] and [ENC], found "
            f"{len(tokenizer)}. Bring the folder's own tokenizer, or give the matching `vocabulary`"
        )
    model = build(architecture)
    to_ours(theirs, model, published_names(architecture, "transformers"), WHAT, str(folder))
    return LoadedMed(model.eval(), architecture, tokenizer)


def _architecture(
    folder: Path, settings: dict[str, Any], theirs: Mapping[str, Tensor], roles: list[Role], tokenizer: Tokenizer
) -> MedArchitecture:
    from transformers import BlipConfig

    config = BlipConfig.from_dict(settings)  # fills what a saved file leaves out because it is the default
    image, text = config.vision_config, config.text_config
    picture = image_processor(folder)
    size = int(image.image_size)
    if picture.get("size", size) != size:
        raise CheckpointError(
            f"{folder}: expected an image processor of the network's {size} pixels, found {picture['size']}. Make both the same"
        )
    if text.bos_token_id != text.vocab_size - 2:
        raise CheckpointError(
            f"{folder}: expected [DEC] and [ENC] as the last two of {text.vocab_size} tokens, found bos_token_id "
            f"{text.bos_token_id}. Use a checkpoint with BLIP's vocabulary"
        )
    tower = ENCODER if "filter" in roles else DECODER
    longest = shape_of(theirs, f"{tower}embeddings.position_embeddings.weight", 2, WHAT, str(folder))[0]
    optional: dict[str, Any] = {name: picture[name] for name in ("image_mean", "image_std") if name in picture}
    if "vision_proj.weight" in theirs:
        optional["embed_dim"] = theirs["vision_proj.weight"].shape[0]
    return MedArchitecture.model_validate(
        {
            "kind": "med",
            "image": {
                "size": size,
                "patch": int(image.patch_size),
                "width": image.hidden_size,
                "layers": image.num_hidden_layers,
                "heads": image.num_attention_heads,
                "mlp_ratio": image.intermediate_size / image.hidden_size,
                "norm_eps": image.layer_norm_eps,
                "activation": activation_of(image.hidden_act),
            },
            "text": {
                "vocab_size": text.vocab_size,
                "width": text.hidden_size,
                "layers": text.num_hidden_layers,
                "heads": text.num_attention_heads,
                "intermediate": text.intermediate_size,
                "max_positions": longest,
                "dropout": text.hidden_dropout_prob,
                "attention_dropout": text.attention_probs_dropout_prob,
                "norm_eps": text.layer_norm_eps,
                "activation": activation_of(text.hidden_act),
                "shared": is_shared(theirs),
                "tied_vocabulary": is_tied(theirs),
                "pad_id": tokenizer.pad_id,
                "cls_id": tokenizer.cls_id,
                "sep_id": tokenizer.sep_id,
            },
            "roles": roles,
            # transformers gives the image-grounded encoder what its tokenizer says, [CLS], as BLIP_ITM does.
            "itm_position": settings.get(ITM_POSITION, "cls"),
            "max_text_length": min(40 if roles == ["captioner"] else 35, longest),
            **optional,
        }
    )


def image_processor(folder: Path) -> dict[str, Any]:
    """`size`, `image_mean` and `image_std` of the image processor, where the folder has one; BLIP's hold otherwise."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        settings = read_json(path)
    elif (folder / "processor_config.json").is_file():
        settings = read_json(folder / "processor_config.json").get("image_processor", {})
    else:
        return {}
    wrong = [key for key in ("do_resize", "do_rescale", "do_normalize") if settings.get(key, True) is not True]
    wrong += ["resample"] * (settings.get("resample", BICUBIC) != BICUBIC)
    wrong += ["rescale_factor"] * (abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6)
    if wrong:
        told = ", ".join(f"{key} {settings[key]!r}" for key in wrong)
        raise CheckpointError(
            f"{folder}: expected BLIP's image processor (bicubic resize, scale 1/255, normalise), found {told}; ours has no other"
        )
    found = {name: tuple(settings[name]) for name in ("image_mean", "image_std") if name in settings}
    size = settings.get("size")
    if isinstance(size, Mapping):
        if size.get("height") != size.get("width"):
            raise CheckpointError(f"{folder}: expected square pictures, found {dict(size)} in the image processor")
        size = size.get("height")
    return found | ({"size": size} if size is not None else {})


def folder_tokenizer(folder: Path, vocabulary: str | Path | None) -> Tokenizer:
    if vocabulary is not None:
        return Tokenizer.from_vocab(vocabulary)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder, complete=True)
    if (folder / "vocab.txt").is_file():
        return Tokenizer.from_vocab(folder / "vocab.txt")
    raise CheckpointError(
        f"{folder}: expected tokenizer.json or vocab.txt beside the weights, found neither. Save the tokenizer there, or give "
        "`vocabulary`, bert-base-uncased's vocab.txt"
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from the parts that an index lists."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name)
        if index.is_file():
            found: dict[str, Tensor] = {}
            for part in sorted(set(read_json(index)["weight_map"].values())):
                found |= _read(folder / part)
            return found
    raise CheckpointError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {CONFIG}, found neither. Copy the weights there")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path}: expected weights, found {error}. Copy the file again") from None
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON settings, found {error}. Copy the file again") from None
    return content
