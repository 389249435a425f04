"""Checkpoints of open_clip's CoCa (`coca_ViT-B-32`, `coca_ViT-L-14`): state dicts under its names in, a CoCa out; and back.

What shapes do not say (heads, norms, token ids, the [CLS] mask) is that of the released models unless the caller says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.config.architectures.coca import CocaArchitecture, CocaVitConfig
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.coca.fields import architecture_of
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.published import count_of, refuse, shape_of
from capfilt.modeling.vision import VisionTransformer, interpolated
from capfilt.modeling.weights import own_tensors, state_dict_in

WHAT = "an open_clip CoCa with attentional pooling"
SOURCE = "state dict"
HEAD_WIDTH = 64
"""Of the released models' image encoders and texts; their poolers have 8 heads."""
ONE_IN_FRONT = ("vision.cls", "vision.positions")
"""Ours carry axes of length 1 in front that theirs lack."""


@dataclass(frozen=True)
class Place:
    """The rows of their tensors, one after the other, are the rows of ours; several of theirs have equally many."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transposed: bool = False


def from_original(
    content: Mapping[str, Any], config: CocaArchitecture | Mapping[str, Any] | str | Path | None = None, *, source: str = SOURCE
) -> CoCa:
    """See `CoCa.from_original`."""
    theirs = {name: tensor for name, tensor in state_dict_in(content, source).items() if not name.endswith(".attn_mask")}
    architecture = architecture_of(_found(theirs, source), config, source)
    _require_open_clip(architecture, source, "Correct `config`, or leave these fields out: the tensors say them")
    model = build(architecture)
    _resize(theirs, model)
    load(theirs, model, source)
    return model.eval()


def to_original(model: CoCa) -> dict[str, Tensor]:
    """The state dict that open_clip would load: what `from_original` reads back to an equal network.

    Raises:
        CheckpointError: If open_clip has no such layout.
    """
    _require_open_clip(model.config, "to_original", "Keep our own folder")
    own = own_tensors(model)
    found: dict[str, Tensor] = {}
    for place in places(model.config):
        ours = [_plain(name, own[name]) for name in place.ours]
        rows = torch.cat(ours) if len(ours) > 1 else ours[0]
        parts = rows.chunk(len(place.theirs)) if len(place.theirs) > 1 else (rows,)
        found |= {name: part.T if place.transposed else part for name, part in zip(place.theirs, parts, strict=True)}
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def load(theirs: Mapping[str, Tensor], model: CoCa, source: str) -> None:
    """Copy their tensors into the network, each in its place.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; lists all and changes nothing.
    """
    own = own_tensors(model)
    wrong: list[str] = []
    values: dict[str, Tensor] = {}
    known: set[str] = set()
    for place in places(model.config):
        known |= set(place.theirs)
        ours = [_plain(name, own[name]) for name in place.ours]
        expected = list(ours[0].shape)
        if expected:
            expected[0] = sum(len(part) for part in ours) // len(place.theirs)
        if place.transposed:
            expected.reverse()
        missing = [name for name in place.theirs if name not in theirs]
        misshapen = [name for name in place.theirs if name in theirs and list(theirs[name].shape) != expected]
        wrong += [f"missing {name} {expected}" for name in missing]
        wrong += [f"misshapen {name}: expected {expected}, found {list(theirs[name].shape)}" for name in misshapen]
        if missing or misshapen:
            continue
        parts = [theirs[name].T if place.transposed else theirs[name] for name in place.theirs]
        rows = torch.cat(parts) if len(parts) > 1 else parts[0]
        pieces = torch.split(rows, [len(part) for part in ours]) if len(ours) > 1 else (rows,)
        values |= zip(place.ours, pieces, strict=True)
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in theirs.items() if name not in known]
    if wrong:
        refuse(wrong, WHAT, source)
    with torch.no_grad():
        for name, tensor in values.items():
            own[name].copy_(tensor.reshape(own[name].shape))


def places(config: CocaArchitecture) -> list[Place]:
    """Of every tensor of a CoCa in open_clip's layout."""
    found = [
        Place(("logit_scale",), ("logit_scale",)),
        Place(("visual.class_embedding",), ("vision.cls",)),
        Place(("visual.positional_embedding",), ("vision.positions",)),
        Place(("visual.conv1.weight",), ("vision.stem.weight",)),
        Place(("visual.proj",), ("image_projection.weight",), transposed=True),
        Place(("text.token_embedding.weight",), ("text.words.weight",)),
        Place(("text.positional_embedding",), ("text.positions",)),
        Place(("text.cls_emb",), ("text.cls",)),
        Place(("text.text_projection",), ("text_projection.weight",), transposed=True),
        Place(("text_decoder.text_projection",), ("decoder.vocabulary.weight",), transposed=True),
        *_module("visual.ln_pre", "vision.norm_before"),
        *_module("visual.ln_post", "poolers.norm_captioning" if config.pooler.norm == "after" else "poolers.norm_before"),
        *_module("text.ln_final", "text.norm"),
        *_module("text_decoder.ln_final", "decoder.norm"),
    ]
    image_width, width = config.image.width, config.pooler.width
    found += _pooler("visual.attn_pool", "poolers.captioning", image_width == width)
    if config.pooler.layout != "joint":
        seen = image_width if config.pooler.layout == "parallel" else width
        found += _pooler("visual.attn_pool_contrastive", "poolers.contrastive", seen == width)
    for i in range(config.image.layers):
        block = f"vision.blocks.{i}"
        parts = (f"{block}.norm_1", f"{block}.attention", f"{block}.norm_2", f"{block}.mlp")
        found += _self_block(f"visual.transformer.resblocks.{i}", *parts)
    for i in range(config.text.layers):
        found += _self_block(f"text.transformer.resblocks.{i}", *_branches(f"text.layers.{i}", "self_branch", "mlp_branch"))
    for i in range(config.multimodal.layers):
        layer = f"decoder.layers.{i}"
        found += _self_block(f"text_decoder.resblocks.{i}", *_branches(layer, "self_branch", "self_mlp"))
        cross = f"text_decoder.cross_attn.{i}"
        found += _module(f"{cross}.ln_1_kv", f"{layer}.cross_branch.norm_image")
        found += _module(f"{cross}.ln_1", f"{layer}.cross_branch.norm")
        found += _cross(f"{cross}.attn", f"{layer}.cross_branch.attention", is_one_matrix=True)
        found += _mlp(cross, f"{layer}.mlp_branch.norm", f"{layer}.mlp_branch.mlp")
    return found


def _require_open_clip(config: CocaArchitecture, source: str, advice: str) -> None:
    image, pooler = config.image, config.pooler
    is_clip = isinstance(image, CocaVitConfig) and image.style == "clip"
    if not is_clip or not config.multimodal.self_mlp or (pooler.layout != "joint" and pooler.norm == "after"):
        style = image.style if isinstance(image, CocaVitConfig) else image.kind
        raise CheckpointError(
            f"{source}: expected open_clip's layout (image.style: clip, multimodal.self_mlp: true, and pooler.layout: joint or "
            f"pooler.norm: before), found {style}, {config.multimodal.self_mlp}, {pooler.layout} and {pooler.norm}. {advice}"
        )


def _module(theirs: str, ours: str) -> list[Place]:
    return [Place((f"{theirs}.{kind}",), (f"{ours}.{kind}",)) for kind in ("weight", "bias")]


def _branches(layer: str, first: str, second: str) -> tuple[str, str, str, str]:
    return f"{layer}.{first}.norm", f"{layer}.{first}.attention", f"{layer}.{second}.norm", f"{layer}.{second}.mlp"


def _self_block(theirs: str, norm_1: str, attention: str, norm_2: str, mlp: str) -> list[Place]:
    return [
        *_module(f"{theirs}.ln_1", norm_1),
        *(Place((f"{theirs}.attn.in_proj_{kind}",), (f"{attention}.qkv.{kind}",)) for kind in ("weight", "bias")),
        *_module(f"{theirs}.attn.out_proj", f"{attention}.out"),
        *_mlp(theirs, norm_2, mlp),
    ]


def _mlp(theirs: str, norm: str, mlp: str) -> list[Place]:
    return [
        *_module(f"{theirs}.ln_2", norm),
        *_module(f"{theirs}.mlp.c_fc", f"{mlp}.up"),
        *_module(f"{theirs}.mlp.c_proj", f"{mlp}.down"),
    ]


def _cross(theirs: str, ours: str, *, is_one_matrix: bool) -> list[Place]:
    """`is_one_matrix`: torch keeps queries, keys and values together where what is looked at has the queries' width."""
    found = [
        Place((f"{theirs}.in_proj_bias",), (f"{ours}.q.bias", f"{ours}.kv.bias")),
        *_module(f"{theirs}.out_proj", f"{ours}.out"),
    ]
    if is_one_matrix:
        return [*found, Place((f"{theirs}.in_proj_weight",), (f"{ours}.q.weight", f"{ours}.kv.weight"))]
    return [
        *found,
        Place((f"{theirs}.q_proj_weight",), (f"{ours}.q.weight",)),
        Place((f"{theirs}.k_proj_weight", f"{theirs}.v_proj_weight"), (f"{ours}.kv.weight",)),
    ]


def _pooler(theirs: str, ours: str, is_one_matrix: bool) -> list[Place]:
    return [
        Place((f"{theirs}.query",), (f"{ours}.query",)),
        *_module(f"{theirs}.ln_q", f"{ours}.norm_query"),
        *_module(f"{theirs}.ln_k", f"{ours}.norm_tokens"),
        *_cross(f"{theirs}.attn", f"{ours}.attention", is_one_matrix=is_one_matrix),
    ]


def _plain(name: str, tensor: Tensor) -> Tensor:
    if name == "vision.cls":
        return tensor.flatten()
    return tensor[0] if name in ONE_IN_FRONT else tensor


def _resize(theirs: dict[str, Tensor], model: CoCa) -> None:
    """Positions for the network's image size, where the file has those of another; a temperature of shape [1] as a number."""
    assert isinstance(model.vision, VisionTransformer)
    positions = theirs["visual.positional_embedding"]
    theirs["visual.positional_embedding"] = interpolated(positions.float()[None], model.vision.side)[0]
    if theirs.get("logit_scale", torch.zeros(2)).numel() == 1:
        theirs["logit_scale"] = theirs["logit_scale"].reshape(())


def _found(theirs: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The fields of a CocaArchitecture that shapes give, and the released models' values where a width gives the rest."""
    width, _, _, patch = shape_of(theirs, "visual.conv1.weight", 4, WHAT, source)
    side = int((shape_of(theirs, "visual.positional_embedding", 2, WHAT, source)[0] - 1) ** 0.5)
    queries, pooler_width = shape_of(theirs, "visual.attn_pool.query", 2, WHAT, source)
    vocab_size, text_width = shape_of(theirs, "text.token_embedding.weight", 2, WHAT, source)
    positions = shape_of(theirs, "text.positional_embedding", 2, WHAT, source)[0]
    hidden = shape_of(theirs, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2, WHAT, source)[0]
    heads = {"heads": text_width // HEAD_WIDTH} if text_width % HEAD_WIDTH == 0 else {}
    is_joint = not any(name.startswith("visual.attn_pool_contrastive.") for name in theirs)
    return {
        "kind": "coca",
        "image": {
            "kind": "vit",
            "style": "clip",
            "size": side * patch,
            "patch": patch,
            "width": width,
            "layers": count_of(theirs, "visual.transformer.resblocks."),
            "mlp_ratio": hidden / width,
            "norm_eps": 1e-5,
            **({"heads": width // HEAD_WIDTH} if width % HEAD_WIDTH == 0 else {}),
        },
        "pooler": {
            "layout": "joint" if is_joint else "cascade",
            "norm": "after" if is_joint else "before",
            "queries": queries,
            "width": pooler_width,
            **({"heads": 8} if pooler_width % 8 == 0 else {}),
        },
        "text": {
            "vocabulary": "clip" if vocab_size == 49_408 else "trained",
            "vocab_size": vocab_size,
            "width": text_width,
            "layers": count_of(theirs, "text.transformer.resblocks."),
            "intermediate": shape_of(theirs, "text.transformer.resblocks.0.mlp.c_fc.weight", 2, WHAT, source)[0],
            "max_positions": positions - 1,
            "cls_mask": "released",
            "cls_position": "padded",
            "pad_id": 0,
            "cls_id": vocab_size - 2,
            "sep_id": vocab_size - 1,
            **heads,
        },
        "multimodal": {
            "layers": count_of(theirs, "text_decoder.resblocks."),
            "intermediate": shape_of(theirs, "text_decoder.resblocks.0.mlp.c_fc.weight", 2, WHAT, source)[0],
            "self_mlp": True,
            **heads,
        },
        "embed_dim": shape_of(theirs, "visual.proj", 2, WHAT, source)[1],
        "max_text_length": positions - 1,
    }
