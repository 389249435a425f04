"""Checkpoints of the original SOHO code (researchmm/soho), ImageNet weights for its trunk: their names in, ours out; and back.

What shapes do not say (heads, norms, decay, probabilities, frozen stages) is that of the published configuration unless the
caller says otherwise.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.find import find_yaml
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.med.checkpoints.fields import activation_of
from capfilt.modeling.med.checkpoints.names import count_of
from capfilt.modeling.med.checkpoints.original import state_dict_in
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.weights import own_tensors

SOURCE = "state dict"
HEAD_WIDTH = 64
"""Of BERT-base: heads are a size that shapes do not show."""
CLASSIFIER = ("fc.weight", "fc.bias")
COUNTER = "num_batches_tracked"
"""Of batch norms; files of old torch versions have none, and nothing here depends on it."""
SECTIONS = ("image", "dictionary", "text")
Names = dict[str, tuple[str, ...]]
"""Our tensor -> theirs; several of theirs stand one after the other along axis 0 of ours."""

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
    with torch.random.fork_rng(devices=[]):
        model = SOHO(architecture)
    names = original_names(model)
    ignored = [_TIED]
    if architecture.dictionary.update == "ema_mean":
        ignored += ["neck.vq.cluster_size", "neck.vq.embed_avg"]
    _load(theirs, model, names, "a SOHO", source, ignored)
    return model.eval()


def to_original(model: SOHO) -> dict[str, Tensor]:
    """The state dict that the original code would load: what `from_original` reads back to an equal network."""
    own = own_tensors(model)
    found: dict[str, Tensor] = {}
    for ours, parts in original_names(model).items():
        found |= zip(parts, own[ours].chunk(len(parts)) if len(parts) > 1 else (own[ours],), strict=True)
    found[_TIED] = found[_WORDS]
    found["neck.vq.cluster_sum"] = found["neck.vq.cluster_sum"].float()
    for name, like in (("neck.vq.cluster_size", "neck.vq.cluster_sum"), ("neck.vq.embed_avg", "neck.vq.embed")):
        found.setdefault(name, torch.zeros_like(found[like]))
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def load_trunk(model: SOHO, content: Mapping[str, Any]) -> None:
    """See `SOHO.load_trunk`."""
    theirs = {name: tensor for name, tensor in _tensors(content, "ImageNet weights").items() if name not in CLASSIFIER}
    names: Names = {name: (name,) for name in own_tensors(model.trunk)}
    _load(theirs, model.trunk, names, "a ResNet of this size", "ImageNet weights")


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
    """Bare or under `state_dict` or `model`; without position ids, which are no weights."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    found = state_dict_in(content, source)
    return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def _load(
    theirs: Mapping[str, Tensor], model: nn.Module, names: Names, what: str, source: str, ignored: Iterable[str] = ()
) -> None:
    """Copy their tensors into the network, each in its place.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; lists all and changes nothing.
    """
    own = own_tensors(model)
    wrong: list[str] = []
    values: dict[str, Tensor] = {}
    for ours, parts in names.items():
        expected = list(own[ours].shape)
        if len(parts) > 1:
            expected[0] //= len(parts)
        missing = [name for name in parts if name not in theirs and not name.endswith(COUNTER)]
        misshapen = [name for name in parts if name in theirs and list(theirs[name].shape) != expected]
        wrong += [f"missing {name} {expected}" for name in missing]
        wrong += [f"misshapen {name}: expected {expected}, found {list(theirs[name].shape)}" for name in misshapen]
        if not missing and not misshapen and parts[0] in theirs:
            values[ours] = torch.cat([theirs[name] for name in parts]) if len(parts) > 1 else theirs[parts[0]]
    known = {name for parts in names.values() for name in parts} | set(ignored)
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in theirs.items() if name not in known]
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(
            f"{source}: expected the tensors of {what}, found\n  {listed}\n"
            "Give the whole checkpoint, and the settings it was trained with"
        )
    with torch.no_grad():
        for ours, tensor in values.items():
            own[ours].copy_(tensor)


# ── what shapes and the caller say ──────────────────────────────────────────────────────────────────────────


def _architecture(
    theirs: Mapping[str, Tensor], config: SohoArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> SohoArchitecture:
    found, told = _found(theirs, source), _told(config)
    fields = {**found, **{key: value for key, value in told.items() if key not in SECTIONS}}
    for section in SECTIONS:
        fields[section] = {**found[section], **told.get(section, {})}
    if "heads" not in fields["text"]:
        raise CheckpointError(
            f"{source}: expected text.heads in the configuration, found none, and a width of {fields['text']['width']} does not "
            "say it (BERT: heads of 64). Give text: {heads: ...}"
        )
    fields["max_text_length"] = min(fields["max_text_length"], fields["text"]["max_positions"])
    try:
        return SohoArchitecture.model_validate(fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise ConfigError(
            "\n  ".join([f"{source}: expected an architecture that fits, found", *lines]) + "\nGive these fields"
        ) from None


def _found(theirs: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Fields that shapes give, and the published configuration's values."""
    width, _, side, _ = _shape(theirs, "backbone.conv1.weight", 4, source)
    vocab_size, text_width = _shape(theirs, _WORDS, 2, source)
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
        "intermediate": _shape(theirs, "language.bert.encoder.layer.0.intermediate.dense.weight", 2, source)[0],
        "max_positions": _shape(theirs, "language.bert.embeddings.position_embeddings.weight", 2, source)[0],
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
            "codes": _shape(theirs, "neck.vq.embed", 2, source)[0],
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


def _shape(theirs: Mapping[str, Tensor], name: str, axes: int, source: str) -> list[int]:
    if name not in theirs or theirs[name].ndim != axes:
        found = f"one of shape {list(theirs[name].shape)}" if name in theirs else f"none but {', '.join(list(theirs)[:5])}, ..."
        raise CheckpointError(
            f"{source}: expected the weights of a pre-trained SOHO, so a {name} of {axes} axes, found {found}. Check the file"
        )
    return list(theirs[name].shape)


def _told(config: SohoArchitecture | Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """The caller's fields in our words."""
    match config:
        case None:
            return {}
        case SohoArchitecture():
            return config.model_dump()
        case str() | Path():
            path = Path(config) if Path(config).is_file() else find_yaml(config, "models")
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping):
                raise ConfigError(f"{path}: expected fields of an architecture, found {type(content).__name__}. Correct the file")
            return _told(content)
        case _:
            return _translated(config.get("model", config))


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Ours as they are; of the original's what shapes do not show, in its sections or without them."""
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
