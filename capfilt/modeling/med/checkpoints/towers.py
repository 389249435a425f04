"""BLIP's start: the image encoder from a ViT, the text towers from a BERT; what neither has stays as it was drawn.

Reads transformers folders of ViT, DeiT and BERT, local or by hub name. Fresh stay: cross-attention, projections, the ITM head,
the rows of [DEC] and [ENC], and without BERT's masked-word head the decoder's. BERT's token types are left out (BLIP has none).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from capfilt.config.architectures.parts import BertConfig
from capfilt.errors import CheckpointError
from capfilt.modeling.find import find_checkpoint
from capfilt.modeling.med.checkpoints.names import DECODER, ENCODER, HEAD, published_names
from capfilt.modeling.med.network import MED
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.transformers_files import CONFIG, folder_tokenizer, read_json, read_tensors
from capfilt.modeling.vision import interpolated
from capfilt.modeling.weights import own_tensors

_VIT = {  # ours: theirs, of one block
    "norm_1": ("layernorm_before",),
    "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.out": ("attention.output.dense",),
    "norm_2": ("layernorm_after",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
}
MASKED_WORDS = "cls.predictions."
_UNUSED = ("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "cls.seq_relationship.")
_UNUSED_TEXT = ("embeddings.token_type_embeddings.", "embeddings.position_ids", f"{MASKED_WORDS}decoder.")
Wanted = dict[str, tuple[str, ...]]


def start_image(model: MED, source: str) -> None:
    """Copy a ViT or DeiT into the image encoder; positions are interpolated to its grid.

    Raises:
        CheckpointError: If it is neither, or has another patch, width, depth or number of heads: all are listed.
    """
    config = model.config.image
    settings, theirs = _read(source, ("vit", "deit"))
    if (config.stem, config.positions) != ("patch", "learned"):
        raise CheckpointError(
            f"{source}: expected an architecture with stem: patch and positions: learned to take a ViT's weights, found "
            f"{config.stem} and {config.positions}. Name another architecture, or no pretrain.init.image"
        )
    _same_heads(source, settings, config.heads)
    positions_1ND = theirs.pop("embeddings.position_embeddings", torch.empty(1, 0, 0))
    if theirs.pop("embeddings.distillation_token", None) is not None:
        positions_1ND = torch.cat([positions_1ND[:, :1], positions_1ND[:, 2:]], dim=1)
    if positions_1ND.shape[1] > 1:
        theirs["embeddings.position_embeddings"] = interpolated(positions_1ND, model.vision.side)
    wanted: Wanted = {"vision.cls": ("embeddings.cls_token",), "vision.positions": ("embeddings.position_embeddings",)}
    modules: Wanted = {"vision.stem": ("embeddings.patch_embeddings.projection",), "vision.norm": ("layernorm",)}
    modules |= {f"vision.blocks.{i}.{ours}": tuple(f"encoder.layer.{i}.{name}" for name in names)
                for i in range(config.layers) for ours, names in _VIT.items()}  # fmt: skip
    wanted |= {
        f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in names)
        for ours, names in modules.items()
        for kind in ("weight", "bias")
    }
    _copy(model, theirs, wanted, source)


def start_text(model: MED, source: str) -> None:
    """Copy a BERT into text encoder and decoder, each with its self-attention.

    Raises:
        CheckpointError: If it is none, or has another width, depth, number of heads or positions: all are listed.
    """
    wanted = {ours: tuple(map(_in_bert, parts)) for ours, parts in published_names(model.config, "original").items()}
    copy_bert(model, model.config.text, source, {ours: names for ours, names in wanted.items() if ".cross." not in ours})


def copy_bert(model: nn.Module, text: BertConfig, source: str, in_bert: Wanted) -> None:
    """Copy a BERT into a network with a vocabulary of two tokens more, [DEC] and [ENC].

    Args:
        model: Keeps what BERT has not, and its head where BERT has none.
        text: Its sizes.
        source: A transformers folder or hub name.
        in_bert: What BERT calls each tensor; empty for what it has not.

    Raises:
        CheckpointError: See `start_text`.
    """
    settings, theirs = _read(source, ("bert",))
    _same_heads(source, settings, text.heads)
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(_UNUSED_TEXT)}
    words = theirs.get("embeddings.word_embeddings.weight")
    if words is not None and len(words) != text.vocab_size - 2:
        raise CheckpointError(
            f"{source}: expected the vocabulary of {text.vocab_size} tokens without [DEC] and [ENC], found {len(words)} tokens. "
            "Leave pretrain.vocabulary out to take this BERT's own"
        )
    has_head = f"{MASKED_WORDS}transform.dense.weight" in theirs
    wanted = {
        ours: names for ours, names in in_bert.items() if "" not in names and (has_head or not names[0].startswith(MASKED_WORDS))
    }
    if has_head and "head.vocabulary.weight" in wanted:
        wanted["head.vocabulary.weight"] = ("embeddings.word_embeddings.weight",)
    if not any(names[0].startswith(MASKED_WORDS) for names in wanted.values()):  # a filter alone writes nothing
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(MASKED_WORDS)}
    _copy(model, theirs, wanted, source)


def tokenizer_of(source: str) -> Tokenizer:
    """A BERT folder's own, with [DEC] and [ENC]."""
    return folder_tokenizer(find_checkpoint(source), None)


def _in_bert(name: str) -> str:
    """BERT's name of a tensor of BLIP's text towers; empty for one that BERT has not."""
    if name == f"{HEAD}decoder.bias":
        return f"{MASKED_WORDS}bias"
    for prefix, theirs in ((HEAD, MASKED_WORDS), (ENCODER, ""), (DECODER, "")):
        if name.startswith(prefix):
            return theirs + name[len(prefix) :]
    return ""


def _read(source: str, kinds: tuple[str, ...]) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Settings and tensors, without the prefix of a model with a head, in today's names."""
    folder = find_checkpoint(source)
    settings = read_json(folder / CONFIG)
    kind = settings.get("model_type")
    if kind not in kinds:
        raise CheckpointError(f"{source}: expected a transformers folder of {' or '.join(kinds)}, found {kind!r}. Name another")
    found: dict[str, Tensor] = {}
    for name, tensor in read_tensors(folder).items():
        name = name.removeprefix(f"{kind}.").replace("LayerNorm.gamma", "LayerNorm.weight")  # files of TensorFlow's time
        found[name.replace("LayerNorm.beta", "LayerNorm.bias")] = tensor
    return settings, {name: tensor for name, tensor in found.items() if not name.startswith(_UNUSED)}


def _same_heads(source: str, settings: Mapping[str, Any], heads: int) -> None:
    found = settings.get("num_attention_heads", 12)  # a saved file leaves out what is the default
    if found != heads:
        raise CheckpointError(f"{source}: expected {heads} heads as in the architecture, found {found}. Name another of the two")


def _copy(model: nn.Module, theirs: Mapping[str, Tensor], wanted: Wanted, source: str) -> None:
    """Each tensor in its place. Of a vocabulary, the last two rows stay; their positions may be more than ours."""
    own = own_tensors(model)
    wrong: list[str] = []
    values: dict[str, Tensor] = {}
    for ours, names in wanted.items():
        if ours not in own:  # shared, and named before
            continue
        missing = [name for name in names if name not in theirs]
        wrong += [f"missing {name}" for name in missing]
        if missing:
            continue
        value = torch.cat([theirs[name] for name in names])
        if ours.endswith("positions.weight"):
            value = value[: len(own[ours])]
        expected = list(own[ours].shape)
        if ours.endswith("words.weight") or ours.startswith("head.vocabulary."):
            expected[0] -= 2
        if list(value.shape) != expected:
            wrong.append(f"misshapen {', '.join(names)}: expected {expected} together, found {list(value.shape)}")
        values[ours] = value
    known = {name for names in wanted.values() for name in names}
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in theirs.items() if name not in known]
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(
            f"{source}: expected the tensors of the architecture's tower, found\n  {listed}\nName one that fits"
        )
    with torch.no_grad():
        for ours, value in values.items():
            own[ours][: len(value)].copy_(value)
