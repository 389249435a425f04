"""MED, BLIP's multimodal mixture of encoder-decoder: the network, what it learns from, published checkpoints."""

from capfilt.modeling.med.network import MED, ImagesOfTexts, MedDecoder

__all__ = ["MED", "ImagesOfTexts", "MedDecoder"]
