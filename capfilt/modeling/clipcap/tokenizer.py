"""GPT-2's tokenizer with the interface of `capfilt.modeling.tokenizer.Tokenizer`; no token stands before a text.

Knows nothing of networks.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend

from capfilt.config.architectures.clipcap import ClipCapArchitecture, GptConfig
from capfilt.errors import CheckpointError
from capfilt.modeling.tokenizer import Backed, Int64Array, Tokenizer, padded, read_backend

END_OF_TEXT = "<|endoftext|>"


class GptTokenizer(Backed):
    """Texts to ids and back. A text ends with `end_id`: <|endoftext|>, which nobody sees, or a token that belongs to the text,
    such as the full stop."""

    def __init__(self, backend: Backend, *, end_id: int, pad_id: int = 0) -> None:
        super().__init__(backend)
        self.end_id = end_id
        self.pad_id = pad_id
        self._ends_unseen = backend.id_to_token(end_id) == END_OF_TEXT
        if not 0 <= end_id < len(self):
            raise CheckpointError(f"tokenizer: expected an end_id below its {len(self)} tokens, found {end_id}; correct it")

    @classmethod
    def load(cls, source: Path | str, *, end_id: int | None = None, pad_id: int = 0) -> "GptTokenizer":
        """From a folder or hub name with tokenizer.json, or with vocab.json and merges.txt.

        Args:
            end_id: The token that ends a text; None is <|endoftext|>.

        Raises:
            CheckpointError: If there is no such tokenizer.
        """
        backend = read_backend(source, _from_parts, "GPT-2's", "Copy the files again")
        found = backend.token_to_id(END_OF_TEXT) if end_id is None else end_id
        if found is None:
            raise CheckpointError(f"{source}: expected the token {END_OF_TEXT}, found none; say which id ends a text")
        return cls(backend, end_id=int(found), pad_id=pad_id)

    def tokens(self) -> list[str]:
        """What each id stands for as text, spaces included, in order."""
        return [str(self._backend.decode([i], skip_special_tokens=False)) for i in range(len(self))]

    def encode_batch(self, texts: Sequence[str], max_length: int, *, pad_to: int | None = None) -> tuple[Int64Array, Int64Array]:
        """Ids [R, T] and mask [R, T] of each text and its ending token; longer texts lose their end but keep that token.

        T is the longest text's length, or `pad_to` where given (a fixed length bucket, at least the longest).
        """
        rows = [self._ended(ids, max_length) for ids in self._ids(texts)]
        return padded(rows, self.pad_id, pad_to)

    def encode_prompt(self, prompt: str) -> Int64Array:
        """Ids [P] of the prompt: what generation continues. A space at its end belongs to the next token and is left out."""
        return np.asarray(self._ids([prompt.rstrip()])[0], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first ending token, which belongs to it if it can be seen."""
        kept: list[int] = []
        for token in map(int, ids):
            if token != self.end_id or not self._ends_unseen:
                kept.append(token)
            if token == self.end_id:
                break
        return str(self._backend.decode(kept, skip_special_tokens=True)).strip()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def _ended(self, ids: list[int], max_length: int) -> list[int]:
        ids = ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]
        return ids if len(ids) <= max_length else [*ids[: max_length - 1], self.end_id]


def _from_parts(path: Path) -> Backend:
    from transformers import AutoTokenizer

    backend: Backend = AutoTokenizer.from_pretrained(path).backend_tokenizer
    return backend


AnyTokenizer = Tokenizer | GptTokenizer


def load_tokenizer(folder: Path | str, architecture: ClipCapArchitecture) -> AnyTokenizer:
    """The tokenizer of a ClipCap: GPT-2's, or WordPiece that was trained with it.

    Raises:
        CheckpointError: If it is missing or does not fit the architecture.
    """
    text: GptConfig = architecture.text
    found: AnyTokenizer
    if text.vocabulary == "gpt2":
        found = GptTokenizer.load(folder, end_id=text.end_id, pad_id=text.pad_id)
    else:
        found = Tokenizer.load(folder)
    if len(found) != text.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of {text.vocab_size} tokens, found {len(found)}; give the model's own"
        )
    return found
