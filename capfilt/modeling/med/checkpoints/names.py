"""What the original BLIP code and transformers call each tensor of a MED, and the way there and back.

Knows nothing of files. Where we keep one matrix (queries, keys and values) others keep several: they are stacked along axis 0.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role
from capfilt.modeling.med.momentum import MomentumEncoders
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import VIT_BLOCK, Names, named, same

Style = Literal["original", "transformers"]

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
WHAT = "a BLIP MED"
ENCODER, DECODER, HEAD = "text_encoder.", "text_decoder.bert.", "text_decoder.cls.predictions."


def published_names(config: MedArchitecture, style: Style) -> Names:
    """Of every tensor in the state dict of a MED with a patch stem, shared ones under each of their names."""
    found = _vision(config, style)
    if "filter" in config.roles:
        found |= _tower("text_encoder", ENCODER, config.text.layers)
        for ours, theirs in (("image_projection", "vision_proj"), ("text_projection", "text_proj"), ("itm_head", "itm_head")):
            found |= named(ours, theirs)
        if style == "original":
            found["temp"] = ("temp",)
    if "captioner" in config.roles:
        found |= _tower("text_decoder", DECODER, config.text.layers)
        found |= named("head.dense", f"{HEAD}transform.dense")
        found |= named("head.norm", f"{HEAD}transform.LayerNorm")
        found |= named("head.vocabulary", f"{HEAD}decoder")
    return found


def _vision(config: MedArchitecture, style: Style) -> Names:
    at = 0 if style == "original" else 1
    root = ("visual_encoder.", "vision_model.")[at]
    found: Names = {
        "vision.cls": (root + ("cls_token", "embeddings.class_embedding")[at],),
        "vision.positions": (root + ("pos_embed", "embeddings.position_embedding")[at],),
    }
    found |= named("vision.stem", root + ("patch_embed.proj", "embeddings.patch_embedding")[at])
    found |= named("vision.norm", root + ("norm", "post_layernorm")[at])
    for i in range(config.image.layers):
        for ours, theirs in VIT_BLOCK.items():
            found |= named(f"vision.blocks.{i}.{ours}", f"{root}{('blocks', 'encoder.layers')[at]}.{i}.{theirs[at]}")
    return found


def _tower(ours: str, theirs: str, layers: int) -> Names:
    found: Names = {
        f"{ours}.embeddings.words.weight": (f"{theirs}embeddings.word_embeddings.weight",),
        f"{ours}.embeddings.positions.weight": (f"{theirs}embeddings.position_embeddings.weight",),
    }
    found |= named(f"{ours}.embeddings.norm", f"{theirs}embeddings.LayerNorm")
    for i in range(layers):
        for part, names in _TEXT_LAYER.items():
            found |= named(f"{ours}.layers.{i}.{part}", *(f"{theirs}encoder.layer.{i}.{name}" for name in names))
    return found


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


def tensors_of(model: MED | MomentumEncoders) -> dict[str, Tensor]:
    """The state dict, fixed positions included: a published ViT has them as a parameter."""
    return {**model.state_dict(), "vision.positions": model.vision.positions.detach()}
