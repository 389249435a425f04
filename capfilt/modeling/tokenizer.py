"""WordPiece as BERT uses it, with BLIP's two further tokens [DEC] and [ENC] at the end of the vocabulary.

Knows nothing of networks. Training is deterministic: the same set of texts gives the same vocabulary, in any order.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from capfilt.errors import CheckpointError
from capfilt.modeling.find import find_checkpoint
from capfilt.modeling.wordpiece import train_wordpiece

Int64Array = npt.NDArray[np.int64]
FILE_NAME = "tokenizer.json"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Backed:
    """What our tokenizers have in common: all are kept as one tokenizer.json."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._backend.no_padding()
        self._backend.no_truncation()

    def save(self, folder: Path | str) -> None:
        (Path(folder) / FILE_NAME).write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    def tokens(self) -> list[str]:
        """Token of every id, in order."""
        return [str(self._backend.id_to_token(i)) for i in range(len(self))]

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size())


class Tokenizer(Backed):
    """Texts to ids and back."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._id(token) for token in SPECIALS)
        self.dec_id, self.enc_id = self._id("[DEC]"), self._id("[ENC]")
        self._known = len(self)

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> "Tokenizer":
        """From a BERT vocabulary, one token per id in order, specials included; [DEC] and [ENC] are appended."""
        missing = [token for token in SPECIALS if token not in tokens]
        if missing:
            raise CheckpointError(
                f"vocabulary: expected BERT's special tokens, found no {', '.join(missing)}; use a BERT vocabulary"
            )
        backend = Backend(WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
        backend.normalizer = BertNormalizer(lowercase=True)
        backend.pre_tokenizer = BertPreTokenizer()
        backend.decoder = WordPieceDecoder()
        backend.add_special_tokens([*SPECIALS, "[DEC]", "[ENC]"])
        ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
        return cls(backend)

    @classmethod
    def from_vocab(cls, path: Path | str) -> "Tokenizer":
        """From a `vocab.txt`, one token per line."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a vocabulary with one token per line, found no file; check the name")
        return cls.from_tokens(path.read_text(encoding="utf-8").splitlines())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """WordPiece on these texts; at most `vocab_size` ids with all special tokens, fewer where the texts hold no more."""
        normalise, split = BertNormalizer(lowercase=True), BertPreTokenizer()
        words: dict[str, int] = {}
        for text in texts:
            for word, _ in split.pre_tokenize_str(normalise.normalize_str(text)):
                words[word] = words.get(word, 0) + 1
        return cls.from_tokens([*SPECIALS, *train_wordpiece(words, vocab_size - len(SPECIALS) - 2)])

    @classmethod
    def load(cls, folder: Path | str, *, complete: bool = False) -> "Tokenizer":
        """From a folder's tokenizer.json. `complete`: append [DEC] and [ENC] where a plain BERT tokenizer lacks them."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a tokenizer, found no file; point to a folder written by capfilt")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # what `tokenizers` raises is an Exception and nothing narrower
            raise CheckpointError(f"{path}: expected a tokenizer, found {error}. Copy the file again") from None
        if complete:
            backend.add_special_tokens(["[DEC]", "[ENC]"])
        return cls(backend)

    def keep_below(self, vocab_size: int) -> None:
        """For a network that has no place for [DEC] or [ENC]: a text that spells an id from `vocab_size` on gets [UNK] there."""
        self._known = min(vocab_size, len(self))

    def encode_batch(self, texts: Sequence[str], max_length: int, *, pad_to: int | None = None) -> tuple[Int64Array, Int64Array]:
        """Ids [R, T] and mask [R, T] of [CLS] text [SEP]; longer texts lose their end but keep [SEP].

        T is the longest text's length, or `pad_to` where given (a fixed length bucket, at least the longest).
        """
        rows = [self._cut(self._seen(encoding.ids), max_length) for encoding in self._backend.encode_batch(list(texts))]
        return padded(rows, self.pad_id, pad_to)

    def encode_prompt(self, prompt: str) -> Int64Array:
        """Ids [P] of [CLS] prompt without [SEP]: what generation continues."""
        return np.asarray(self._seen(self._backend.encode(prompt).ids[:-1]), dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first [SEP], special tokens left out."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.sep_id:
                break
            kept.append(token)
        return str(self._backend.decode(kept, skip_special_tokens=True))

    def _seen(self, ids: list[int]) -> list[int]:
        return ids if self._known == len(self) else [i if i < self._known else self.unk_id for i in ids]

    def _cut(self, ids: list[int], max_length: int) -> list[int]:
        return ids if len(ids) <= max_length else [*ids[: max_length - 1], self.sep_id]

    def _id(self, token: str) -> int:
        found = self._backend.token_to_id(token)
        if found is None:
            raise CheckpointError(f"tokenizer: expected the token {token}, found none; use a BERT WordPiece vocabulary")
        return int(found)


def padded(rows: Sequence[Sequence[int]], pad_id: int, pad_to: int | None) -> tuple[Int64Array, Int64Array]:
    """Ids [R, T] and mask [R, T] of the rows, padded right; T is the longest's length, or `pad_to` where given."""
    width = max([pad_to or 0, *map(len, rows)])
    ids_RT = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask_RT = np.zeros((len(rows), width), dtype=np.int64)
    for row, ids in enumerate(rows):
        ids_RT[row, : len(ids)] = ids
        mask_RT[row, : len(ids)] = 1
    return ids_RT, mask_RT


def read_backend(source: Path | str, from_parts: Callable[[Path], Backend], whose: str, advice: str) -> Backend:
    """Byte pairs of a folder or hub name: its tokenizer.json, else what `from_parts` makes of vocab.json and merges.txt.

    Raises:
        CheckpointError: If there is neither; says `whose` they were to be, and `advice`.
    """
    path = find_checkpoint(source)
    try:
        return Backend.from_file(str(path / FILE_NAME)) if (path / FILE_NAME).is_file() else from_parts(path)
    except Exception as error:  # what `tokenizers` raises is an Exception and nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source}: expected {whose} tokenizer.json, or vocab.json and merges.txt, found {reason}. {advice}"
        ) from None
