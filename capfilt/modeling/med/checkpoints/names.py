"""What the original BLIP code and transformers call each tensor of a MED, and the way there and back.

Knows nothing of files. Where we keep one matrix (queries, keys and values) others keep several: they are stacked along axis 0.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from capfilt.config.architecture import MedArchitecture, Role
from capfilt.errors import CheckpointError
from capfilt.modeling.med.momentum import MomentumEncoders
from capfilt.modeling.med.network import MED
from capfilt.modeling.weights import own_tensors

Style = Literal["original", "transformers"]
Names = dict[str, tuple[str, ...]]
"""Our tensor -> theirs."""

_BLOCK = {  # ours: (original, transformers)
    "norm_1": ("norm1", "layer_norm1"),
    "attention.qkv": ("attn.qkv", "self_attn.qkv"),
    "attention.out": ("attn.proj", "self_attn.projection"),
    "norm_2": ("norm2", "layer_norm2"),
    "mlp.up": ("mlp.fc1", "mlp.fc1"),
    "mlp.down": ("mlp.fc2", "mlp.fc2"),
}
_TEXT_LAYER = {
    "self_block.attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "self_block.attention.out": ("attention.output.dense",),
    "self_block.norm": ("attention.output.LayerNorm",),
    "cross.attention.q": ("crossattention.self.query",),
    "cross.attention.kv": ("crossattention.self.key", "crossattention.self.value"),
    "cross.attention.out": ("crossattention.output.dense",),
    "cross.norm": ("crossattention.output.LayerNorm",),
    "feed_forward.mlp.up": ("intermediate.dense",),
    "feed_forward.mlp.down": ("output.dense",),
    "feed_forward.norm": ("output.LayerNorm",),
}
ENCODER, DECODER, HEAD = "text_encoder.", "text_decoder.bert.", "text_decoder.cls.predictions."


def published_names(config: MedArchitecture, style: Style) -> Names:
    """Of every tensor in the state dict of a MED with a patch stem, shared ones under each of their names."""
    found = _vision(config, style)
    if "filter" in config.roles:
        found |= _tower("text_encoder", ENCODER, config.text.layers)
        for ours, theirs in (("image_projection", "vision_proj"), ("text_projection", "text_proj"), ("itm_head", "itm_head")):
            found |= _module(ours, theirs)
        if style == "original":
            found["temp"] = ("temp",)
    if "captioner" in config.roles:
        found |= _tower("text_decoder", DECODER, config.text.layers)
        found |= _module("head.dense", f"{HEAD}transform.dense")
        found |= _module("head.norm", f"{HEAD}transform.LayerNorm")
        found |= _module("head.vocabulary", f"{HEAD}decoder")
    return found


def _vision(config: MedArchitecture, style: Style) -> Names:
    at = 0 if style == "original" else 1
    root = ("visual_encoder.", "vision_model.")[at]
    found: Names = {
        "vision.cls": (root + ("cls_token", "embeddings.class_embedding")[at],),
        "vision.positions": (root + ("pos_embed", "embeddings.position_embedding")[at],),
    }
    found |= _module("vision.stem", root + ("patch_embed.proj", "embeddings.patch_embedding")[at])
    found |= _module("vision.norm", root + ("norm", "post_layernorm")[at])
    for i in range(config.image.layers):
        for ours, theirs in _BLOCK.items():
            found |= _module(f"vision.blocks.{i}.{ours}", f"{root}{('blocks', 'encoder.layers')[at]}.{i}.{theirs[at]}")
    return found


def _tower(ours: str, theirs: str, layers: int) -> Names:
    found: Names = {
        f"{ours}.embeddings.words.weight": (f"{theirs}embeddings.word_embeddings.weight",),
        f"{ours}.embeddings.positions.weight": (f"{theirs}embeddings.position_embeddings.weight",),
    }
    found |= _module(f"{ours}.embeddings.norm", f"{theirs}embeddings.LayerNorm")
    for i in range(layers):
        for part, names in _TEXT_LAYER.items():
            found |= _module(f"{ours}.layers.{i}.{part}", *(f"{theirs}encoder.layer.{i}.{name}" for name in names))
    return found


def _module(ours: str, *theirs: str) -> Names:
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}


def with_aliases(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without buffers that hold no weight; the vocabulary's bias and tied matrix, of which files keep one copy, under one name.

    Where both names of the bias are there, `decoder.bias` counts: it is the one that the original code loads last.
    """
    found = {name: tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    bias = found.pop(f"{HEAD}bias", None)
    if bias is not None:
        found.setdefault(f"{HEAD}decoder.bias", bias)
    words = found.get(f"{DECODER}embeddings.word_embeddings.weight")
    if words is not None:
        found.setdefault(f"{HEAD}decoder.weight", words)
    return found


def shape_of(theirs: Mapping[str, Tensor], name: str, source: str) -> list[int]:
    """Raises: CheckpointError: If there is no such tensor."""
    if name not in theirs:
        some = ", ".join(list(theirs)[:5]) or "none"
        raise CheckpointError(f"{source}: expected the weights of a BLIP MED, found no {name} but {some}, .... Check the file")
    return list(theirs[name].shape)


def count_of(theirs: Mapping[str, Tensor], prefix: str) -> int:
    """Layers: one more than the largest number after `prefix`."""
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in theirs if name.startswith(prefix)), default=-1)


def roles_of(theirs: Mapping[str, Tensor]) -> list[Role]:
    """What the weights can do. An encoder without its heads counts as a filter, so that the heads are told to be missing."""
    found: list[Role] = []
    if any(name.startswith("text_decoder.") for name in theirs):
        found.append("captioner")
    if any(name.startswith(("text_encoder.", "itm_head.")) for name in theirs):
        found.append("filter")
    return found


def is_shared(theirs: Mapping[str, Tensor]) -> bool:
    """Whether encoder and decoder have equal values in all that BLIP shares: everything but self-attention."""
    pairs = [
        (tensor, theirs.get(DECODER + name.removeprefix(ENCODER)))
        for name, tensor in theirs.items()
        if name.startswith(ENCODER) and ".attention." not in name
    ]
    return bool(pairs) and all(other is not None and same(tensor, other) for tensor, other in pairs)


def is_tied(theirs: Mapping[str, Tensor]) -> bool:
    """Whether the output projection has the values of the word embedding."""
    projection = theirs.get(f"{HEAD}decoder.weight")
    words = theirs.get(f"{DECODER}embeddings.word_embeddings.weight")
    return projection is None or words is None or same(projection, words)


def same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def to_ours(
    theirs: Mapping[str, Tensor],
    model: MED | MomentumEncoders,
    names: Names,
    source: str,
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Copy their tensors into the network, each in its place; shared parameters take the first of their names.

    Args:
        theirs: By their names.
        model: Gets the values.
        names: Of all its tensors, from `published_names`.
        source: For the message.
        ignored: Their names that may be there without a place here.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; lists all and changes nothing.
    """
    own = own_tensors(model)
    wrong: list[str] = []
    values: dict[str, Tensor] = {}
    for ours, parts in names.items():
        if ours not in own:
            continue
        missing = [name for name in parts if name not in theirs]
        wrong += [f"missing {name}" for name in missing]
        if missing:
            continue
        found = [theirs[name] for name in parts]
        # Several parts share the rows of one tensor of ours equally.
        expected = list(own[ours].shape)
        if len(parts) > 1:
            expected[0] //= len(parts)
        wrong += [
            f"misshapen {name}: expected {expected}, found {list(part.shape)}"
            for name, part in zip(parts, found, strict=True)
            if list(part.shape) != expected
        ]
        if all(list(part.shape) == expected for part in found):
            values[ours] = torch.cat(found) if len(found) > 1 else found[0]
    known = {name for parts in names.values() for name in parts} | set(ignored)
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in theirs.items() if name not in known]
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(
            f"{source}: expected the tensors of a BLIP MED, found\n  {listed}\n"
            "Give the whole checkpoint, and the settings it was trained with"
        )
    with torch.no_grad():
        for ours, tensor in values.items():
            own[ours].copy_(tensor)


def to_theirs(model: MED | MomentumEncoders, names: Names) -> dict[str, Tensor]:
    """The network's tensors by their names; parts of one tensor are views of it."""
    state = model.state_dict() | {"vision.positions": model.vision.positions.detach()}
    found: dict[str, Tensor] = {}
    for ours, parts in names.items():
        found |= zip(parts, state[ours].chunk(len(parts)) if len(parts) > 1 else (state[ours],), strict=True)
    return found
