"""The released ClipCap checkpoints (rmokady/CLIP_prefix_caption): their names in, a ClipCap out, and back.

Knows nothing of files: a released .pt file is a plain state dict of `clip_project.*` and `gpt.*`. CLIP is in none of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.modeling.build import build
from capfilt.modeling.clipcap.fields import FULL_STOP, architecture_of
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.published import count_of, refuse, same, shape_of
from capfilt.modeling.weights import own_tensors, state_dict_in

WHAT = "a ClipCap"
SOURCE = "state dict"
MAPPER, GPT = "clip_project.", "gpt."
WORDS, HEAD = f"{GPT}transformer.wte.weight", f"{GPT}lm_head.weight"
BLOCKS = f"{MAPPER}transformer.layers."
HEAD_WIDTH = 64
"""Of every published GPT-2: heads are the one size that shapes do not show."""
LONGEST = 67
"""Tokens that the published code writes at most."""
_BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Causal masks, which older transformers kept with the weights."""
_BLOCK = {  # ours: theirs, with the share of our rows that each has
    "norm_1.weight": (("norm1.weight", 1),),
    "norm_1.bias": (("norm1.bias", 1),),
    "attention.qkv.weight": (("attn.to_queries.weight", 1), ("attn.to_keys_values.weight", 2)),
    "attention.out.weight": (("attn.project.weight", 1),),
    "attention.out.bias": (("attn.project.bias", 1),),
    "norm_2.weight": (("norm2.weight", 1),),
    "norm_2.bias": (("norm2.bias", 1),),
    "up.weight": (("mlp.fc1.weight", 1),),
    "up.bias": (("mlp.fc1.bias", 1),),
    "down.weight": (("mlp.fc2.weight", 1),),
    "down.bias": (("mlp.fc2.bias", 1),),
}
Names = dict[str, tuple[tuple[str, int], ...]]
"""Our tensor -> theirs, whose rows stand one after another in ours, in these proportions."""


def from_original(
    content: Mapping[str, Any],
    config: ClipCapArchitecture | Mapping[str, Any] | str | Path | None = None,
    *,
    source: str = SOURCE,
) -> ClipCap:
    """See `ClipCap.from_original`."""
    theirs = {
        name: tensor
        for name, tensor in state_dict_in(content, source).items()
        if not (name.startswith(GPT) and name.endswith(_BUFFERS))
    }
    architecture = original_architecture(theirs, config, source)
    if architecture.text.tied_vocabulary:
        theirs.pop(HEAD, None)
    model = build(architecture)
    _load(theirs, model, source)
    return model.eval()


def original_architecture(
    theirs: Mapping[str, Tensor], config: ClipCapArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> ClipCapArchitecture:
    """From shapes; what they do not say from `config`, and where that is silent too, the published code's values."""
    vocab_size, width = shape_of(theirs, WORDS, 2, WHAT, source)
    positions = shape_of(theirs, f"{GPT}transformer.wpe.weight", 2, WHAT, source)[0]
    found: dict[str, Any] = {
        "text": {
            "vocab_size": vocab_size,
            "width": width,
            "layers": count_of(theirs, f"{GPT}transformer.h."),
            "intermediate": shape_of(theirs, f"{GPT}transformer.h.0.mlp.c_fc.weight", 2, WHAT, source)[1],
            "max_positions": positions,
            "tied_vocabulary": HEAD not in theirs or same(theirs[HEAD], theirs[WORDS]),
            "end_id": FULL_STOP if vocab_size > FULL_STOP else vocab_size - 1,
        }
    }
    if width % HEAD_WIDTH == 0:
        found["text"]["heads"] = width // HEAD_WIDTH
    if any(name.startswith(BLOCKS) for name in theirs) or f"{MAPPER}prefix_const" in theirs:
        rows, found["embed_dim"] = shape_of(theirs, f"{MAPPER}linear.weight", 2, WHAT, source)
        found["prefix_length"] = shape_of(theirs, f"{MAPPER}prefix_const", 2, WHAT, source)[0]
        found["mapper"] = {
            "kind": "transformer",
            "clip_length": rows // width,
            "layers": count_of(theirs, BLOCKS),
            "mlp_ratio": shape_of(theirs, f"{BLOCKS}0.mlp.fc1.weight", 2, WHAT, source)[0] / width,
        }
    else:
        hidden, found["embed_dim"] = shape_of(theirs, f"{MAPPER}model.0.weight", 2, WHAT, source)
        found["prefix_length"] = shape_of(theirs, f"{MAPPER}model.2.weight", 2, WHAT, source)[0] // width
        found["mapper"] = {"kind": "mlp", "hidden": hidden}
    found["max_text_length"] = max(1, min(LONGEST, positions - found["prefix_length"]))
    return architecture_of(found, config, source)


def original_names(model: ClipCap) -> Names:
    """Of every tensor of mapper and GPT-2."""
    found: Names = {name: ((f"gpt.{name.removeprefix('text.')}", 1),) for name in own_tensors(model) if name.startswith("text.")}
    if model.config.mapper.kind == "mlp":
        for ours, theirs in (("up", "model.0"), ("down", "model.2")):
            found |= {f"mapper.{ours}.{kind}": ((f"{MAPPER}{theirs}.{kind}", 1),) for kind in ("weight", "bias")}
        return found
    found["mapper.constants"] = ((f"{MAPPER}prefix_const", 1),)
    found |= {f"mapper.linear.{kind}": ((f"{MAPPER}linear.{kind}", 1),) for kind in ("weight", "bias")}
    for i in range(model.config.mapper.layers):
        for ours, parts in _BLOCK.items():
            found[f"mapper.blocks.{i}.{ours}"] = tuple((f"{BLOCKS}{i}.{name}", share) for name, share in parts)
    return found


def to_original(model: ClipCap) -> dict[str, Tensor]:
    """The state dict that the published code would load, without the image side; `from_original` reads it back."""
    own = own_tensors(model)
    found: dict[str, Tensor] = {}
    for ours, parts in original_names(model).items():
        unit = len(own[ours]) // sum(share for _, share in parts)
        split = torch.split_with_sizes(own[ours], [share * unit for _, share in parts]) if len(parts) > 1 else (own[ours],)
        found |= {name: tensor.clone() for (name, _), tensor in zip(parts, split, strict=True)}
    found.setdefault(HEAD, found[WORDS].clone())
    return found


def _load(theirs: Mapping[str, Tensor], model: ClipCap, source: str) -> None:
    """Copy their tensors, each into its place; lists all that do not fit and then changes nothing."""
    own = own_tensors(model)
    names = original_names(model)
    wrong: list[str] = []
    for ours, parts in names.items():
        unit = len(own[ours]) // sum(share for _, share in parts)
        for name, share in parts:
            expected = list(own[ours].shape) if len(parts) == 1 else [share * unit, *own[ours].shape[1:]]
            if name not in theirs:
                wrong.append(f"missing {name} {expected}")
            elif list(theirs[name].shape) != expected:
                wrong.append(f"misshapen {name}: expected {expected}, found {list(theirs[name].shape)}")
    known = {name for parts in names.values() for name, _ in parts}
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in theirs.items() if name not in known]
    if wrong:
        refuse(wrong, WHAT, source)
    with torch.no_grad():
        for ours, parts in names.items():
            own[ours].copy_(torch.cat([theirs[name] for name, _ in parts]) if len(parts) > 1 else theirs[parts[0][0]])
