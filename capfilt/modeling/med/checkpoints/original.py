"""Checkpoints of the original BLIP code (salesforce/BLIP): `model_base.pth`, `model_base_capfilt_large.pth`, fine-tunes.

State dicts under their own names in, a MED out; and back, with momentum copies and queues. What shapes do not say (heads, norms,
token ids) is BLIP's unless the caller says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.med.checkpoints.fields import architecture_fields
from capfilt.modeling.med.checkpoints.names import (
    DECODER,
    ENCODER,
    WHAT,
    is_shared,
    is_tied,
    published_names,
    roles_of,
    tensors_of,
    with_aliases,
)
from capfilt.modeling.med.network import MED
from capfilt.modeling.med.training import MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining
from capfilt.modeling.published import Names, count_of, shape_of, to_ours, to_theirs
from capfilt.modeling.vision import interpolated
from capfilt.modeling.weights import state_dict_in

SOURCE = "state dict"
HEAD_WIDTH = 64
"""Of every BLIP: heads are the one size that shapes do not show."""
QUEUES = ("image_queue", "text_queue", "queue_ptr", "ptr_queue", "idx_queue")
MOMENTUM = ("visual_encoder_m.", "vision_proj_m.", "text_encoder_m.", "text_proj_m.")
NO_IMAGE = -100
"""What the original's `idx_queue` holds where nothing was written yet; ours holds -1."""


def from_original(
    content: Mapping[str, Any],
    config: MedArchitecture | Mapping[str, Any] | str | Path | None = None,
    *,
    source: str = SOURCE,
    keep_training: bool = True,
) -> MED:
    """See `MED.from_original`. `keep_training`: remember momentum copies and queues for `losses`."""
    theirs = state_dict_in(content, source)
    architecture = original_architecture(theirs, config, source)
    training = {name: tensor for name, tensor in theirs.items() if name.startswith(MOMENTUM) or name in QUEUES}
    model = build(architecture)
    weights = with_aliases({name: tensor for name, tensor in theirs.items() if name not in training})
    _resize(weights, "visual_encoder.pos_embed", model)
    names = published_names(architecture, "original")
    if "filter" in architecture.roles and "temp" not in weights:
        weights["temp"] = torch.tensor(0.07)  # BLIP_ITM has none, and no score depends on it
    unasked = [name for name in weights if architecture.roles == ("filter",) and name.startswith("text_decoder.")]
    if architecture.roles == ("captioner",):
        unasked = [
            name for name in weights if name.startswith(("text_encoder.", "itm_head.", "vision_proj.", "text_proj.", "temp"))
        ]
    to_ours(weights, model, names, WHAT, source, is_ignored=set(unasked).__contains__)
    if keep_training and training:
        # Now, not when `losses` is called: the caller's tensors may be a network's own, which moves on.
        model._objective.append(objective_of(model, training))
    return model.eval()


def original_architecture(
    theirs: Mapping[str, Tensor], config: MedArchitecture | Mapping[str, Any] | str | Path | None, source: str
) -> MedArchitecture:
    """From shapes; what they do not say from `config`, and where that is silent too, BLIP's values."""
    width, _, _, patch = shape_of(theirs, "visual_encoder.patch_embed.proj.weight", 4, WHAT, source)
    side = int((shape_of(theirs, "visual_encoder.pos_embed", 3, WHAT, source)[1] - 1) ** 0.5)
    hidden = shape_of(theirs, "visual_encoder.blocks.0.mlp.fc1.weight", 2, WHAT, source)[0]
    image_layers = count_of(theirs, "visual_encoder.blocks.")
    roles = roles_of(theirs)
    if not roles:
        raise CheckpointError(
            f"{source}: expected a text encoder or decoder beside the image encoder, found neither. Check the file"
        )
    tower = ENCODER if "filter" in roles else DECODER
    vocab_size, text_width = shape_of(theirs, f"{tower}embeddings.word_embeddings.weight", 2, WHAT, source)
    found: dict[str, Any] = {
        "kind": "med",
        "image": {
            "size": side * patch,
            "patch": patch,
            "width": width,
            "layers": image_layers,
            "mlp_ratio": hidden / width,
            "drop_path": 0.1 if width >= 1024 else 0.0,
        },
        "text": {
            "vocab_size": vocab_size,
            "width": text_width,
            "layers": count_of(theirs, f"{tower}encoder.layer."),
            "intermediate": shape_of(theirs, f"{tower}encoder.layer.0.intermediate.dense.weight", 2, WHAT, source)[0],
            "max_positions": shape_of(theirs, f"{tower}embeddings.position_embeddings.weight", 2, WHAT, source)[0],
            "dropout": 0.1,
            "attention_dropout": 0.1,
        },
        "max_text_length": {("captioner", "filter"): 30, ("filter",): 35, ("captioner",): 40}[tuple(roles)],
    }
    for section, size in (("image", width), ("text", text_width)):
        if size % HEAD_WIDTH == 0:
            found[section]["heads"] = size // HEAD_WIDTH
    if "vision_proj.weight" in theirs:
        found["embed_dim"] = theirs["vision_proj.weight"].shape[0]
    certain: dict[str, Any] = {"shared": is_shared(theirs), "tied_vocabulary": is_tied(theirs)}
    if "image_queue" in theirs:
        certain["queue_size"] = theirs["image_queue"].shape[1]
    found["max_text_length"] = min(found["max_text_length"], found["text"]["max_positions"])
    return architecture_fields(found, config, roles, certain, source)


def _resize(theirs: dict[str, Tensor], name: str, model: MED) -> None:
    """Positions for the network's image size, where the file has those of another."""
    if name in theirs and theirs[name].ndim == 3:
        theirs[name] = interpolated(theirs[name].float(), model.vision.side)


# ── what training adds: momentum copies and queues ──────────────────────────────────────────────────────────


def objective_of(
    model: MED, theirs: Mapping[str, Tensor], *, seed: int = 0
) -> MedPretraining | MedFilterFinetuning | MedCaptionerFinetuning:
    """What the original code trains such a model with, going on from `theirs`: momentum copies and queues under its names.

    Where `theirs` has none, the momentum copy is one of the model and the queue is random unit vectors, as in the original.
    """
    if "filter" not in model.config.roles:
        return MedCaptionerFinetuning(model)
    kind = MedPretraining if "captioner" in model.config.roles else MedFilterFinetuning
    objective = kind(model, seed=seed)
    momentum = {name: tensor for name, tensor in theirs.items() if name.startswith(MOMENTUM)}
    if momentum:
        copied = with_aliases(momentum)
        _resize(copied, "visual_encoder_m.pos_embed", model)
        # The original copies cross-attention too, and never uses it.
        unused = [name for name in copied if ".crossattention." in name]
        to_ours(
            copied,
            objective.momentum,
            momentum_names(model.config),
            WHAT,
            "momentum copies",
            is_ignored=set(unused).__contains__,
        )
    queue = objective.queue
    if "image_queue" in theirs:
        with torch.no_grad():
            queue.image_QE.copy_(theirs["image_queue"].T)
            queue.text_QE.copy_(theirs["text_queue"].T)
            pointer = theirs.get("queue_ptr", theirs.get("ptr_queue"))
            if pointer is not None:
                queue.write_at.copy_(pointer.flatten()[0])
            if "idx_queue" in theirs:
                ids = theirs["idx_queue"].flatten()
                queue.image_ids_Q.copy_(torch.where(ids == NO_IMAGE, -1, ids))
    return objective


def momentum_names(config: MedArchitecture) -> Names:
    """Of the copies of image encoder, text encoder (without cross-attention) and projections."""
    found: Names = {}
    for ours, parts in published_names(config, "original").items():
        root = ours.split(".")[0]
        if root in ("vision", "text_encoder", "image_projection", "text_projection") and ".cross." not in ours:
            found[ours] = tuple(_with_m(name) for name in parts)
    return found


def _with_m(name: str) -> str:
    root, rest = name.split(".", 1)
    return f"{root}_m.{rest}"


def to_original(model: MED) -> dict[str, Tensor]:
    """The state dict that the original code would load: what `from_original` reads back to an equal network.

    With momentum copies and queues where `model.losses` or `model.objective` was used.
    """
    architecture = model.config
    if architecture.image.stem != "patch":
        raise CheckpointError(
            "to_original: expected a patch stem, found a convolutional one, which BLIP has not. Keep our own folder"
        )
    found = to_theirs(tensors_of(model), published_names(architecture, "original"))
    if "captioner" in architecture.roles:
        found["text_decoder.cls.predictions.bias"] = found["text_decoder.cls.predictions.decoder.bias"]
    objective = model.objective if model._objective else None
    if isinstance(objective, MedPretraining | MedFilterFinetuning):
        found |= to_theirs(tensors_of(objective.momentum), momentum_names(architecture))
        queue = objective.queue
        found |= {"image_queue": queue.image_QE.T, "text_queue": queue.text_QE.T}
        pointer = "queue_ptr" if isinstance(objective, MedPretraining) else "ptr_queue"
        found[pointer] = queue.write_at[None]
        if isinstance(objective, MedFilterFinetuning):
            found["idx_queue"] = torch.where(queue.image_ids_Q == -1, NO_IMAGE, queue.image_ids_Q)[None]
    return {name: tensor.detach().clone() for name, tensor in found.items()}
