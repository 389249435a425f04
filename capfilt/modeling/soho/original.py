"""Checkpoints of the original SOHO code (researchmm/soho), ImageNet weights for its trunk: their names in, ours out; and back.

What shapes do not say (heads, norms, decay, probabilities, frozen stages) is that of the published configuration unless the
caller says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.published import (
    Names,
    activation_of,
    architecture_from,
    count_of,
    shape_of,
    to_ours,
    to_theirs,
    told_fields,
)
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.weights import own_tensors, state_dict_in

SOURCE = "state dict"
WHAT = "a pre-trained SOHO"
HEAD_WIDTH = 64
"""Of BERT-base: heads are a size that shapes do not show."""
CLASSIFIER = ("fc.weight", "fc.bias")
COUNTER = "num_batches_tracked"
"""Of batch norms; files of old torch versions have none, and nothing here depends on it."""
SECTIONS = ("image", "dictionary", "text")

_LAYER = {
    "self_block.attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "self_block.attention.out": ("attention.output.dense",),
    "self_block.norm": ("attention.output.LayerNorm",),
    "feed_forward.mlp.up": ("intermediate.dense",),
    "feed_forward.mlp.down": ("output.dense",),
    "feed_forward.norm": ("output.LayerNorm",),
}
_PREFIXES = {  # longest first
    "visual.dictionary.codes_KD": "neck.vq.embed",
    "visual.dictionary.uses_K": "neck.vq.cluster_sum",
    "visual.dictionary.counts_K": "neck.vq.cluster_size",
    "visual.dictionary.sums_KD": "neck.vq.embed_avg",
    "visual.projection.": "neck.conv.",
    "visual.gate.": "neck.gate_fc.",
    "visual.line_before.": "neck.begin_line.",
    "visual.line_after.": "neck.pos_line.",
    "visual.mask": "neck.mask_emb.weight",
    "visual.norm.": "neck.ln.",
    "trunk.": "backbone.",
    "transformer.embeddings.words.": "language.bert.embeddings.word_embeddings.",
    "transformer.embeddings.positions.": "language.bert.embeddings.position_embeddings.",
    "transformer.embeddings.types.": "language.bert.embeddings.token_type_embeddings.",
    "transformer.embeddings.norm.": "language.bert.embeddings.LayerNorm.",
    "itm_head.": "head.match_class.",
}
_WORDS = "language.bert.embeddings.word_embeddings.weight"
_TIED = "mask_l_fc.weight"
"""The original's second name of the word embedding."""
_SETTINGS: dict[str, dict[str, tuple[str | None, str]]] = {  # the original's settings that shapes do not show
    "backbone": {"frozen_stages": ("image", "frozen_stages")},
    "neck": {"decay": ("dictionary", "decay"), "mask_prob": (None, "mvm_probability")},
    "language": {
        "num_attention_heads": ("text", "heads"),
        "hidden_dropout_prob": ("text", "dropout"),
        "attention_probs_dropout_prob": ("text", "attention_dropout"),
        "layer_norm_eps": ("text", "norm_eps"),
        "hidden_act": ("text", "activation"),
        "pad_token_id": ("text", "pad_id"),
    },
}


def from_original(
    content: Mapping[str, Any],
    config: SohoArchitecture | Mapping[str, Any] | str | Path | None = None,
    *,
    source: str = SOURCE,
) -> SOHO:
    """See `SOHO.from_original`."""
    theirs = _tensors(content, source)
    architecture = _architecture(theirs, config, source)
    model = build(architecture)
    names = original_names(model)
    ignored = [_TIED]
    if architecture.dictionary.update == "ema_mean":
        ignored += ["neck.vq.cluster_size", "neck.vq.embed_avg"]
    to_ours(theirs, model, names, WHAT, source, is_ignored=ignored.__contains__, may_miss=_counts)
    return model.eval()


def to_original(model: SOHO) -> dict[str, Tensor]:
    """The state dict that the original code would load: what `from_original` reads back to an equal network."""
    own = own_tensors(model)
    found = to_theirs(own, original_names(model))
    found[_TIED] = found[_WORDS]
    found["neck.vq.cluster_sum"] = found["neck.vq.cluster_sum"].float()
    for name, like in (("neck.vq.cluster_size", "neck.vq.cluster_sum"), ("neck.vq.embed_avg", "neck.vq.embed")):
        found.setdefault(name, torch.zeros_like(found[like]))
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def load_trunk(model: SOHO, content: Mapping[str, Any]) -> None:
    """See `SOHO.load_trunk`."""
    theirs = {name: tensor for name, tensor in _tensors(content, "ImageNet weights").items() if name not in CLASSIFIER}
    names: Names = {name: (name,) for name in own_tensors(model.trunk)}
    to_ours(theirs, model.trunk, names, "a ResNet of this size", "ImageNet weights", may_miss=_counts)


def original_names(model: SOHO) -> Names:
    """Of every tensor in the state dict."""
    found: Names = {}
    for ours in own_tensors(model):
        if ours.startswith("transformer.layers."):
            _, _, i, rest = ours.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            found[ours] = tuple(f"language.bert.encoder.layer.{i}.{name}.{kind}" for name in _LAYER[part])
        else:
            prefix = next(prefix for prefix in _PREFIXES if ours.startswith(prefix))
            found[ours] = (_PREFIXES[prefix] + ours.removeprefix(prefix),)
    return found


def _tensors(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Without position ids, which are no weights."""
    return {name: tensor for name, tensor in state_dict_in(content, source).items() if not name.endswith("position_ids")}


def _counts(name: str) -> bool:
    return name.endswith(COUNTER)


# ── what shapes and the caller say ──────────────────────────────────────────────────────────────────────────


def _architecture(
    theirs: Mapping[str, Tensor], config: SohoArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> SohoArchitecture:
    found, told = (
        _found(theirs, source),
        told_fields(config, SohoArchitecture, lambda fields: _translated(fields.get("model", fields))),
    )
    fields = {**found, **{key: value for key, value in told.items() if key not in SECTIONS}}
    for section in SECTIONS:
        fields[section] = {**found[section], **told.get(section, {})}
    if "heads" not in fields["text"]:
        raise CheckpointError(
            f"{source}: expected text.heads in the configuration, found none, and a width of {fields['text']['width']} does not "
            "say it (BERT: heads of 64). Give text: {heads: ...}"
        )
    fields["max_text_length"] = min(fields["max_text_length"], fields["text"]["max_positions"])
    return architecture_from(fields, SohoArchitecture, source)


def _found(theirs: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Fields that shapes give, and the published configuration's values."""
    width, _, side, _ = shape_of(theirs, "backbone.conv1.weight", 4, WHAT, source)
    vocab_size, text_width = shape_of(theirs, _WORDS, 2, WHAT, source)
    stages = [1 + stage for stage in range(4) if f"backbone.layer{stage + 1}.0.conv1.weight" in theirs]
    image: dict[str, Any] = {
        "stem": "imagenet" if side == 7 else "small",
        "block": "bottleneck" if "backbone.layer1.0.conv3.weight" in theirs else "basic",
        "width": width,
        "blocks": [count_of(theirs, f"backbone.layer{stage}.") for stage in stages],
        "frozen_stages": 1,
        "size": 640,
    }
    is_bert = vocab_size == 30_522
    text: dict[str, Any] = {
        "vocabulary": "bert" if is_bert else "trained",
        "vocab_size": vocab_size,
        "width": text_width,
        "layers": count_of(theirs, "language.bert.encoder.layer."),
        "intermediate": shape_of(theirs, "language.bert.encoder.layer.0.intermediate.dense.weight", 2, WHAT, source)[0],
        "max_positions": shape_of(theirs, "language.bert.embeddings.position_embeddings.weight", 2, WHAT, source)[0],
        "dropout": 0.1,
        "attention_dropout": 0.1,
    }
    if text_width % HEAD_WIDTH == 0:
        text["heads"] = text_width // HEAD_WIDTH
    if not is_bert:
        text |= {"cls_id": 2, "sep_id": 3, "mask_id": 4}
    return {
        "kind": "soho",
        "image": image,
        "dictionary": {
            "codes": shape_of(theirs, "neck.vq.embed", 2, WHAT, source)[0],
            "update": "ema_count",
            "decay": 0.4,
            "unused": "fade",
            "line_before": "neck.begin_line.weight" in theirs,
            "line_after": "neck.pos_line.weight" in theirs,
            "mix": "gate" if "neck.gate_fc.conv.weight" in theirs else "sum",
            "norm": "neck.conv.bn.weight" in theirs,
        },
        "text": text,
        "mvm_probability": 0.015,
        "mvm_draw": "batch",
        "max_text_length": 16,
    }


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Ours as they are; of the original's what shapes do not show, in its sections or without them."""
    config = config.get("model", config)
    told: dict[str, Any] = {section: {} for section in SECTIONS}
    flat = {name: place for settings in _SETTINGS.values() for name, place in settings.items()}
    for key, value in config.items():
        if key in SECTIONS:
            told[key] |= value
        elif key in _SETTINGS:
            _tell(told, {name: setting for name, setting in value.items() if name in _SETTINGS[key]}, _SETTINGS[key])
        elif key in flat:
            _tell(told, {key: value}, flat)
        elif key not in ("type", "head", "backbone_pre", "language_pre"):
            told[key] = value
    return told


def _tell(told: dict[str, Any], settings: Mapping[str, Any], places: Mapping[str, tuple[str | None, str]]) -> None:
    for name, value in settings.items():
        section, field = places[name]
        (told if section is None else told[section])[field] = activation_of(value) if field == "activation" else value
