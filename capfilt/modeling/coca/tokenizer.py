"""CLIP's byte pairs, as open_clip's CoCas read texts, with the methods of `capfilt.modeling.tokenizer.Tokenizer`.

Knows nothing of networks. HTML entities become their characters, as in open_clip; its repair of broken encodings (ftfy) is left
out.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend

from capfilt.errors import CheckpointError
from capfilt.modeling.tokenizer import Backed, Int64Array, padded, read_backend

START, END = "<|startoftext|>", "<|endoftext|>"
OLD_START = "<start_of_text>"
"""open_clip's own spelling, in folders that its tokenizer was saved to; the end's is `<end_of_text>`."""
OLD_END = "<end_of_text>"


class ClipTokenizer(Backed):
    """Texts to ids and back: start token, text, end token; padded with 0, as open_clip pads."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.cls_id, self.sep_id = self._id(START, OLD_START), self._id(END, OLD_END)
        self.pad_id = 0

    @classmethod
    def load(cls, source: Path | str) -> "ClipTokenizer":
        """From a folder or hub name with tokenizer.json, or with vocab.json and merges.txt.

        Raises:
            CheckpointError: If there is no such tokenizer.
        """
        advice = "Put them beside the weights, or give `vocabulary`, a folder or hub name that has them"
        return cls(read_backend(source, _from_parts, "CLIP's", advice))

    def encode_batch(self, texts: Sequence[str], max_length: int, *, pad_to: int | None = None) -> tuple[Int64Array, Int64Array]:
        """Ids [R, T] and mask [R, T], padded right; longer texts lose their end but keep the end token.

        T is the longest text's length, or `pad_to` where given (at least the longest).
        """
        rows = [self._framed(text, max_length) for text in texts]
        return padded(rows, self.pad_id, pad_to)

    def encode_prompt(self, prompt: str) -> Int64Array:
        """Ids [P] of start token and prompt: what generation continues."""
        return np.asarray([self.cls_id, *self._ids(prompt)], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end token, start and end left out."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.sep_id:
                break
            if token != self.cls_id:
                kept.append(token)
        return str(self._backend.decode(kept, skip_special_tokens=True)).strip()

    def _framed(self, text: str, max_length: int) -> list[int]:
        return [self.cls_id, *self._ids(text)[: max_length - 2], self.sep_id]

    def _ids(self, text: str) -> list[int]:
        clean = " ".join(html.unescape(html.unescape(text)).split())
        return [int(i) for i in self._backend.encode(clean, add_special_tokens=False).ids]

    def _id(self, *names: str) -> int:
        found = next((i for i in map(self._backend.token_to_id, names) if i is not None), None)
        if found is None:
            raise CheckpointError(f"tokenizer: expected the token {names[0]}, found none; use CLIP's vocabulary")
        return int(found)


def _from_parts(path: Path) -> Backend:
    from transformers import CLIPTokenizerFast

    absent = [name for name in ("vocab.json", "merges.txt") if not (path / name).is_file()]
    if absent:  # transformers would make an empty one
        raise FileNotFoundError(f"no {' and no '.join(absent)}")
    backend: Backend = CLIPTokenizerFast.from_pretrained(path).backend_tokenizer
    return backend
