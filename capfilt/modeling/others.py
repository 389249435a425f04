"""Published checkpoints of every family, as their authors, open_clip, LAVIS or transformers write them, with their tokenizers.

Says whose a folder or file is, by its settings or its tensors' names; how it is read is each family's own. None of these files
brings all that inference needs, so what is missing is looked for beside it:

    BLIP                 vocab.txt of bert-base-uncased
    open_clip CoCa       tokenizer.json (or vocab.json and merges.txt) of CLIP; settings from open_clip_config.json
    BLIP-2 of LAVIS      vocab.txt of bert-base-uncased; stage 2: the language model's folder, `language/`
    ClipCap              tokenizer.json (or vocab.json and merges.txt) of GPT-2; the CLIP that made its embeddings, `clip/`
    SOHO                 vocab.txt of bert-base-uncased

What shapes do not say, such as heads, is the published models' own; an `architecture.yaml` beside a file may say otherwise. So it
is with the token that ends the texts of a stage 2 (`language.eos_id`): a line break for OPT, else the language model's own.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, assert_never

from torch import Tensor

from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.original import PROJECTIONS, blip2_from_original, qformer_from_original
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.tokenizer import LanguageTokenizer, line_break
from capfilt.modeling.blip2.transformers_folder import load_blip2
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.original import MAPPER
from capfilt.modeling.clipcap.original import from_original as clipcap_from_original
from capfilt.modeling.clipcap.tokenizer import GptTokenizer
from capfilt.modeling.coca.checkpoint import from_original as coca_from_original
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.coca.tokenizer import ClipTokenizer
from capfilt.modeling.find import CLIP, LANGUAGE
from capfilt.modeling.med.checkpoints.original import from_original as med_from_original
from capfilt.modeling.med.checkpoints.transformers_folder import load_transformers
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import read_fields
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.soho.original import from_original as soho_from_original
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.transformers_files import CONFIG, read_json
from capfilt.modeling.weights import ARCHITECTURE, read_weights
from capfilt.modeling.weights import WEIGHTS as OWN_WEIGHTS

OPEN_CLIP, VOCABULARY = "open_clip_config.json", "vocab.txt"
WEIGHTS = ("*.pth", "*.pt", "*.bin", "*.safetensors")
Family = Literal["med", "coca", "blip2", "clipcap", "soho"]
Source = Path | str | None
Other = tuple[MED | CoCa | QFormer | Blip2 | ClipCap | SOHO, Tokenizer | ClipTokenizer | GptTokenizer | LanguageTokenizer]


def load_other(path: Path, vocabulary: Source = None) -> Other:
    """The network, in evaluation mode, and its tokenizer.

    Args:
        path: A folder or file.
        vocabulary: In place of the tokenizer beside the weights: bert-base-uncased's vocab.txt; of a CoCa, a ClipCap or a
            stage 2, a folder or hub name with the tokenizer.

    Raises:
        CheckpointError: If there is none, what belongs to it is missing, or tensors are missing, unexpected or of another shape:
            all are listed.
    """
    if _is_transformers(path):
        return load_blip2(path, vocabulary) if kind_of(path) == "blip2" else load_transformers(path, vocabulary)
    file = _weights_of(path)
    theirs = read_weights(file)
    family = family_of(theirs)
    match family:
        case "med":
            return _med(file, theirs, vocabulary)
        case "coca":
            return _coca(file, theirs, vocabulary)
        case "blip2":
            return _blip2(file, theirs, vocabulary)
        case "clipcap":
            return _clipcap(file, theirs, vocabulary)
        case "soho":
            return _soho(file, theirs, vocabulary)
        case _:
            assert_never(family)


def kind_of(path: Path) -> Family:
    """Whose a folder or file is, before anything is built of it.

    Raises:
        CheckpointError: If there are no weights.
    """
    if _is_transformers(path):
        return "blip2" if read_json(path / CONFIG).get("model_type") == "blip-2" else "med"
    return family_of(read_weights(_weights_of(path)))


def family_of(names: Iterable[str]) -> Family:
    """Whose tensors these are, by names that no other family has; a MED's, which will say what it misses, where nobody's."""
    for name in names:
        if name.startswith(("text_decoder.cross_attn.", "visual.attn_pool.")):
            return "coca"
        if name == "query_tokens" or name.startswith("Qformer."):
            return "blip2"
        if name.startswith(MAPPER):
            return "clipcap"
        if name.startswith(("neck.vq.", "language.bert.")):
            return "soho"
    return "med"


def _is_transformers(path: Path) -> bool:
    return (path / CONFIG).is_file() and not (path / OPEN_CLIP).is_file()


def _weights_of(folder: Path) -> Path:
    """The folder's one file of weights; of several kinds of the same, as hubs keep them, the safetensors. A file is its own."""
    if not folder.is_dir():
        return folder
    found = sorted({file for pattern in WEIGHTS for file in folder.glob(pattern)})
    safe = [file for file in found if file.suffix == ".safetensors"]
    for files in (found, safe):
        if len(files) == 1:
            return files[0]
    missing = ", ".join(name for name in (OWN_WEIGHTS, ARCHITECTURE) if not (folder / name).is_file())
    several = f" and {len(found)} files of weights" if found else ""
    raise CheckpointError(f"{folder}: expected a capfilt model, found no {missing}{several}; point to a model folder or one file")


def _med(file: Path, theirs: dict[str, Tensor], vocabulary: Source) -> tuple[MED, Tokenizer]:
    tokenizer = _bert(file, vocabulary)
    special = {"pad_id": tokenizer.pad_id, "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
    model = med_from_original(theirs, _told(file, special), source=str(file), keep_training=False)
    _require_size(file, len(tokenizer), model.config.text.vocab_size)
    return model, tokenizer


def _coca(file: Path, theirs: dict[str, Tensor], vocabulary: Source) -> tuple[CoCa, ClipTokenizer]:
    settings = file.with_name(OPEN_CLIP)
    told = _flat(dict(read_fields(settings))) if settings.is_file() else {}
    tokenizer = ClipTokenizer.load(vocabulary or file.parent)
    special = {"vocabulary": "clip", "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
    model = coca_from_original(theirs, {**told, **_told(file, special)}, source=str(file))
    _require_size(file, len(tokenizer), model.config.text.vocab_size)
    return model, tokenizer


def _told(file: Path, text: dict[str, Any]) -> dict[str, Any]:
    """Fields of the `architecture.yaml` beside a file, where there is one; the tokenizer's in `text`."""
    settings = file.with_name(ARCHITECTURE)
    told = dict(read_fields(settings)) if settings.is_file() else {}
    return {**told, "text": {**told.get("text", {}), **text}}


def _flat(told: dict[str, Any]) -> dict[str, Any]:
    """open_clip's settings without the level that its hub folders put around them."""
    pixels = told.pop("preprocess_cfg", {})
    told |= {f"image_{key}": tuple(pixels[key]) for key in ("mean", "std") if key in pixels}
    return {**told.pop("model_cfg", {}), **told}


def _blip2(file: Path, theirs: dict[str, Tensor], vocabulary: Source) -> Other:
    if any(name.startswith(PROJECTIONS) for name in theirs):
        folder = file.with_name(LANGUAGE)
        if not folder.is_dir():
            raise CheckpointError(
                f"{file}: expected the language model of stage 2, since such a file brings none, found no {folder}. Put the "
                "transformers folder of the one it was trained with there"
            )
        told = _told(file, {})
        own: dict[str, Any] = dict(told.get("language") or {})
        if own.get("eos_id") is None and any(name.startswith("opt_proj") for name in theirs):
            own["eos_id"] = line_break(vocabulary or folder)  # where LAVIS ends OPT's texts
        language = FrozenLanguage.load(folder, eos_id=own.get("eos_id"))
        told["language"] = {**own, "checkpoint": str(folder)}
        stage_2 = blip2_from_original(theirs, language, told, source=str(file))
        return stage_2, LanguageTokenizer.load(vocabulary or folder, language)
    tokenizer = _bert(file, vocabulary)
    special = {"pad_id": tokenizer.pad_id, "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
    stage_1 = qformer_from_original(theirs, _told(file, special), source=str(file))
    # LAVIS appends [DEC] alone; ours has [ENC] behind it.
    _require_size(file, len(tokenizer) - 1, stage_1.config.text.vocab_size)
    tokenizer.keep_below(stage_1.config.text.vocab_size)
    return stage_1, tokenizer


def _clipcap(file: Path, theirs: dict[str, Tensor], vocabulary: Source) -> tuple[ClipCap, GptTokenizer]:
    model = clipcap_from_original(theirs, _told(file, {}), source=str(file))
    text = model.config.text
    tokenizer = GptTokenizer.load(vocabulary or file.parent, end_id=text.end_id, pad_id=text.pad_id)
    _require_size(file, len(tokenizer), text.vocab_size)
    if file.with_name(CLIP).is_dir():
        model.with_image_side(file.with_name(CLIP))
    return model.eval(), tokenizer


def _soho(file: Path, theirs: dict[str, Tensor], vocabulary: Source) -> tuple[SOHO, Tokenizer]:
    tokenizer = _bert(file, vocabulary)
    special = {"pad_id": tokenizer.pad_id, "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
    model = soho_from_original(theirs, _told(file, {**special, "mask_id": tokenizer.mask_id}), source=str(file))
    _require_size(file, len(tokenizer) - 2, model.config.text.vocab_size)
    tokenizer.keep_below(model.config.text.vocab_size)
    return model, tokenizer


def _bert(file: Path, vocabulary: Source) -> Tokenizer:
    listing = Path(vocabulary) if vocabulary is not None else file.with_name(VOCABULARY)
    if not listing.is_file():
        raise CheckpointError(
            f"{file}: expected a vocabulary, since such a file brings none, found no {listing}. "
            f"Put bert-base-uncased's {VOCABULARY} beside the checkpoint, or give `vocabulary`"
        )
    return Tokenizer.from_vocab(listing)


def _require_size(file: Path, found: int, expected: int) -> None:
    if found != expected:
        raise CheckpointError(
            f"{file}: expected a tokenizer of {expected} tokens, found {found}. Give the one that the weights were trained with"
        )
