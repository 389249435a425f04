"""A MED as a folder of transformers' BlipForConditionalGeneration or BlipForImageTextRetrieval, with equal outputs.

The way back is `transformers_folder`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role, missing_role
from capfilt.errors import CheckpointError, ConfigError, InputError
from capfilt.modeling.families import Loaded
from capfilt.modeling.med.checkpoints.names import published_names, tensors_of
from capfilt.modeling.med.checkpoints.transformers_folder import ITM_POSITION
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import to_theirs
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.transformers_files import BICUBIC, CONFIG

CLASSES: dict[Role, str] = {"captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval"}
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu"}


def export_transformers(loaded: Loaded, out: Path, role: Role | None = None) -> str:
    """Write the folder; says in one line what it is.

    With `itm_position: enc` the reader must put [ENC] at position 0 of the ids for ITM, since transformers puts nothing there.

    Args:
        loaded: Network, architecture and tokenizer.
        out: A folder that does not exist or is empty.
        role: Which of the two; None is the only one that the network has.

    Raises:
        ConfigError: If the network is no MED, has both roles and none is named, or is none that transformers' BLIP can be.
        CheckpointError: If the network lacks the role.
        InputError: If `out` holds something.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, MED) or not isinstance(tokenizer, Tokenizer):
        raise ConfigError(
            f"export-model: expected a MED, which transformers calls Blip, found a {loaded.architecture.kind}. Keep our folder, "
            "which `capfilt caption`, pipelines and `capfilt.load_model` read"
        )
    architecture = model.config
    if role is None:
        if len(architecture.roles) > 1:
            raise ConfigError("export-model: expected --as captioner or --as filter, found neither; this model can be both")
        role = architecture.roles[0]
    if role not in architecture.roles:
        raise CheckpointError(missing_role("export-model", role))
    if architecture.image.stem != "patch":
        raise ConfigError(
            f"export-model: expected `stem: patch`, found {architecture.image.stem}, "
            "which transformers' BLIP has not. Keep our own folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: expected no such folder or an empty one, found something there. Name another")
    fresh = out.with_name(f".{out.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_weights(model, role, fresh)
    _write(fresh / CONFIG, _config(architecture, tokenizer, role))
    _write(fresh / "preprocessor_config.json", _image_processor(architecture))
    _save_tokenizer(tokenizer, architecture, fresh)
    if out.exists():
        out.rmdir()
    fresh.rename(out)
    line = f"{out}: a {CLASSES[role]}"
    if role == "filter" and architecture.itm_position == "enc":
        line += f"; for ITM put [ENC] first: input_ids[:, 0] = {architecture.text.enc_id}"
    return line


def save_weights(model: MED, role: Role, folder: Path) -> None:
    only = model.config.model_copy(update={"roles": (role,)})
    tensors = to_theirs(tensors_of(model), published_names(only, "transformers"))
    if role == "captioner":
        tensors["text_decoder.cls.predictions.bias"] = tensors["text_decoder.cls.predictions.decoder.bias"]
    # Copies: a file of safetensors holds no tensor twice.
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def _config(architecture: MedArchitecture, tokenizer: Tokenizer, role: Role) -> dict[str, Any]:
    image, text = architecture.image, architecture.text
    tied = text.tied_vocabulary if role == "captioner" else True
    return {
        "architectures": [CLASSES[role]],
        "model_type": "blip",
        "image_text_hidden_size": architecture.embed_dim,
        "projection_dim": architecture.embed_dim,
        "initializer_range": architecture.init_std,
        "tie_word_embeddings": tied,
        ITM_POSITION: architecture.itm_position,
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "encoder_hidden_size": image.width,
            "intermediate_size": text.intermediate,
            "projection_dim": architecture.embed_dim,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.max_positions,
            "hidden_act": _ACTIVATIONS[text.activation],
            "layer_norm_eps": text.norm_eps,
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": text.attention_dropout,
            "bos_token_id": text.dec_id,
            "eos_token_id": tokenizer.sep_id,
            "sep_token_id": tokenizer.sep_id,
            "pad_token_id": tokenizer.pad_id,
            "is_decoder": True,
            "use_cache": True,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": image.width,
            "intermediate_size": int(image.width * image.mlp_ratio),
            "projection_dim": architecture.embed_dim,
            "num_hidden_layers": image.layers,
            "num_attention_heads": image.heads,
            "image_size": image.size,
            "patch_size": image.patch,
            "hidden_act": _ACTIVATIONS[image.activation],
            "layer_norm_eps": image.norm_eps,
        },
    }


def _image_processor(architecture: MedArchitecture) -> dict[str, Any]:
    size = architecture.image.size
    return {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(architecture.image_mean),
        "image_std": list(architecture.image_std),
    }


def _save_tokenizer(tokenizer: Tokenizer, architecture: MedArchitecture, folder: Path) -> None:
    tokenizer.save(folder)
    (folder / "vocab.txt").write_text("\n".join(tokenizer.tokens()) + "\n", encoding="utf-8")
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "bos": "[DEC]"}
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "processor_class": "BlipProcessor",
        "do_lower_case": True,
        "model_max_length": architecture.text.max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "additional_special_tokens": ["[ENC]"],
    }
    _write(folder / "tokenizer_config.json", settings | {f"{name}_token": token for name, token in special.items()})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
