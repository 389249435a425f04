"""What a caller says about a ClipCap, in our words, the published code's or transformers', added to what a checkpoint says.

Knows nothing of tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.published import activation_of, architecture_from, told_fields

FULL_STOP = 13
"""GPT-2's '.': where the published code ends a caption."""

_TEXT = {  # of GPT2Config, under its own names and under those that transformers maps to them
    "vocab_size": "vocab_size",
    "n_embd": "width",
    "hidden_size": "width",
    "n_layer": "layers",
    "num_hidden_layers": "layers",
    "n_head": "heads",
    "num_attention_heads": "heads",
    "n_inner": "intermediate",
    "n_positions": "max_positions",
    "n_ctx": "max_positions",
    "max_position_embeddings": "max_positions",
    "resid_pdrop": "dropout",
    "layer_norm_epsilon": "norm_eps",
    "activation_function": "activation",
    "initializer_range": "init_std",
    "tie_word_embeddings": "tied_vocabulary",
    "eos_token_id": "end_id",
    "stop_token_id": "end_id",
    "pad_token_id": "pad_id",
}
_GPT_SECTIONS = ("text", "gpt", "gpt2", "gpt_config", "gpt2_config", "text_config")
_MAPPER = {"prefix_length_clip": "clip_length", "clip_length": "clip_length", "num_layers": "layers", "num_heads": "heads"}
_TOP = {"prefix_size": "embed_dim", "prefix_dim": "embed_dim", "dim_clip": "embed_dim", "normalize_prefix": "normalise"}
_WITHOUT_EFFECT = ("is_rn", "data", "out_dir", "prefix", "epochs", "save_every", "bs", "image")
"""Of the published training; and our `image`, since such checkpoints bring no image side."""
_PLAIN = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
"""What GPT-2 is, and some relatives are not."""


def architecture_of(
    found: Mapping[str, Any], config: ClipCapArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> ClipCapArchitecture:
    """The architecture of a checkpoint; `config` overrides what `found` says.

    Raises:
        ConfigError: If `config` has unknown fields or describes no architecture.
        CheckpointError: If nobody says GPT-2's heads.
    """
    told = told_fields(config, ClipCapArchitecture, _translated)
    fields = {**found, **told, "kind": "clipcap", "image": None}
    fields["text"] = {**found["text"], **told.get("text", {}), "tied_vocabulary": found["text"]["tied_vocabulary"]}
    mapper = told.get("mapper", {})
    if mapper.get("kind", found["mapper"]["kind"]) == "mlp":
        mapper = {key: value for key, value in mapper.items() if key in ("kind", "hidden") and value is not None}
    fields["mapper"] = {**found["mapper"], **mapper}
    if "heads" not in fields["text"]:
        raise CheckpointError(
            f"{source}: expected GPT-2's number of heads in the configuration, found none, and a width of "
            f"{fields['text']['width']} does not say it (GPT-2: heads of 64). Give text: {{heads: ...}}"
        )
    return architecture_from(fields, ClipCapArchitecture, source)


def gpt_fields(theirs: Any) -> dict[str, Any]:
    """Fields of `text` of a transformers GPT2Config (the object, or what its `to_dict` gives).

    Raises:
        CheckpointError: If it is a relative of GPT-2 that computes something else.
    """
    content = theirs if isinstance(theirs, Mapping) else theirs.to_dict()
    other = [f"{name}: {content[name]}" for name, plain in _PLAIN.items() if content.get(name, plain) != plain]
    if content.get("model_type", "gpt2") != "gpt2" or other:
        found = ", ".join([str(content.get("model_type", "gpt2")), *other])
        raise CheckpointError(f"language model: expected a GPT-2, found {found}; name a GPT-2 of any size")
    found_fields = {ours: content[name] for name, ours in _TEXT.items() if content.get(name) is not None}
    if "activation" in found_fields:
        found_fields["activation"] = activation_of(found_fields["activation"])
    return found_fields


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"text": {}, "mapper": {}}
    for key, value in config.items():
        if key in _GPT_SECTIONS:
            content = value if isinstance(value, Mapping) else value.to_dict()
            own = {name: x for name, x in content.items() if name in _OWN_TEXT}
            # What a GPT-2's own configuration calls its end is not where the published captions end.
            told["text"] |= {name: x for name, x in gpt_fields(content).items() if name not in ("end_id", "pad_id")} | own
        elif key == "mapper":
            told["mapper"] |= value
        elif key == "mapping_type":
            told["mapper"]["kind"] = str(getattr(value, "value", value)).lower()
        elif key in _MAPPER:
            told["mapper"][_MAPPER[key]] = value
        elif key in _OWN_TEXT and key not in ClipCapArchitecture.model_fields:
            told["text"][key] = value
        elif key in _TEXT:
            told["text"] |= gpt_fields({key: value})
        elif key in _TOP:
            told[_TOP[key]] = value
        elif key == "only_prefix":
            told["learns"] = "mapper" if value else "mapper_and_text"
        elif key == "ignore_index":
            told["loss_over"] = "not_token_0" if value == 0 else "mask"
        elif key not in _WITHOUT_EFFECT:
            told[key] = value
    return told


_OWN_TEXT = frozenset(ClipCapArchitecture.model_fields["text"].annotation.model_fields)  # type: ignore[union-attr]
