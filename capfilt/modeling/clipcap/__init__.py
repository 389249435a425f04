"""ClipCap: an image embedding becomes the prefix of a GPT-2's text; published checkpoints."""

from capfilt.modeling.clipcap.network import ClipCap

__all__ = ["ClipCap"]
