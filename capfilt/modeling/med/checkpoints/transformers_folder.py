"""Folders that transformers' BlipForConditionalGeneration and BlipForImageTextRetrieval write, read as a MED.

Weights, tokenizer and image processor; the way back is `export`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role
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
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import activation_of, shape_of, to_ours
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.transformers_files import CONFIG, folder_tokenizer, image_processor, read_json, read_tensors

ITM_POSITION = "capfilt_itm_position"
"""A field of ours in an exported config.json: transformers keeps it and does not read it."""


def load_transformers(folder: Path, vocabulary: str | Path | None = None) -> tuple[MED, Tokenizer]:
    """The network, in evaluation mode, its architecture from the folder's settings; and its tokenizer.

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
    return model.eval(), tokenizer


def _architecture(
    folder: Path, settings: dict[str, Any], theirs: Mapping[str, Tensor], roles: list[Role], tokenizer: Tokenizer
) -> MedArchitecture:
    from transformers import BlipConfig

    config = BlipConfig.from_dict(settings)  # fills what a saved file leaves out because it is the default
    image, text = config.vision_config, config.text_config
    size = int(image.image_size)
    if text.bos_token_id != text.vocab_size - 2:
        raise CheckpointError(
            f"{folder}: expected [DEC] and [ENC] as the last two of {text.vocab_size} tokens, found bos_token_id "
            f"{text.bos_token_id}. Use a checkpoint with BLIP's vocabulary"
        )
    tower = ENCODER if "filter" in roles else DECODER
    longest = shape_of(theirs, f"{tower}embeddings.position_embeddings.weight", 2, WHAT, str(folder))[0]
    optional = image_processor(folder, size)
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
