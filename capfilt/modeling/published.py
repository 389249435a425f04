"""What reading and writing others' checkpoints has in common: a table of names, and a caller's fields in our words.

Knows no family: each has its own tables and says what it expects.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from capfilt.config.base import Section
from capfilt.config.find import find_yaml
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.weights import own_tensors

Names = dict[str, tuple[str, ...]]
"""Our tensor -> theirs; several of theirs (queries, keys, values) are equal parts of ours along axis 0."""
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
"""transformers' names of the activations that our networks have."""
SectionT = TypeVar("SectionT", bound=Section)


def named(ours: str, *theirs: str) -> Names:
    """Weight and bias of one module."""
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}


def to_ours(
    theirs: Mapping[str, Tensor],
    model: nn.Module,
    names: Names,
    what: str,
    source: str,
    *,
    is_ignored: Callable[[str], bool] = lambda name: False,
    may_miss: Callable[[str], bool] = lambda name: False,
) -> None:
    """Copy their tensors into the network, each in its place; shared parameters take the first of their names.

    Args:
        theirs: By their names.
        model: Gets the values.
        names: Of all its tensors; of one that is shared, every name.
        what: They should be of, such as "a BLIP MED"; for the message.
        source: Where they come from; for the message.
        is_ignored: Their names that may be there without a place here.
        may_miss: Their names without which ours keep their values.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; lists all and changes nothing.
    """
    own = own_tensors(model)
    wrong: list[str] = []
    values: dict[str, Tensor] = {}
    for ours, parts in names.items():
        if ours not in own:
            continue
        expected = list(own[ours].shape)
        if len(parts) > 1:
            expected[0] //= len(parts)
        missing = [name for name in parts if name not in theirs and not may_miss(name)]
        misshapen = [name for name in parts if name in theirs and list(theirs[name].shape) != expected]
        wrong += [f"missing {name} {expected}" for name in missing]
        wrong += [f"misshapen {name}: expected {expected}, found {list(theirs[name].shape)}" for name in misshapen]
        if not missing and not misshapen and parts[0] in theirs:
            values[ours] = torch.cat([theirs[name] for name in parts]) if len(parts) > 1 else theirs[parts[0]]
    known = {name for parts in names.values() for name in parts}
    unexpected = {name: tensor for name, tensor in theirs.items() if name not in known and not is_ignored(name)}
    wrong += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in unexpected.items()]
    if wrong:
        refuse(wrong, what, source)
    with torch.no_grad():
        for ours, tensor in values.items():
            own[ours].copy_(tensor)


def to_theirs(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Our tensors by their names; parts of one tensor are views of it."""
    found: dict[str, Tensor] = {}
    for ours, parts in names.items():
        found |= zip(parts, tensors[ours].chunk(len(parts)) if len(parts) > 1 else (tensors[ours],), strict=True)
    return found


def differing(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """A line for each of our tensors that is not given, or has another shape there."""
    return [
        f"{name}: expected {list(tensor.shape)}, found {list(given[name].shape) if name in given else 'none'}"
        for name, tensor in own.items()
        if name not in given or given[name].shape != tensor.shape
    ]


def refuse(wrong: Sequence[str], what: str, source: str) -> NoReturn:
    """The error that lists what does not fit.

    Raises:
        CheckpointError: Always.
    """
    listed = "\n  ".join(wrong)
    raise CheckpointError(
        f"{source}: expected the tensors of {what}, found\n  {listed}\n"
        "Give the whole checkpoint, and the settings it was trained with"
    )


BERT_WORDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "max_position_embeddings": "max_positions",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "hidden_act": "activation",
    "pad_token_id": "pad_id",
    "cls_token_id": "cls_id",
    "sep_token_id": "sep_id",
}
"""BERT's configuration in our words."""
VIT_WORDS = {
    "image_size": "size",
    "img_size": "size",
    "patch_size": "patch",
    "embed_dim": "width",
    "hidden_size": "width",
    "depth": "layers",
    "num_hidden_layers": "layers",
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "layer_norm_eps": "norm_eps",
    "hidden_act": "activation",
}
"""The settings of timm's and transformers' ViTs in our words."""
VIT_BLOCK = {
    "norm_1": ("norm1", "layer_norm1"),
    "attention.qkv": ("attn.qkv", "self_attn.qkv"),
    "attention.out": ("attn.proj", "self_attn.projection"),
    "norm_2": ("norm2", "layer_norm2"),
    "mlp.up": ("mlp.fc1", "mlp.fc1"),
    "mlp.down": ("mlp.fc2", "mlp.fc2"),
}
"""Our parts of a ViT's block: timm's (BLIP, LAVIS), and those of transformers' BLIP and BLIP-2."""
BERT_WITHOUT_EFFECT = (
    "architectures",
    "model_type",
    "initializer_range",
    "type_vocab_size",
    "add_cross_attention",
    "is_decoder",
    "use_cache",
    "position_embedding_type",
    "transformers_version",
)
"""What BERT's configuration files say and no score of ours depends on."""


def told_fields(
    config: Any,
    kind: type[Section],
    translated: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    known_as: Mapping[str, str] | None = None,
    explicit_only: bool = False,
) -> dict[str, Any]:
    """What a caller says of an architecture, in our words.

    Args:
        config: None, an architecture of ours, a YAML or JSON file or the name of one in models/, or a mapping of fields.
        kind: Of the architecture.
        translated: Others' fields -> ours.
        known_as: Others' names of architectures in models/.
        explicit_only: Of an architecture of ours, only the fields that somebody wrote.
    """
    if config is None:
        return {}
    if isinstance(config, kind):
        return config.model_dump(exclude_unset=explicit_only)
    if isinstance(config, str | Path):
        path = Path(config) if Path(config).is_file() else find_yaml((known_as or {}).get(str(config), str(config)), "models")
        config = read_fields(path)
    return translated(config)


def read_fields(path: Path) -> Mapping[str, Any]:
    """A YAML or JSON file (which is YAML).

    Raises:
        ConfigError: If it holds no fields.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: expected fields of an architecture, found {type(content).__name__}. Correct the file")
    return content


def architecture_from(fields: Mapping[str, Any], kind: type[SectionT], source: str) -> SectionT:
    """The architecture that the fields describe.

    Raises:
        ConfigError: If they describe none; lists each wrong field.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise ConfigError(
            "\n  ".join([f"{source}: expected an architecture that fits, found", *lines]) + "\nGive these fields"
        ) from None


def renamed(content: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a network here knows; the others (initialisation, versions) do not change what it computes."""
    found = {ours: content[theirs] for theirs, ours in words.items() if content.get(theirs) is not None}
    if "activation" in found:
        found["activation"] = activation_of(found["activation"])
    return found


def activation_of(name: Any) -> str:
    """Our name of transformers' activation.

    Raises:
        ConfigError: If our networks have no such one.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act: expected one of {', '.join(ACTIVATIONS)}, found {name!r}; our networks have no other")
    return ACTIVATIONS[name]


def shape_of(theirs: Mapping[str, Tensor], name: str, axes: int, what: str, source: str) -> list[int]:
    """Raises: CheckpointError: If there is no such tensor of so many axes."""
    if name not in theirs or theirs[name].ndim != axes:
        some = ", ".join(list(theirs)[:5]) or "nothing"
        found = f"one of shape {list(theirs[name].shape)}" if name in theirs else f"none but {some}, ..."
        raise CheckpointError(
            f"{source}: expected the weights of {what}, so a {name} of {axes} axes, found {found}. Check the file"
        )
    return list(theirs[name].shape)


def count_of(theirs: Mapping[str, Tensor], prefix: str) -> int:
    """Layers: one more than the largest number after `prefix`."""
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in theirs if name.startswith(prefix)), default=-1)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, or equal."""
    return a is b or (a.shape == b.shape and torch.equal(a, b))
