"""CoCa, contrastive captioner: the network, what it learns from, published checkpoints."""

from capfilt.modeling.coca.network import LOSS_WEIGHTS, CoCa

__all__ = ["LOSS_WEIGHTS", "CoCa"]
