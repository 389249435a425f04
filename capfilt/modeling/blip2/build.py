"""From an architecture to a BLIP-2: fresh weights that learn, and trained ones that are frozen.

A stage 1 that was trained here goes on in stage 2 by its weights: `start_from`.
"""

import torch

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import differing
from capfilt.modeling.vision import VisionTransformer


def build_blip2(
    architecture: Blip2Architecture,
    *,
    seed: int = 0,
    vision: VisionTransformer | None = None,
    language: FrozenLanguage | None = None,
) -> QFormer | Blip2:
    """A QFormer, or with `architecture.language` a Blip2; torch's global generator is left as it was.

    Args:
        architecture: `image.checkpoint` is read here and is null in the network's own `config`, whose weights hold the encoder's.
        seed: Of the weights that learn.
        vision: The image encoder; None takes `image.checkpoint`'s, and without it one with random weights, for a state dict to
            fill.
        language: The language model; None loads `language.checkpoint`.

    Raises:
        CheckpointError: If a checkpoint is missing or is another network than the architecture says.
    """
    if vision is None and architecture.image.checkpoint is not None:
        vision = _vision_of(architecture.image.checkpoint)
    settled = architecture.model_copy(update={"image": architecture.image.model_copy(update={"checkpoint": None})})
    if settled.language is not None and language is None:
        if settled.language.checkpoint is None:
            raise CheckpointError("language.checkpoint: expected the language model of stage 2, found null. Name its folder")
        language = FrozenLanguage.load(settled.language.checkpoint, eos_id=settled.language.eos_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        qformer = QFormer(settled)
        model = qformer if language is None else Blip2(qformer, language)
    if vision is not None:
        qformer.take_vision(vision)
    return model


def start_from(model: Blip2, trained: QFormer) -> None:
    """Stage 2 begins with stage 1's image encoder, norm, queries and what they go through (BLIP-2 section 3.3).

    Raises:
        CheckpointError: If stage 1 has other sizes; lists what differs.
    """
    own, given = model.qformer.state_dict(), trained.state_dict()
    wrong = differing(own, given)
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(f"stage 1: expected the sizes of stage 2's Q-Former, found\n  {listed}\nGive both the same `text`")
    model.qformer.load_state_dict({name: given[name] for name in own})


def _vision_of(source: str) -> VisionTransformer:
    from capfilt.modeling.families import load_network

    model = load_network(source).model
    if not isinstance(model, MED):
        raise CheckpointError(f"image.checkpoint: expected a MED, found a {model.config.kind} in {source}. Name another model")
    return model.vision
