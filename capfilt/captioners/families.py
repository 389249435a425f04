"""The captioner of whatever family a model folder holds: MED, CoCa, BLIP-2 (either stage), ClipCap.

All write through the same engine (`modeling.decoding`); what differs is the network's.
"""

from typing import Literal

from capfilt.captioners.med import MedCaptioner
from capfilt.config.decoding import Decoding
from capfilt.config.round import Pixels
from capfilt.modeling.families import load_inference


def load_captioner(
    checkpoint: str,
    *,
    kind: str | None = None,
    prompt: str,
    decode: Decoding,
    batch_size: int,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    pixels: Pixels = "exact",
) -> MedCaptioner:
    """Arguments as of `MedCaptioner.load`; `kind` is the family that the folder must hold, None takes any.

    Raises:
        CheckpointError: If there is no such model, or it writes no captions.
    """
    network = load_inference(checkpoint, kind=kind, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels)
    return MedCaptioner(network, prompt=prompt, decode=decode)
