"""A trained network of any family as a folder, and back.

Knows nothing of training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from capfilt.config.architecture import MedArchitecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture, ClipImage
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.families import AnyArchitecture, load_any_architecture
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.round import Pixels
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.blip2.build import build_blip2
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.tokenizer import LanguageTokenizer
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.tokenizer import GptTokenizer, load_tokenizer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.coca.tokenizer import ClipTokenizer
from capfilt.modeling.inference import Inference, model_name
from capfilt.modeling.med.checkpoints.find import LANGUAGE, find_checkpoint
from capfilt.modeling.med.network import MED
from capfilt.modeling.others import load_other
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import ARCHITECTURE, WEIGHTS, load_model, load_tensors, save_model

LANGUAGE_TOKENIZER = "tokenizer_config.json"
"""transformers' file by which a language model's tokenizer is known from WordPiece."""
Network = MED | CoCa | QFormer | Blip2 | ClipCap | SOHO
AnyTokenizer = Tokenizer | ClipTokenizer | GptTokenizer | LanguageTokenizer


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, with what belongs to it."""

    model: Network
    architecture: AnyArchitecture
    tokenizer: AnyTokenizer
    takes_middle: bool = False
    """Of a picture the middle square, as the network was trained to see it; else the whole picture, squeezed."""


def build_network(architecture: AnyArchitecture, *, seed: int = 0) -> Network:
    """The network, weights drawn from `seed` alone; torch's global generator is left as it was.

    A BLIP-2's language model is loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match architecture:
            case MedArchitecture():
                return MED(architecture)
            case CocaArchitecture():
                return CoCa(architecture)
            case Blip2Architecture():
                return build_blip2(architecture, seed=seed)
            case ClipCapArchitecture():
                return ClipCap(architecture)
            case SohoArchitecture():
                return SOHO(architecture)
            case _:
                assert_never(architecture)


def save_network(folder: Path | str, loaded: Loaded) -> None:
    """As `weights.save_model`, for every family. A BLIP-2 takes along a language model that has no hub name."""
    model, architecture, tokenizer = loaded.model, loaded.architecture, loaded.tokenizer
    if isinstance(model, Blip2) and isinstance(architecture, Blip2Architecture) and architecture.language is not None:
        checkpoint = architecture.language.checkpoint
        if checkpoint is None or Path(checkpoint).exists():
            inside = architecture.language.model_copy(update={"checkpoint": LANGUAGE})
            architecture = architecture.model_copy(update={"language": inside})
            parts: Any = (model, architecture, tokenizer)
            save_model(folder, *parts, beside=lambda fresh: model.language.model.save_pretrained(fresh / LANGUAGE))
            return
    save_model(folder, cast(Any, model), cast(Any, architecture), cast(Any, tokenizer))


def load_language(source: Path | str, *, eos_id: int | None = None) -> tuple[FrozenLanguage, AnyTokenizer]:
    """A language model to be left as it is, with its tokenizer: transformers', or the GPT-2 of a ClipCap.

    Raises:
        CheckpointError: If there is none.
    """
    folder = find_checkpoint(source)
    if not (folder / ARCHITECTURE).is_file():
        language = FrozenLanguage.load(folder, eos_id=eos_id)
        return language, LanguageTokenizer.load(folder, language)
    loaded = load_network(folder)
    if not isinstance(loaded.model, ClipCap):
        raise CheckpointError(
            f"{source}: expected a language model or a ClipCap, found a {loaded.architecture.kind}. Name another"
        )
    return FrozenLanguage(loaded.model.text, eos_id=loaded.model.config.text.end_id), loaded.tokenizer


def load_network(source: Path | str, *, vocabulary: Path | str | None = None) -> Loaded:
    """What `save_network` wrote, or any published checkpoint; on the CPU, in evaluation mode.

    Args:
        source: A folder, a file or a hub name: see `weights.load_model` for MEDs, `others` for the other families.
        vocabulary: In place of the tokenizer beside the weights.

    Raises:
        CheckpointError: If a file is missing, or tensors are missing, unexpected or of another shape: all are listed.
    """
    folder = find_checkpoint(source)
    if not (folder / ARCHITECTURE).is_file() or not (folder / WEIGHTS).is_file():
        other = load_other(folder, vocabulary)
        if other is not None:
            # open_clip and OpenAI's CLIP cut; a CoCa that was trained here has seen whole pictures.
            cut = isinstance(other.model, CoCa) or isinstance(other.architecture.image, ClipImage)
            return Loaded(other.model, other.architecture, other.tokenizer, takes_middle=cut)
        med = load_model(source, vocabulary=vocabulary)
        return Loaded(med.model, med.architecture, med.tokenizer)
    architecture = load_any_architecture(folder / ARCHITECTURE)
    if isinstance(architecture, Blip2Architecture) and architecture.language is not None and (folder / LANGUAGE).is_dir():
        inside = architecture.language.model_copy(update={"checkpoint": str(folder / LANGUAGE)})
        architecture = architecture.model_copy(update={"language": inside})
    model = build_network(architecture)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: expected safetensors, found {error}; copy the file again") from None
    load_tensors(cast(Any, model), tensors, str(folder / WEIGHTS))
    is_clip = isinstance(architecture.image, ClipImage)
    return Loaded(model.eval(), architecture, _tokenizer(folder, architecture, model), takes_middle=is_clip)


def image_side(architecture: AnyArchitecture) -> int:
    """Side of the square pictures in pixels.

    Raises:
        ConfigError: If the network takes no pictures.
    """
    if architecture.image is None:
        raise ConfigError("expected a network that takes pictures, found one for stored embeddings alone (`image: null`)")
    return architecture.image.size


def load_inference(
    folder: str,
    *,
    kind: str | None = None,
    batch_size: int,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    pixels: Pixels = "exact",
    vocabulary: str | Path | None = None,
) -> Inference:
    """The network at work on a device; arguments as of `Inference.load`.

    Raises:
        CheckpointError: If there is none, or it is of another family than `kind`.
    """
    loaded = load_network(folder, vocabulary=vocabulary)
    if kind not in (None, loaded.architecture.kind):
        raise CheckpointError(
            f"{folder}: expected a model of kind {kind}, found a {loaded.architecture.kind}. Correct the kind or the folder"
        )
    image_side(loaded.architecture)
    parts: Any = (loaded.model, loaded.architecture, loaded.tokenizer)
    made = Inference(model_name(folder), *parts, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels)
    made.takes_middle = loaded.takes_middle
    # A SOHO's filter needs its features before they are tokens.
    if isinstance(loaded.model, SOHO):
        made.encode = loaded.model.visual_features
    return made


def _tokenizer(folder: Path, architecture: AnyArchitecture, model: Network) -> AnyTokenizer:
    if isinstance(architecture, ClipCapArchitecture):
        return load_tokenizer(folder, architecture)
    if isinstance(model, Blip2) and (folder / LANGUAGE_TOKENIZER).is_file():
        return LanguageTokenizer.load(folder, model.language)
    if isinstance(architecture, CocaArchitecture) and architecture.text.vocabulary == "clip":
        return ClipTokenizer.load(folder)
    found = Tokenizer.load(folder)
    if not isinstance(model, Blip2):  # whose texts are the language model's
        found.keep_below(architecture.text.vocab_size)
    return found
