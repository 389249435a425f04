"""What a caller says about a Q-Former's architecture, in our words, LAVIS', BERT's or transformers', added to what shapes say.

Knows nothing of tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.published import BERT_WITHOUT_EFFECT, BERT_WORDS, VIT_WORDS, architecture_from, renamed, told_fields

_IMAGE = VIT_WORDS | {"num_features": "width"}
"""Of LAVIS' and timm's VisionTransformer, and of transformers' Blip2VisionConfig."""
_TEXT = BERT_WORDS | {
    "eos_token_id": "sep_id",
    "bos_token_id": "dec_id",
    "query_length": "queries",
    "cross_attention_freq": "cross_every",
    "cross_attention_frequency": "cross_every",
}
"""Of BERT's configuration as LAVIS extends it, and of transformers' Blip2QFormerConfig."""
_FLAT = {  # of LAVIS' models, beside BERT's own
    "num_query_token": ("text", "queries"),
    "num_query_tokens": ("text", "queries"),
    "img_size": ("image", "size"),
    "image_size": ("image", "size"),
    "patch_size": ("image", "patch"),
    "vision_width": ("image", "width"),
    "encoder_width": ("image", "width"),
    "encoder_hidden_size": ("image", "width"),
    "num_features": ("image", "width"),
    "depth": ("image", "layers"),
    "num_heads": ("image", "heads"),
    "mlp_ratio": ("image", "mlp_ratio"),
}
_TOP = {"max_txt_len": "max_text_length", "image_text_hidden_size": "embed_dim"}
_SECTIONS = {
    "vision_config": ("image", _IMAGE),
    "visual_encoder": ("image", _IMAGE),
    "qformer_config": ("text", _TEXT),
    "bert_config": ("text", _TEXT),
    "Qformer": ("text", _TEXT),
}
_WITHOUT_EFFECT = (
    *BERT_WITHOUT_EFFECT,
    "drop_path_rate",
    "freeze_vit",
    "use_grad_checkpoint",
    "vit_precision",
    "vit_model",
    "prompt",
)

Given = Blip2Architecture | Mapping[str, Any] | str | Path | None


def architecture_of(found: dict[str, Any], config: Given, certain: Mapping[str, Any], source: str) -> Blip2Architecture:
    """The architecture of a checkpoint.

    Args:
        found: Fields that shapes and defaults give; `config` overrides them.
        config: See `QFormer.from_original`.
        certain: What the tensors decide; nothing overrides it: `roles`, and in `image` and `text` fields as they stand.
        source: For the message.

    Raises:
        ConfigError: If `config` has unknown fields or describes no architecture.
        CheckpointError: If a field that shapes do not give is missing.
    """
    told = told_fields(config, Blip2Architecture, _translated, explicit_only=True)
    fields = {**found, **told, **certain}
    for section in ("image", "text"):
        fields[section] = {**found[section], **told.get(section, {}), **certain.get(section, {})}
        if "heads" not in fields[section]:
            raise CheckpointError(
                f"{source}: expected the number of heads of {section} in the configuration, found none, and a width of "
                f"{fields[section]['width']} does not say it (BLIP-2: 64 wide in the Q-Former). Give {section}: {{heads: ...}}"
            )
    if "max_text_length" not in told:
        fields["max_text_length"] = min(fields["max_text_length"], fields["text"].get("max_positions", 512))
    return architecture_from(fields, Blip2Architecture, source)


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"image": {}, "text": {}}
    for key, value in config.items():
        if key in ("image", "text"):
            told[key] |= value
        elif key in _SECTIONS:
            section, words = _SECTIONS[key]
            told[section] |= renamed(value, words)
        elif key in _FLAT:
            section, ours = _FLAT[key]
            told[section][ours] = value
        elif key in _TEXT:
            told["text"] |= renamed({key: value}, _TEXT)
        elif key in _TOP:
            told[_TOP[key]] = value
        elif key not in _WITHOUT_EFFECT:
            told[key] = value
    return told
