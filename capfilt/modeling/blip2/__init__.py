"""BLIP-2: the Q-Former (stage 1), its soft prompts for a frozen language model (stage 2), published checkpoints."""

from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer

__all__ = ["Blip2", "QFormer"]
