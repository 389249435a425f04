"""What a caller says about a CoCa checkpoint's architecture, in our words or open_clip's, added to what its shapes say.

Knows nothing of tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.published import architecture_from, told_fields

RELEASED = {"coca_ViT-B-32": "coca_vit_b32", "coca_ViT-L-14": "coca_vit_l14"}
"""open_clip's names of the models whose architectures lie in models/."""
SECTIONS = ("image", "pooler", "text", "multimodal")

_VISION = {"image_size": ("image", "size"), "patch_size": ("image", "patch"), "width": ("image", "width")}
_VISION |= {"layers": ("image", "layers"), "mlp_ratio": ("image", "mlp_ratio")}
_VISION |= {"attn_pooler_queries": ("pooler", "queries"), "attn_pooler_heads": ("pooler", "heads")}
_TEXT = {"context_length": ("text", "max_positions"), "vocab_size": ("text", "vocab_size"), "width": ("text", "width")}
_TEXT |= {"heads": ("text", "heads"), "layers": ("text", "layers"), "pad_id": ("text", "pad_id")}
_MULTIMODAL = {"heads": ("multimodal", "heads"), "layers": ("multimodal", "layers")}
_SECTIONS = {"vision_cfg": _VISION, "text_cfg": _TEXT, "multimodal_cfg": _MULTIMODAL}
"""open_clip's fields that shapes may not say. What else is in them is in the shapes, or open_clip's CoCa ignores it."""


def architecture_of(
    found: dict[str, Any], config: CocaArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> CocaArchitecture:
    """The architecture of a checkpoint: `found` by its shapes, overridden by what the caller says.

    Raises:
        ConfigError: If `config` has unknown fields or describes no architecture.
        CheckpointError: If a field that shapes do not give is missing.
    """
    told = told_fields(config, CocaArchitecture, _translated, known_as=RELEASED)
    fields = {**found, **{key: value for key, value in told.items() if key not in SECTIONS}}
    for section in SECTIONS:
        fields[section] = {**found[section], **told.get(section, {})}
        if "heads" not in fields[section]:
            raise CheckpointError(
                f"{source}: expected {section}.heads in the configuration, found none, and a width of "
                f"{found[section].get('width', found['text']['width'])} does not say it (open_clip's released models: heads of "
                f"64, 8 in the pooler). Give {section}: {{heads: ...}}"
            )
    fields["max_text_length"] = min(fields["max_text_length"], fields["text"]["max_positions"])
    return architecture_from(fields, CocaArchitecture, source)


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {section: {} for section in SECTIONS}
    if isinstance(config.get("model_cfg"), Mapping):  # open_clip_config.json of a hub folder
        pixels = config.get("preprocess_cfg", {})
        told |= {f"image_{key}": tuple(pixels[key]) for key in ("mean", "std") if key in pixels}
        config = config["model_cfg"]
    for key, value in config.items():
        if key in SECTIONS:
            told[key] |= value
        elif key in _SECTIONS:
            for name, (section, field) in _SECTIONS[key].items():
                if value.get(name) is not None:
                    told[section][field] = value[name]
        elif key == "quick_gelu":
            for section in ("image", "text"):
                told[section]["activation"] = "quick_gelu" if value else "gelu"
        elif key == "pad_id":
            told["text"]["pad_id"] = value
        elif key == "image_size":
            told["image"]["size"] = value
        elif key != "custom_text":
            told[key] = value
    if "vision_cfg" in config:
        _add_vision(config["vision_cfg"], told)
    for section, key in (("text", "text_cfg"), ("multimodal", "multimodal_cfg")):
        if key in config:
            told[section].setdefault("heads", 8)  # open_clip's default
    if config.get("text_cfg", {}).get("correct_cls_mask"):
        told["text"]["cls_mask"] = "corrected"
    return told


def _add_vision(vision: Mapping[str, Any], told: dict[str, Any]) -> None:
    """Heads and the poolers' layout; refuses the poolings that a CoCa here has not."""
    if "width" in vision:
        told["image"].setdefault("heads", vision["width"] // vision.get("head_width", 64))
    if isinstance(told["image"].get("size"), list | tuple):
        told["image"]["size"] = told["image"]["size"][0]
    if isinstance(vision.get("attentional_pool"), str):
        told["pooler"]["layout"] = vision["attentional_pool"]
    elif vision.get("pool_type", "tok") != "tok":
        raise ConfigError(
            f"vision_cfg.pool_type: expected tok (query 0 is the contrastive one), found {vision['pool_type']!r}; a CoCa here "
            "has no other"
        )
