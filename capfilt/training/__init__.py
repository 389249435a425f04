"""Training: pairs in, a model folder out; a run that was stopped goes on with bit-equal weights.

Knows no model names beyond the recipes, and nothing of Ray, rounds or runs.
"""

from capfilt.training.data import WebPairs
from capfilt.training.loop import StepReport
from capfilt.training.recipes import finetune_captioner, finetune_filter, pretrain

__all__ = ["StepReport", "WebPairs", "finetune_captioner", "finetune_filter", "pretrain"]
