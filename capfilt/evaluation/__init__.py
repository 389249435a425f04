"""Evaluation: what models and data are worth, as numbers with intervals.

Only here (and in the report) is the truth about a small web read. Knows nothing of training.
"""

from capfilt.evaluation.run import evaluate

__all__ = ["evaluate"]
