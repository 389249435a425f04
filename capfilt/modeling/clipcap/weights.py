"""ClipCaps from files: assembled of a published GPT-2 and CLIP, or as a folder of ours, and back.

Knows nothing of training. transformers is imported where it is used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.causal_lm import load_language_model
from capfilt.modeling.clipcap.fields import gpt_fields
from capfilt.modeling.clipcap.image import load_embedder
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.tokenizer import AnyTokenizer, GptTokenizer, load_tokenizer
from capfilt.modeling.weights import ARCHITECTURE, WEIGHTS, load_tensors, save_model


@dataclass(frozen=True)
class LoadedClipCap:
    """A network in evaluation mode, with what belongs to it."""

    model: ClipCap
    tokenizer: AnyTokenizer

    @property
    def architecture(self) -> ClipCapArchitecture:
        return self.model.config


def build_clipcap(architecture: ClipCapArchitecture, *, seed: int = 0) -> ClipCap:
    """The network, weights drawn from `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClipCap(architecture).eval()


def assemble(
    architecture: ClipCapArchitecture,
    *,
    text: str | Path | None,
    image: str | Path | None = None,
    tokenizer: AnyTokenizer | None = None,
    seed: int = 0,
) -> LoadedClipCap:
    """A ClipCap to be trained: fresh mapper, published GPT-2 and image side.

    Args:
        architecture: What the sources do not say: mapper, prefix and what learns; their sizes take the place of its own.
        text: A GPT-2 of transformers with its tokenizer, folder or hub name (gpt2-large: ClipCap's own); None: fresh weights.
        image: See `clipcap_image.load_embedder`; None: stored embeddings of width `embed_dim`, or the fresh network of
            `architecture.image`.
        tokenizer: Where `text` is None: that of the run's own texts; its size and ids take the place of the architecture's.

    Raises:
        CheckpointError: If a source is missing or is something else.
        ConfigError: If the architecture does not go with them.
    """
    fields = architecture.model_dump()
    embedder: Any = None
    language_model: Any = None
    if text is not None:
        language_model = load_language_model(text)
        fields["text"] = {"vocabulary": "gpt2", **gpt_fields(language_model.config)}
        own = GptTokenizer.load(text, end_id=fields["text"].get("end_id"))
        tokenizer, fields["text"]["end_id"] = own, own.end_id
    if image is not None:
        embedder, section, fields["embed_dim"], told = load_embedder(image)
        fields |= {"image": section.model_dump(), **told}
    if tokenizer is None:
        raise ConfigError("ClipCap: expected a tokenizer, or the folder of a GPT-2 that brings one, found neither; give one")
    if text is None:
        end_id = tokenizer.end_id if isinstance(tokenizer, GptTokenizer) else tokenizer.sep_id
        fields["text"] |= {"vocab_size": len(tokenizer), "pad_id": tokenizer.pad_id, "end_id": end_id}
    try:
        fitted = ClipCapArchitecture.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"ClipCap: expected an architecture that fits its sources, found {error}; change it") from None
    model = build_clipcap(fitted, seed=seed)
    if language_model is not None:
        model.text.load_state_dict(language_model.state_dict())
    if embedder is not None:
        model.embedder = embedder
    return LoadedClipCap(model.eval(), tokenizer)


def save_clipcap(folder: Path | str, loaded: LoadedClipCap) -> None:
    """As `weights.save_model`: a folder that appears whole and holds all, frozen parts too."""
    save_model(folder, cast(Any, loaded.model), cast(Any, loaded.architecture), cast(Any, loaded.tokenizer))


def load_clipcap(folder: Path | str) -> LoadedClipCap:
    """What `save_clipcap` wrote; on the CPU, in evaluation mode.

    Raises:
        CheckpointError: If a file is missing, or tensors are missing, unexpected or of another shape: all are listed.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, ARCHITECTURE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: expected a capfilt model, found no {', '.join(missing)}; point to a model folder")
    try:
        architecture = ClipCapArchitecture.model_validate(yaml.safe_load((folder / ARCHITECTURE).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, ValidationError) as error:
        raise CheckpointError(f"{folder}: expected a ClipCap, found {error}; copy the folder again") from None
    model = build_clipcap(architecture)
    load_tensors(cast(Any, model), tensors, str(folder / WEIGHTS))
    return LoadedClipCap(model.eval(), load_tokenizer(folder, architecture))
