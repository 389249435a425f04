"""What LAVIS and transformers call each tensor of a Q-Former, and the way there and back.

Knows nothing of files. Where we keep one matrix (queries, keys and values) others keep several: they are stacked along axis 0.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.published import VIT_BLOCK, Names, named

Style = Literal["original", "transformers"]

WHAT = "a BLIP-2 Q-Former"
_ROOT = {"original": "Qformer.bert.", "transformers": "qformer."}
_HEAD = "Qformer.cls.predictions."
_PARTS = {  # of LAVIS; transformers' are spelt out
    "image_projection": ("vision_proj", "vision_projection"),
    "text_projection": ("text_proj", "text_projection"),
    "itm_head": ("itm_head", "itm_head"),
}


def qformer_names(config: Blip2Architecture, style: Style) -> Names:
    """Of every tensor in a QFormer's state dict."""
    at = 0 if style == "original" else 1
    found: Names = {"tower.queries": ("query_tokens",)}
    found |= named("bridge_norm", ("ln_vision", "vision_model.post_layernorm")[at])
    found |= _vision(config, at)
    found |= _tower(config, style)
    if "filter" in config.roles:
        for ours, theirs in _PARTS.items():
            found |= named(ours, theirs[at])
        if style == "original":
            found["temp"] = ("temp",)
    if "captioner" in config.roles:
        found |= named("head.dense", f"{_HEAD}transform.dense")
        found |= named("head.norm", f"{_HEAD}transform.LayerNorm")
        found |= named("head.vocabulary", f"{_HEAD}decoder")
    return found


def _vision(config: Blip2Architecture, at: int) -> Names:
    if not config.image.layers:
        return {}
    root = ("visual_encoder.", "vision_model.")[at]
    found: Names = {
        "vision.cls": (root + ("cls_token", "embeddings.class_embedding")[at],),
        "vision.positions": (root + ("pos_embed", "embeddings.position_embedding")[at],),
    }
    found |= named("vision.stem", root + ("patch_embed.proj", "embeddings.patch_embedding")[at])
    if config.image.final_norm:
        found |= named("vision.norm", f"{root}norm")
    for i in range(config.image.layers):
        for ours, theirs in VIT_BLOCK.items():
            found |= named(f"vision.blocks.{i}.{ours}", f"{root}{('blocks', 'encoder.layers')[at]}.{i}.{theirs[at]}")
    return found


def _tower(config: Blip2Architecture, style: Style) -> Names:
    root, inner = _ROOT[style], {"original": "self", "transformers": "attention"}[style]
    found = named("tower.norm", f"{root}{'embeddings.LayerNorm' if style == 'original' else 'layernorm'}")
    reads = bool(config.roles)
    if reads:
        embeddings = f"{root}embeddings." if style == "original" else "embeddings."
        found["tower.words.weight"] = (f"{embeddings}word_embeddings.weight",)
        found["tower.positions.weight"] = (f"{embeddings}position_embeddings.weight",)
    for i in range(config.text.layers):
        ours, theirs = f"tower.layers.{i}.", f"{root}encoder.layer.{i}."
        attention = f"{theirs}attention.{inner}."
        found |= named(f"{ours}self_block.attention.qkv", *(attention + part for part in ("query", "key", "value")))
        found |= named(f"{ours}self_block.attention.out", f"{theirs}attention.output.dense")
        found |= named(f"{ours}self_block.norm", f"{theirs}attention.output.LayerNorm")
        if i % config.text.cross_every == 0:
            attention = f"{theirs}crossattention.{inner}."
            found |= named(f"{ours}cross.attention.q", f"{attention}query")
            found |= named(f"{ours}cross.attention.kv", f"{attention}key", f"{attention}value")
            found |= named(f"{ours}cross.attention.out", f"{theirs}crossattention.output.dense")
            found |= named(f"{ours}cross.norm", f"{theirs}crossattention.output.LayerNorm")
        for part, suffix in (("query_feed_forward", "_query"), ("feed_forward", "")):
            if suffix or reads:
                found |= named(f"{ours}{part}.mlp.up", f"{theirs}intermediate{suffix}.dense")
                found |= named(f"{ours}{part}.mlp.down", f"{theirs}output{suffix}.dense")
                found |= named(f"{ours}{part}.norm", f"{theirs}output{suffix}.LayerNorm")
    return found


def with_biases(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAVIS' names without buffers, with one name for what it holds twice and one bias where its ViT has two.

    Its ViT keeps biases of queries and values, none of keys. Of the vocabulary's bias `decoder.bias` counts: enlarging the
    vocabulary made it anew, and left `bias` at the old length.
    """
    found = {name: tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    bias = found.pop(f"{_HEAD}bias", None)
    if bias is not None:
        found.setdefault(f"{_HEAD}decoder.bias", bias)
    words = found.get("Qformer.bert.embeddings.word_embeddings.weight")
    if words is not None and f"{_HEAD}transform.dense.weight" in found:
        found.setdefault(f"{_HEAD}decoder.weight", words)
    for name in [name for name in found if name.startswith("visual_encoder.") and name.endswith(".attn.q_bias")]:
        root = name.removesuffix("q_bias")
        if f"{root}v_bias" in found:
            q, v = found.pop(name), found.pop(f"{root}v_bias")
            found[f"{root}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return found


def without_biases(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: LAVIS' two biases, and the vocabulary's bias under both of its names.

    Raises:
        CheckpointError: If keys have a bias, for which LAVIS' ViT has no place.
    """
    found = dict(theirs)
    for name in [name for name in found if name.startswith("visual_encoder.") and name.endswith(".attn.qkv.bias")]:
        q, k, v = found.pop(name).chunk(3)
        if k.any():
            raise CheckpointError(f"to_original: expected no bias of keys, found one in {name}. Keep our own folder")
        root = name.removesuffix("qkv.bias")
        found[f"{root}q_bias"], found[f"{root}v_bias"] = q, v
    if f"{_HEAD}decoder.bias" in found:
        found[f"{_HEAD}bias"] = found[f"{_HEAD}decoder.bias"]
    return found
