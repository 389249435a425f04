"""Checkpoints of LAVIS: Blip2Qformer (stage 1), Blip2OPT and Blip2T5 (stage 2), by their own names; and back.

State dicts in, a QFormer or a Blip2 out. What shapes do not say (heads, norms, token ids) is LAVIS' unless the caller says so.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.parts import Role
from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.fields import Given, architecture_of
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.names import WHAT, qformer_names, with_biases, without_biases
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.published import count_of, differing, same, shape_of, to_ours, to_theirs
from capfilt.modeling.vision import interpolated
from capfilt.modeling.weights import state_dict_in

SOURCE = "state dict"
BERT = "Qformer.bert."
HEAD_WIDTH, EVA_HEAD_WIDTH = 64, 88
"""Heads are the one size that shapes do not show: of BERT, and of LAVIS' ViT-g/14."""
LANGUAGE = ("opt_model.", "t5_model.", "llm_model.")
PROJECTIONS = ("opt_proj", "t5_proj")
OF_TEXTS = re.compile(r"^Qformer\.bert\.(embeddings\.(word|position)_embeddings|encoder\.layer\.\d+\.(intermediate|output))\.")
"""What only texts go through; stage 2 has no use for it."""


def qformer_from_original(content: Mapping[str, Any], config: Given = None, *, source: str = SOURCE) -> QFormer:
    """See `QFormer.from_original`."""
    theirs = with_biases(state_dict_in(content, source))
    architecture = original_architecture(theirs, config, source)
    model = _made(architecture)
    _load(model, theirs, source, ignored=())
    return model.eval()


def blip2_from_original(
    content: Mapping[str, Any], language: FrozenLanguage, config: Given = None, *, source: str = SOURCE
) -> Blip2:
    """See `Blip2.from_original`."""
    theirs = with_biases(state_dict_in(content, source))
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(LANGUAGE)}
    found = {name: tensor for name, tensor in theirs.items() if name.startswith(PROJECTIONS)}
    architecture = original_architecture(theirs, config, source)
    with torch.random.fork_rng(devices=[]):
        model = Blip2(QFormer(architecture), language)
    own = model.projection.state_dict()
    given = {name.split(".", 1)[1]: tensor for name, tensor in found.items()}
    wrong = differing(own, given)
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(
            f"{source}: expected {' or '.join(PROJECTIONS)} to the language model's width {language.width}, found\n  {listed}\n"
            "Give the language model that the checkpoint was trained with"
        )
    _load(model.qformer, theirs, source, ignored=PROJECTIONS)
    model.projection.load_state_dict(given)
    return model.eval()


def to_original(model: QFormer) -> dict[str, Tensor]:
    """The state dict that LAVIS' Blip2Qformer would load: what `from_original` reads back to an equal network.

    Raises:
        CheckpointError: If LAVIS has no such network.
    """
    image = model.config.image
    if image.layers and (image.stem != "patch" or image.positions != "learned"):
        raise CheckpointError(
            "to_original: expected an image encoder with patch stem and learned positions, found another, which LAVIS has not. "
            "Keep our own folder"
        )
    theirs = to_theirs(model.state_dict(), qformer_names(model.config, "original"))
    return without_biases({name: tensor.detach().clone() for name, tensor in theirs.items()})


def _made(architecture: Blip2Architecture) -> QFormer:
    """Torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return QFormer(architecture)


def _load(model: QFormer, theirs: dict[str, Tensor], source: str, ignored: tuple[str, ...]) -> None:
    positions = theirs.get("visual_encoder.pos_embed")
    if positions is not None and positions.ndim == 3 and model.vision is not None:
        theirs["visual_encoder.pos_embed"] = interpolated(positions.float(), model.vision.side)
    roles = model.config.roles
    if not roles:
        theirs = {name: tensor for name, tensor in theirs.items() if not OF_TEXTS.search(name)}
    unasked = list(ignored)
    if "captioner" not in roles:
        unasked += ["Qformer.cls."]
    if "filter" not in roles:
        unasked += ["vision_proj.", "text_proj.", "itm_head.", "temp"]
    if "filter" in roles and "temp" not in theirs:
        theirs["temp"] = torch.tensor(0.07)  # scorers need none
    to_ours(
        theirs,
        model,
        qformer_names(model.config, "original"),
        WHAT,
        source,
        is_ignored=lambda name: name.startswith(tuple(unasked)),
    )


def original_architecture(theirs: Mapping[str, Tensor], config: Given, source: str) -> Blip2Architecture:
    """From shapes; what they do not say from `config`, and where that is silent too, LAVIS' values."""
    _, queries, width = shape_of(theirs, "query_tokens", 3, WHAT, source)
    image_width = shape_of(theirs, f"{BERT}encoder.layer.0.crossattention.self.key.weight", 2, WHAT, source)[1]
    layers = count_of(theirs, f"{BERT}encoder.layer.")
    looking = [i for i in range(layers) if f"{BERT}encoder.layer.{i}.crossattention.self.query.weight" in theirs]
    text: dict[str, Any] = {
        "vocab_size": 30523,
        "intermediate": shape_of(theirs, f"{BERT}encoder.layer.0.intermediate_query.dense.weight", 2, WHAT, source)[0],
        "dropout": 0.1,
        "attention_dropout": 0.1,
    }
    words = theirs.get(f"{BERT}embeddings.word_embeddings.weight")
    roles: list[Role] = []
    if words is not None:
        text |= {"vocab_size": words.shape[0], "dec_id": words.shape[0] - 1}
        text["max_positions"] = shape_of(theirs, f"{BERT}embeddings.position_embeddings.weight", 2, WHAT, source)[0]
        # A head without its companions counts, so that they are told to be missing.
        roles += ["captioner"] * any(name.startswith("Qformer.cls.") for name in theirs)
        roles += ["filter"] * any(name.startswith(("itm_head.", "vision_proj.", "text_proj.")) for name in theirs)
    if width % HEAD_WIDTH == 0:
        text["heads"] = width // HEAD_WIDTH
    image, image_certain = _image(theirs, image_width, source)
    found: dict[str, Any] = {"kind": "blip2", "image": image, "text": text, "max_text_length": 32}
    certain: dict[str, Any] = {"roles": roles, "image": image_certain}
    certain["text"] = {
        "width": width,
        "layers": layers,
        "queries": queries,
        "cross_every": looking[1] if len(looking) > 1 else max(layers, 1),
        "tied_vocabulary": _is_tied(theirs),
    }
    if "vision_proj.weight" in theirs:
        certain["embed_dim"] = theirs["vision_proj.weight"].shape[0]
    return architecture_of(found, config, certain, source)


def _image(theirs: Mapping[str, Tensor], width: int, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `image` may be, and what it is for certain."""
    layers = count_of(theirs, "visual_encoder.blocks.")
    if not layers:
        # LAVIS saves no frozen weights: features are what comes in, of its ViT-g/14 unless the caller says otherwise.
        return {"size": 224, "patch": 14, "heads": 1}, {"width": width, "layers": 0, "final_norm": False}
    _, _, _, patch = shape_of(theirs, "visual_encoder.patch_embed.proj.weight", 4, WHAT, source)
    side = int((shape_of(theirs, "visual_encoder.pos_embed", 3, WHAT, source)[1] - 1) ** 0.5)
    may: dict[str, Any] = {"size": side * patch}
    for head_width in (EVA_HEAD_WIDTH, HEAD_WIDTH):
        if width % head_width == 0:
            may.setdefault("heads", width // head_width)
    hidden = shape_of(theirs, "visual_encoder.blocks.0.mlp.fc1.weight", 2, WHAT, source)[0]
    certain = {"patch": patch, "width": width, "layers": layers, "final_norm": "visual_encoder.norm.weight" in theirs}
    return may, certain | {"mlp_ratio": ratio_of(hidden, width)}


def ratio_of(hidden: int, width: int) -> float:
    """What, times `width` and cut to a whole number, is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _is_tied(theirs: Mapping[str, Tensor]) -> bool:
    projection = theirs.get("Qformer.cls.predictions.decoder.weight")
    words = theirs.get(f"{BERT}embeddings.word_embeddings.weight")
    return projection is None or words is None or same(projection, words)
