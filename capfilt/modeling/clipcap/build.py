"""A ClipCap to be trained, assembled of what is there: a GPT-2 and a CLIP of transformers, a MED, fresh weights.

Knows nothing of training. transformers is imported where it is used.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.errors import ConfigError
from capfilt.modeling.build import build
from capfilt.modeling.causal_lm import load_language_model
from capfilt.modeling.clipcap.fields import gpt_fields
from capfilt.modeling.clipcap.image import load_embedder
from capfilt.modeling.clipcap.tokenizer import AnyTokenizer, GptTokenizer
from capfilt.modeling.families import Loaded


def assemble(
    architecture: ClipCapArchitecture,
    *,
    text: str | Path | None,
    image: str | Path | None = None,
    tokenizer: AnyTokenizer | None = None,
    seed: int = 0,
) -> Loaded:
    """A ClipCap to be trained: fresh mapper, published GPT-2 and image side.

    Args:
        architecture: What the sources do not say: mapper, prefix and what learns; their sizes take the place of its own.
        text: A GPT-2 of transformers with its tokenizer, folder or hub name (gpt2-large: ClipCap's own); None: fresh weights.
        image: See `clipcap.image.load_embedder`; None: stored embeddings of width `embed_dim`, or the fresh network of
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
    model = build(fitted, seed=seed)
    if language_model is not None:
        model.text.load_state_dict(language_model.state_dict())
    if embedder is not None:
        model.embedder = embedder
    return Loaded(model.eval(), fitted, tokenizer)
