"""SOHO: trunk, visual dictionary and cross-modal transformer, what they learn from, published checkpoints."""

from capfilt.modeling.soho.network import SOHO

__all__ = ["SOHO"]
