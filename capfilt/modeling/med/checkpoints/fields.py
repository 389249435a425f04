"""What a caller says about a checkpoint's architecture, in our words, BLIP's or transformers', added to what its shapes say.

Knows nothing of tensors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from capfilt.config.architecture import MedArchitecture, Role
from capfilt.config.find import find_yaml
from capfilt.errors import CheckpointError, ConfigError

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
"""transformers' names of the activations that a MED can have."""

_IMAGE = {  # of timm's VisionTransformer, as BLIP calls it, and of transformers' BlipVisionConfig
    "image_size": "size",
    "img_size": "size",
    "patch_size": "patch",
    "embed_dim": "width",
    "hidden_size": "width",
    "depth": "layers",
    "num_hidden_layers": "layers",
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "layer_norm_eps": "norm_eps",
    "drop_path_rate": "drop_path",
    "hidden_act": "activation",
}
_TEXT = {  # of BERT's configuration
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "max_position_embeddings": "max_positions",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "hidden_act": "activation",
    "pad_token_id": "pad_id",
    "sep_token_id": "sep_id",
    "cls_token_id": "cls_id",
}
_SECTIONS = {  # BLIP's and transformers' names of their parts
    "vision_config": ("image", _IMAGE),
    "visual_encoder": ("image", _IMAGE),
    "text_config": ("text", _TEXT),
    "med_config": ("text", _TEXT),
    "bert_config": ("text", _TEXT),
}
_FLAT_IMAGE = ("image_size", "img_size", "patch_size", "depth", "num_heads", "mlp_ratio", "drop_path_rate")
_VIT = {"base": 12, "large": 16}
"""Heads of BLIP's two image encoders."""
_WITHOUT_EFFECT = ("vit_grad_ckpt", "vit_ckpt_layer", "negative_all_rank", "prompt", "vision_width", "encoder_width")


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
    told = _told(config)
    fields = {**found, **{key: value for key, value in told.items() if key not in ("image", "text")}}
    for section in ("image", "text"):
        fields[section] = {**found[section], **told.get(section, {})}
        if "heads" not in fields[section]:
            raise CheckpointError(
                f"{source}: expected the {section} encoder's number of heads in the configuration, found none, and a width of "
                f"{fields[section]['width']} does not say it (BLIP: heads of 64). Give {section}: {{heads: ...}}"
            )
    fields["text"] |= {key: value for key, value in certain.items() if key != "queue_size"}
    fields |= {key: value for key, value in certain.items() if key == "queue_size"}
    fields["roles"] = [role for role in roles if role in told.get("roles", roles)]
    try:
        return MedArchitecture.model_validate(fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise ConfigError(
            "\n  ".join([f"{source}: expected an architecture that fits, found", *lines]) + "\nGive these fields"
        ) from None


def _told(config: MedArchitecture | Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """The caller's fields in our words."""
    match config:
        case None:
            return {}
        case MedArchitecture():
            return config.model_dump()
        case str() | Path():
            path = Path(config) if Path(config).is_file() else find_yaml(config, "models")
            return _told(_read(path))
        case _:
            return _translated(config)


def _read(path: Path) -> Mapping[str, Any]:
    """A YAML or JSON file (which is YAML)."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: expected fields of an architecture, found {type(content).__name__}. Correct the file")
    return content


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"image": {}, "text": {}}
    for key, value in config.items():
        if key in ("image", "text"):
            told[key] |= value
        elif key in _SECTIONS or (key == "vit" and isinstance(value, Mapping)):
            section, words = _SECTIONS.get(key, ("image", _IMAGE))
            content = _read(Path(value)) if isinstance(value, str | Path) else value
            told[section] |= _renamed(content, words)
        elif key == "vit":
            if value not in _VIT:
                raise ConfigError(f"vit: expected one of {', '.join(_VIT)}, found {value!r}; correct it")
            told["image"].setdefault("heads", _VIT[value])
        elif key in _FLAT_IMAGE:
            told["image"] |= _renamed({key: value}, _IMAGE)
        elif key in _TEXT:
            told["text"] |= _renamed({key: value}, _TEXT)
        elif key not in _WITHOUT_EFFECT:
            told[key] = value
    return told


def _renamed(content: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a MED knows; the others (initialisation, versions) do not change what it computes."""
    found = {ours: content[theirs] for theirs, ours in words.items() if content.get(theirs) is not None}
    if "activation" in found:
        found["activation"] = activation_of(found["activation"])
    return found


def activation_of(name: Any) -> str:
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act: expected one of {', '.join(ACTIVATIONS)}, found {name!r}; a MED has no other")
    return ACTIVATIONS[name]
