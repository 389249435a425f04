"""BLIP-2's start: the Q-Former from a BERT (BLIP-2 section 3.1); cross-attention, queries and heads stay as they were drawn.

The queries' feed-forwards are copies of the texts', as in the published code. Of a BERT without its masked-word head ITG's stays
fresh too.
"""

from capfilt.modeling.blip2.names import qformer_names
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.med.checkpoints.towers import MASKED_WORDS, copy_bert

_ROOT, _HEAD = "Qformer.bert.", "Qformer.cls.predictions."


def start_qformer(model: QFormer, source: str) -> None:
    """Copy a BERT of transformers, local or by hub name, into a stage 1 whose vocabulary is that BERT's, [DEC] and [ENC].

    Raises:
        CheckpointError: If it is none, or has another width, depth, number of heads or positions: all are listed.
    """
    names = qformer_names(model.config, "original")
    copy_bert(model, model.config.text, source, {ours: tuple(map(_in_bert, parts)) for ours, parts in names.items()})


def _in_bert(name: str) -> str:
    """BERT's name of a tensor of LAVIS' Q-Former; empty for one that BERT has not."""
    if name == f"{_HEAD}decoder.bias":
        return f"{MASKED_WORDS}bias"
    if name.startswith(_HEAD):
        return MASKED_WORDS + name.removeprefix(_HEAD)
    if name.startswith(_ROOT) and ".crossattention." not in name:
        return name.removeprefix(_ROOT).replace("_query", "")
    return ""
