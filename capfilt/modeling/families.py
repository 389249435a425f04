"""The one way from a folder, a file or a hub name to a network of any family, and from a network to a folder.

Ours are read here, those that others wrote by `others`. Knows nothing of training.
"""

from dataclasses import dataclass
from pathlib import Path

from capfilt.config.architectures import Architecture, load_architecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture, ClipImage
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling import others
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.tokenizer import LanguageTokenizer
from capfilt.modeling.build import Network, build
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.tokenizer import GptTokenizer, load_tokenizer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.coca.tokenizer import ClipTokenizer
from capfilt.modeling.find import LANGUAGE, find_checkpoint
from capfilt.modeling.tokenizer import FILE_NAME, Tokenizer
from capfilt.modeling.transformers_files import read_json
from capfilt.modeling.weights import ARCHITECTURE, WEIGHTS, load_tensors, read_weights, save_model

LANGUAGE_TOKENIZER = "tokenizer_config.json"
"""transformers' file by which a language model's tokenizer is known from WordPiece."""
AnyTokenizer = Tokenizer | ClipTokenizer | GptTokenizer | LanguageTokenizer


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, with what belongs to it."""

    model: Network
    architecture: Architecture
    tokenizer: AnyTokenizer
    takes_middle: bool = False
    """Of a picture the middle square, as the network was trained to see it; else the whole picture, squeezed."""


def load_network(source: Path | str, *, vocabulary: Path | str | None = None) -> Loaded:
    """A trained network of any family with its architecture and tokenizer; on the CPU, in evaluation mode.

    Args:
        source: A folder that `save_network` wrote, or a checkpoint that others did: a folder, a file or a hub name
            (`others` lists them).
        vocabulary: In place of the tokenizer beside others' weights.

    Raises:
        CheckpointError: If a file is missing, or tensors are missing, unexpected or of another shape: all are listed.
    """
    path = find_checkpoint(source)
    if not _is_own(path):
        model, tokenizer = others.load_other(path, vocabulary)
        # open_clip and OpenAI's CLIP cut; a CoCa that was trained here has seen whole pictures.
        is_cut = isinstance(model, CoCa) or isinstance(model.config.image, ClipImage)
        return Loaded(model, model.config, tokenizer, takes_middle=is_cut)
    architecture = load_architecture(path / ARCHITECTURE)
    if isinstance(architecture, Blip2Architecture) and architecture.language is not None and (path / LANGUAGE).is_dir():
        inside = architecture.language.model_copy(update={"checkpoint": str(path / LANGUAGE)})
        architecture = architecture.model_copy(update={"language": inside})
    network: Network = build(architecture)
    load_tensors(network, read_weights(path / WEIGHTS), str(path / WEIGHTS))
    is_clip = isinstance(architecture.image, ClipImage)
    return Loaded(network.eval(), architecture, tokenizer_in(path, architecture, network), takes_middle=is_clip)


def kind_of(source: Path | str) -> str:
    """The family of what `load_network` would load, without building it.

    Raises:
        CheckpointError: If there is no such model.
        ConfigError: If its architecture is none.
    """
    path = find_checkpoint(source)
    return load_architecture(path / ARCHITECTURE).kind if _is_own(path) else others.kind_of(path)


def _is_own(path: Path) -> bool:
    return (path / ARCHITECTURE).is_file() and (path / WEIGHTS).is_file()


def save_network(folder: Path | str, loaded: Loaded) -> None:
    """As `weights.save_model`, for every family. A BLIP-2 takes along a language model that has no hub name."""
    model, architecture, tokenizer = loaded.model, loaded.architecture, loaded.tokenizer
    if isinstance(model, Blip2) and isinstance(architecture, Blip2Architecture) and architecture.language is not None:
        checkpoint = architecture.language.checkpoint
        if checkpoint is None or Path(checkpoint).exists():
            inside = architecture.language.model_copy(update={"checkpoint": LANGUAGE})
            architecture = architecture.model_copy(update={"language": inside})
            language = model.language.model
            save_model(folder, model, architecture, tokenizer, beside=lambda fresh: language.save_pretrained(fresh / LANGUAGE))
            return
    save_model(folder, model, architecture, tokenizer)


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


def tokenizer_in(folder: Path, architecture: Architecture, model: Network) -> AnyTokenizer:
    """The tokenizer that lies in the folder, of the kind that the network reads.

    Raises:
        CheckpointError: If there is none, or none that fits.
    """
    if isinstance(architecture, ClipCapArchitecture):
        return load_tokenizer(folder, architecture)
    if isinstance(model, Blip2) and (folder / LANGUAGE_TOKENIZER).is_file():
        return LanguageTokenizer.load(folder, model.language)
    if isinstance(model, Blip2) and _is_gpts(folder / FILE_NAME):
        return GptTokenizer.load(folder, end_id=model.language.eos_id, pad_id=model.language.pad_id)
    if isinstance(architecture, CocaArchitecture) and architecture.text.vocabulary == "clip":
        return ClipTokenizer.load(folder)
    found = Tokenizer.load(folder)
    if not isinstance(model, Blip2):  # whose texts are the language model's
        found.keep_below(architecture.text.vocab_size)
    return found


def _is_gpts(file: Path) -> bool:
    """Whether a tokenizer.json is the GPT-2's of a ClipCap, and not WordPiece."""
    return file.is_file() and read_json(file).get("model", {}).get("type") != "WordPiece"
