"""What a caller says about a checkpoint's architecture, in our words, BLIP's or transformers', added to what its shapes say.

Knows nothing of tensors.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.published import (
    BERT_WITHOUT_EFFECT,
    BERT_WORDS,
    VIT_WORDS,
    architecture_from,
    read_fields,
    renamed,
    told_fields,
)

_IMAGE = VIT_WORDS | {"drop_path_rate": "drop_path"}
"""Of timm's VisionTransformer, as BLIP calls it, and of transformers' BlipVisionConfig."""
_SECTIONS = {  # BLIP's and transformers' names of their parts
    "vision_config": ("image", _IMAGE),
    "visual_encoder": ("image", _IMAGE),
    "text_config": ("text", BERT_WORDS),
    "med_config": ("text", BERT_WORDS),
    "bert_config": ("text", BERT_WORDS),
}
_FLAT_IMAGE = ("image_size", "img_size", "patch_size", "depth", "num_heads", "mlp_ratio", "drop_path_rate")
_VIT = {"base": 12, "large": 16}
"""Heads of BLIP's two image encoders."""
_BERT = {"cls_id": 101, "sep_id": 102}
_SMALL_INSTEAD = {"cls_id": 1, "sep_id": 2}
"""What a vocabulary that is too small for BERT's ids has where nobody says more."""
_WITHOUT_EFFECT = (
    "vit_grad_ckpt",
    "vit_ckpt_layer",
    "negative_all_rank",
    "prompt",
    "vision_width",
    "encoder_width",
    *BERT_WITHOUT_EFFECT,
)
"""What BLIP's files say and no weight or score depends on."""


def architecture_fields(
    found: dict[str, Any],
    config: MedArchitecture | Mapping[str, Any] | str | Path | None,
    roles: Sequence[Role],
    certain: Mapping[str, Any],
    source: str,
) -> MedArchitecture:
    """The architecture of a checkpoint.

    Args:
        found: Fields that shapes and defaults give; `config` overrides them.
        config: See `MED.from_original`.
        roles: What the tensors can do; `config` may ask for fewer.
        certain: `shared`, `tied_vocabulary` and `queue_size` as the tensors have them; nothing overrides them.
        source: For the message.

    Raises:
        ConfigError: If `config` has unknown fields or describes no architecture.
        CheckpointError: If a field that shapes do not give is missing.
    """
    told = told_fields(config, MedArchitecture, _translated)
    fields = {**found, **{key: value for key, value in told.items() if key not in ("image", "text")}}
    for section in ("image", "text"):
        fields[section] = {**found[section], **told.get(section, {})}
        if "heads" not in fields[section]:
            raise CheckpointError(
                f"{source}: expected the {section} encoder's number of heads in the configuration, found none, and a width of "
                f"{fields[section]['width']} does not say it (BLIP: heads of 64). Give {section}: {{heads: ...}}"
            )
    fields["text"] |= {key: value for key, value in certain.items() if key != "queue_size"}
    if fields["text"]["vocab_size"] <= max(_BERT.values()):  # no BERT's; tests have such ones
        fields["text"] = _SMALL_INSTEAD | fields["text"]
        if not {"cls_id", "sep_id"} <= set(told.get("text", {})):
            warnings.warn(
                f"{source}: a vocabulary of {fields['text']['vocab_size']} has no [CLS] 101 and [SEP] 102; "
                f"taken are {fields['text']['cls_id']} and {fields['text']['sep_id']}. Give text: {{cls_id: ..., sep_id: ...}}",
                stacklevel=2,
            )
    fields |= {key: value for key, value in certain.items() if key == "queue_size"}
    fields["roles"] = [role for role in roles if role in told.get("roles", roles)]
    return architecture_from(fields, MedArchitecture, source)


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"image": {}, "text": {}}
    for key, value in config.items():
        if key in ("image", "text"):
            told[key] |= _in_our_words(value, _IMAGE if key == "image" else BERT_WORDS)
        elif key in _SECTIONS or (key == "vit" and isinstance(value, Mapping)):
            section, words = _SECTIONS.get(key, ("image", _IMAGE))
            content = read_fields(Path(value)) if isinstance(value, str | Path) else value
            told[section] |= renamed(content, words)
        elif key == "vit":
            if value not in _VIT:
                raise ConfigError(f"vit: expected one of {', '.join(_VIT)}, found {value!r}; correct it")
            told["image"].setdefault("heads", _VIT[value])
        elif key in _FLAT_IMAGE:
            told["image"] |= renamed({key: value}, _IMAGE)
        elif key in BERT_WORDS:
            told["text"] |= renamed({key: value}, BERT_WORDS)
        elif key not in _WITHOUT_EFFECT:
            told[key] = value
    return told


def _in_our_words(section: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Our own fields as they are, BLIP's translated."""
    theirs = {key: value for key, value in section.items() if key in words and key != words[key]}
    ours = {key: value for key, value in section.items() if key not in theirs and key not in _WITHOUT_EFFECT}
    return renamed(theirs, words) | ours
