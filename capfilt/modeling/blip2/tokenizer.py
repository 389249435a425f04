"""A language model's own tokenizer with the methods of `capfilt.modeling.tokenizer.Tokenizer`.

So that stage 2's texts reach it by the same way as stage 1's. transformers is imported where it is used.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.find import find_checkpoint
from capfilt.modeling.tokenizer import Int64Array, padded


class LanguageTokenizer:
    """Texts to ids and back; every text ends in `eos_id`, which for OPT in BLIP-2 is a line break."""

    def __init__(self, backend: Any, language: FrozenLanguage) -> None:
        """`backend`: a tokenizer of transformers."""
        self._backend = backend
        self.eos_id, self.pad_id = language.eos_id, language.pad_id
        self._reads_prompt = language.is_encoder_decoder

    @classmethod
    def load(cls, checkpoint: str | Path, language: FrozenLanguage) -> "LanguageTokenizer":
        """From a transformers folder or hub name.

        Raises:
            CheckpointError: If there is none.
        """
        return cls(_read(checkpoint), language)

    def save(self, folder: Path | str) -> None:
        """As transformers does; `load` reads it back."""
        self._backend.save_pretrained(folder)

    def tokens(self) -> list[str]:
        """Token of every id, in order."""
        return [str(token) for token in self._backend.convert_ids_to_tokens(range(len(self._backend)))]

    def encode_batch(self, texts: Sequence[str], max_length: int, *, pad_to: int | None = None) -> tuple[Int64Array, Int64Array]:
        """Ids [R, T] and mask [R, T], padded right; longer texts lose their end but keep the closing token.

        T is the longest text's length, or `pad_to` where given (a fixed length bucket, at least the longest).
        """
        rows = [self._closed(self._backend(text).input_ids, max_length) for text in texts]
        return padded(rows, self.pad_id, pad_to)

    def encode_prompt(self, prompt: str) -> Int64Array:
        """Ids [P]: what a decoder-only model continues, or what an encoder-decoder's encoder reads, closing token included.

        A space at the end belongs to the next token and is left out.
        """
        ids = list(self._backend(prompt.rstrip()).input_ids)
        is_closed = bool(ids) and ids[-1] == self.eos_id
        if self._reads_prompt:
            ids = ids if is_closed else [*ids, self.eos_id]
        elif is_closed and len(ids) > 1:
            ids = ids[:-1]
        return np.asarray(ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first closing token, special tokens left out."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            kept.append(token)
        return str(self._backend.decode(kept, skip_special_tokens=True)).strip()

    def _closed(self, ids: list[int], max_length: int) -> list[int]:
        ids = ids[:-1] if ids and ids[-1] == self.eos_id else ids
        return [*ids[: max_length - 1], self.eos_id]


def line_break(checkpoint: str | Path) -> int | None:
    """The id of a line break, None where it is no token of its own.

    Raises:
        CheckpointError: If there is no tokenizer of that name.
    """
    backend = _read(checkpoint)
    ids = backend("\n", add_special_tokens=False).input_ids
    return int(ids[0]) if len(ids) == 1 and ids[0] != backend.unk_token_id else None


def _read(checkpoint: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(find_checkpoint(checkpoint))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: expected a tokenizer, found {reason}. Save the model's there") from None
