"""Folders that transformers' Blip2ForImageTextRetrieval and Blip2ForConditionalGeneration write, read as a QFormer or a Blip2.

Weights, image processor and tokenizer. transformers is imported where it is used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.names import WHAT, qformer_names
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.original import ratio_of
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.tokenizer import LanguageTokenizer
from capfilt.modeling.published import activation_of, to_ours
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.transformers_files import CONFIG, folder_tokenizer, image_processor, read_json, read_tensors

LANGUAGE, PROJECTION = "language_model.", "language_projection."
TEXTS = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight")


def load_blip2(folder: Path, vocabulary: str | Path | None = None) -> tuple[QFormer | Blip2, Tokenizer | LanguageTokenizer]:
    """A QFormer with ITC and ITM from a retrieval folder, a Blip2 from a generation folder; with its tokenizer.

    Args:
        folder: What transformers' `save_pretrained` wrote, the tokenizer beside it.
        vocabulary: bert-base-uncased's vocab.txt, for a retrieval folder without a tokenizer.

    Raises:
        CheckpointError: If a file is missing or is not BLIP-2's, or if tensors are missing, unexpected or of another shape.
    """
    settings = read_json(folder / CONFIG)
    if settings.get("model_type") != "blip-2":
        raise CheckpointError(
            f"{folder}: expected a folder of transformers' BLIP-2 (model_type blip-2), found {settings.get('model_type')!r}. "
            "Give a Blip2ForImageTextRetrieval or Blip2ForConditionalGeneration"
        )
    theirs = {name: tensor for name, tensor in read_tensors(folder).items() if not name.endswith("position_ids")}
    generates = any(name.startswith((LANGUAGE, PROJECTION)) for name in theirs)
    tokenizer = None if generates else folder_tokenizer(folder, vocabulary)
    architecture = _architecture(folder, settings, theirs, tokenizer)
    with torch.random.fork_rng(devices=[]):
        qformer = QFormer(architecture)
    own = {name: tensor for name, tensor in theirs.items() if not name.startswith((LANGUAGE, PROJECTION))}
    names = qformer_names(architecture, "transformers")
    to_ours(own, qformer, names, WHAT, str(folder), is_ignored=lambda name: name.startswith("temp"))
    if tokenizer is not None:
        tokenizer.keep_below(architecture.text.vocab_size)
        return qformer.eval(), tokenizer
    language = FrozenLanguage(_language_model(folder, settings, theirs))
    with torch.random.fork_rng(devices=[]):
        model = Blip2(qformer, language)
    given = {name.removeprefix(PROJECTION): tensor for name, tensor in theirs.items() if name.startswith(PROJECTION)}
    _copy(model.projection, given, f"{folder}, {PROJECTION}")
    return model.eval(), LanguageTokenizer.load(folder, language)


def _language_model(folder: Path, settings: dict[str, Any], theirs: Mapping[str, Tensor]) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Blip2Config

    config = Blip2Config.from_dict(settings)
    kind = AutoModelForCausalLM if config.use_decoder_only_language_model else AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]):
        model = kind.from_config(config.text_config).float()
    _copy(
        model,
        {name.removeprefix(LANGUAGE): tensor for name, tensor in theirs.items() if name.startswith(LANGUAGE)},
        f"{folder}, {LANGUAGE}",
    )
    return model


def _copy(module: torch.nn.Module, given: Mapping[str, Tensor], source: str) -> None:
    """Of tied tensors, files keep one.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape.
    """
    own = module.state_dict(keep_vars=True)
    there = {id(own[name]) for name in given if name in own}
    wrong = [f"missing {name}" for name in own if name not in given and id(own[name]) not in there]
    wrong += [f"unexpected {name} {list(given[name].shape)}" for name in given if name not in own]
    wrong += [
        f"misshapen {name}: expected {list(own[name].shape)}, found {list(given[name].shape)}"
        for name in given
        if name in own and own[name].shape != given[name].shape
    ]
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(f"{source}: expected the tensors that its {CONFIG} says, found\n  {listed}\nCopy the folder again")
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def _architecture(
    folder: Path, settings: dict[str, Any], theirs: Mapping[str, Tensor], tokenizer: Tokenizer | None
) -> Blip2Architecture:
    from transformers import Blip2Config

    config = Blip2Config.from_dict(settings)  # fills what a saved file leaves out because it is the default
    image, text = config.vision_config, config.qformer_config
    size = int(image.image_size)
    optional = image_processor(folder, size)
    fields: dict[str, Any] = {
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "layers": text.num_hidden_layers,
        "heads": text.num_attention_heads,
        "intermediate": text.intermediate_size,
        "max_positions": text.max_position_embeddings,
        "dropout": text.hidden_dropout_prob,
        "attention_dropout": text.attention_probs_dropout_prob,
        "norm_eps": text.layer_norm_eps,
        "queries": config.num_query_tokens,
        "cross_every": text.cross_attention_frequency,
    }
    if tokenizer is None:
        optional["language"] = {"checkpoint": str(folder)}
    else:
        fields |= {"pad_id": tokenizer.pad_id, "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
        for name, size_of in zip(TEXTS, ("vocab_size", "max_positions"), strict=True):
            if name in theirs:
                fields[size_of] = theirs[name].shape[0]
        fields["dec_id"] = tokenizer.dec_id if tokenizer.dec_id < fields["vocab_size"] else fields["vocab_size"] - 1
        optional["embed_dim"] = config.image_text_hidden_size
    try:
        return Blip2Architecture.model_validate(
            {
                "kind": "blip2",
                "image": {
                    "size": size,
                    "patch": int(image.patch_size),
                    "width": image.hidden_size,
                    "layers": image.num_hidden_layers,
                    "heads": image.num_attention_heads,
                    "mlp_ratio": ratio_of(image.intermediate_size, image.hidden_size),
                    "norm_eps": image.layer_norm_eps,
                    "activation": activation_of(image.hidden_act),
                    "final_norm": False,
                },
                "text": fields | {"activation": activation_of(text.hidden_act)},
                "roles": [] if tokenizer is None else ["filter"],
                "bridge_norm_eps": image.layer_norm_eps,
                "max_text_length": min(32, fields["max_positions"]),
                **optional,
            }
        )
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{folder}: expected settings of a BLIP-2 that ours can be, found {told}") from None
