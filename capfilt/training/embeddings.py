"""A ClipCap trained from a table of stored image embeddings and texts: no picture is decoded, so a captioner per data source
or style takes minutes.

The embeddings are the line's own (column `embedding` of a round's candidates) or anybody's. Knows nothing of rounds or runs.

Axes at the end of array names: P embeddings, N pairs, B pairs of a batch, E width of an embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.base import is_operational
from capfilt.config.train import Embeddings, OptimConfig
from capfilt.errors import ConfigError, InputError
from capfilt.identity import content_hash, fingerprint, stage_seed
from capfilt.modeling.clipcap.batch import EmbeddedBatch
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.training import ClipCapTraining
from capfilt.modeling.families import AnyTokenizer, Loaded, load_network, save_network
from capfilt.sources.tables import open_table
from capfilt.training.batches import EndlessShuffle, Tokens
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.loop import StepReport, train

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
OnStep = Callable[[StepReport], None]


@dataclass(frozen=True)
class EmbeddingPairs:
    """N pairs over P embeddings."""

    embed_PE: Float32Array
    texts: list[str]
    """[N]"""
    embedding_of: Int64Array
    """[N], row of `embed_PE`."""

    def __len__(self) -> int:
        return len(self.texts)


def read_embeddings(
    files: Sequence[str | Path],
    *,
    embedding: str = "embedding",
    text: str = "text",
    where: Mapping[str, Any] | None = None,
    min_itm: float = 0.5,
) -> EmbeddingPairs:
    """All pairs of the Parquet files, in their order; rows without an embedding and blank texts are left out.

    Args:
        embedding: Column of lists of numbers, all of one length.
        text: Column of texts, or of lists of texts: all are learnt. Or the `captions` of a candidates table: of these, the texts
            that no rule rejected and the first filter gives at least `min_itm`.
        where: Column -> value; only rows that have these, such as those of one data source.

    Raises:
        InputError: If a file is missing, lacks a column, or embeddings differ in width, or none is left.
    """
    asked = dict(where or {})
    parts: list[Float32Array] = []
    texts: list[str] = []
    embedding_of: list[int] = []
    rows = 0
    for path in files:
        columns = [embedding, text, *asked]
        table = open_table(str(path), columns, "embeddings and texts").read(columns=columns)
        told = [_told(one, min_itm) for one in table[text].to_pylist()]
        values = zip(*(table[name].to_pylist() for name in asked), strict=True) if asked else [()] * len(told)
        has_vector = table[embedding].is_valid().to_pylist()
        kept = [
            bool(own and valid and [*mine] == [*asked.values()])
            for own, valid, mine in zip(told, has_vector, values, strict=True)
        ]
        if not any(kept):
            continue
        parts.append(_vectors(table[embedding].filter(pa.array(kept)), str(path)))
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise InputError(
                f"{path}: expected embeddings of width {parts[0].shape[1]}, found {parts[-1].shape[1]}; take those of one model"
            )
        for own in (own for own, is_kept in zip(told, kept, strict=True) if is_kept):
            texts += own
            embedding_of += [rows] * len(own)
            rows += 1
    if not parts:
        raise InputError(
            f"{', '.join(map(str, files)) or 'no file'}: expected rows with `{embedding}` and `{text}`"
            f"{f' where {asked}' if asked else ''}, found none; check the columns' names and values"
        )
    return EmbeddingPairs(np.concatenate(parts), texts, np.asarray(embedding_of, dtype=np.int64))


def embedding_files(config: Embeddings) -> list[str]:
    """The Parquet files of `paths`, those of a folder in the order of their names.

    Raises:
        InputError: If a path matches nothing.
    """
    found: list[str] = []
    for path in config.paths:
        system, inner = fsspec.core.url_to_fs(path)
        hits = sorted(system.glob(f"{inner.rstrip('/')}/*.parquet" if system.isdir(inner) else inner))
        if not hits:
            raise InputError(
                f"finetune.captioner.embeddings.paths: expected Parquet files at {path}, found none; correct the path"
            )
        found += [str(system.unstrip_protocol(hit)) if "://" in path else str(hit) for hit in hits]
    return found


def stored_pairs(config: Embeddings) -> EmbeddingPairs:
    """What a pipeline's `embeddings` names; see `read_embeddings`."""
    asked = {"embedding": config.embedding, "text": config.text}
    return read_embeddings(embedding_files(config), **asked, where=config.where, min_itm=config.min_itm)


def _told(one: str | Sequence[str | Mapping[str, Any] | None] | None, min_itm: float) -> list[str]:
    """Without blank texts, and of candidates without the rejected ones."""
    texts = [one] if isinstance(one, str) else [_kept(text, min_itm) for text in one or []]
    return [text for text in texts if text and text.strip()]


def _kept(text: str | Mapping[str, Any] | None, min_itm: float) -> str | None:
    if not isinstance(text, Mapping):
        return text
    itm = next((score["itm"] for score in text["scores"] or [] if score["itm"] is not None), None)
    is_rejected = text["rule"] is not None or text["error"] is not None or (itm is not None and itm < min_itm)
    return None if is_rejected else text["text"]


def _vectors(column: pa.ChunkedArray, path: str) -> Float32Array:
    """Lists of numbers as one array, without a Python object for each number."""
    widths = set(pc.list_value_length(column).to_pylist())
    if len(widths) != 1:
        raise InputError(f"{path}: expected embeddings of one width, found {sorted(widths)}; take those of one model")
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return flat.astype(np.float32).reshape(len(column), widths.pop())


class EmbeddedBatches:
    """Step -> batch: an endless shuffle of the pairs, a pure function of the step.

    Args:
        max_length: Tokens of a text, the ending one counted; the prompt comes on top.
        prompt: Put before every text.
        seed: Of the order.
        device: Where the batches go.
    """

    def __init__(
        self,
        pairs: EmbeddingPairs,
        tokenizer: AnyTokenizer,
        *,
        batch_size: int,
        max_length: int,
        seed: int,
        device: str = "cpu",
        prompt: str = "",
    ) -> None:
        self.pairs = batch_size
        self.steps_per_epoch = ceil(len(pairs) / batch_size)
        self._source = pairs
        self._device = device
        self._order = EndlessShuffle(len(pairs), seed)
        longest = max_length + len(tokenizer.encode_prompt(prompt)) - len(tokenizer.encode_prompt(""))
        self._tokens = Tokens([prompt + text for text in pairs.texts], tokenizer, longest)

    def content(self) -> str:
        """Hash of what is drawn from."""
        source = self._source
        return content_hash(*self._tokens.content(), source.embed_PE.tobytes(), source.embedding_of.tobytes(), str(self.pairs))

    def __call__(self, step: int) -> Any:
        """The `EmbeddedBatch` of step 0, 1, 2 …"""
        return self.take(self._order.take(step * self.pairs, self.pairs))

    def take(self, index_B: Int64Array) -> EmbeddedBatch:
        """These pairs."""
        ids_BT, mask_BT = self._tokens.take(index_B)
        embed_BE = self._source.embed_PE[self._source.embedding_of[index_B]]
        return EmbeddedBatch(torch.from_numpy(embed_BE), torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)).to(self._device)


def train_on_embeddings(
    config: OptimConfig,
    pairs: EmbeddingPairs,
    start: Loaded,
    *,
    out: Path,
    work: Path,
    seed: int,
    device: str = "cpu",
    prompt: str = "",
    on_step: OnStep = lambda report: None,
) -> None:
    """Train `start`, in place, on the pairs and write the model folder; nothing is done where the folder exists.

    What learns is its architecture's `learns`: the mapper, or GPT-2 too. A stopped training goes on from its checkpoint, given
    the same `start`.

    Args:
        config: Steps, rates, batch size; its loss is `lm`.
        pairs: Their embeddings must be those of the image side that will caption.
        start: From `clipcap.build.assemble` or `load_network`.
        out: The model folder to write.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's.
        prompt: Seen before every text and not learnt; captions will be asked for with the same.

    Raises:
        ConfigError: If the embeddings or the prompt do not fit the network.
        CapfiltError: If a loss is no finite number.
    """
    if out.exists():
        return
    model = clipcap_of(start).to(device)
    own_seed = stage_seed(seed, "train_on_embeddings")
    batches = batches_for(start, pairs, config.batch_size, seed=own_seed, device=device, prompt=prompt)
    module = ClipCapTraining(model, prompt_length=len(start.tokenizer.encode_prompt(prompt)))
    result = {name for name, field in OptimConfig.model_fields.items() if not is_operational(field)}
    settings = config.model_dump(mode="json", include=result)
    mark = fingerprint([settings, own_seed, prompt, batches.content(), model.config.model_dump(mode="json")])
    train(module, batches, config, work=work, seed=own_seed, device=device, mark=mark, on_step=on_step)
    save_network(out, start)
    Checkpoints(work / "checkpoint").remove()


def clipcap_of(loaded: Loaded) -> ClipCap:
    """Raises: ConfigError: If it is another family."""
    if not isinstance(loaded.model, ClipCap):
        raise ConfigError(
            f"finetune.captioner.embeddings: expected a ClipCap to start from, found a {loaded.architecture.kind}. Only that "
            "learns from stored embeddings; leave them out, or name another start"
        )
    return loaded.model


def batches_for(
    loaded: Loaded, pairs: EmbeddingPairs, batch_size: int, *, seed: int, device: str = "cpu", prompt: str = ""
) -> EmbeddedBatches:
    """Batches that fit the network.

    Raises:
        ConfigError: If they cannot.
    """
    architecture = clipcap_of(loaded).config
    if pairs.embed_PE.shape[1] != architecture.embed_dim:
        raise ConfigError(
            f"embeddings: expected width {architecture.embed_dim}, which the mapper takes, found {pairs.embed_PE.shape[1]}; "
            "name the column of the right model, or correct embed_dim"
        )
    room = architecture.text.max_positions - architecture.prefix_length
    if architecture.max_text_length + len(loaded.tokenizer.encode_prompt(prompt)) > room:
        raise ConfigError(
            f"max_text_length: expected at most the {room} positions behind the prefix, with the prompt's tokens, found "
            f"{architecture.max_text_length} and a prompt of {len(loaded.tokenizer.encode_prompt(prompt))}; lower it"
        )
    return EmbeddedBatches(
        pairs,
        loaded.tokenizer,
        batch_size=batch_size,
        max_length=architecture.max_text_length,
        seed=seed,
        device=device,
        prompt=prompt,
    )


@torch.inference_mode()
def mean_loss(loaded: Loaded, pairs: EmbeddingPairs, *, batch_size: int = 64, prompt: str = "") -> float:
    """Mean negative log-probability, in nats, of a token of these texts: lower is better."""
    model = clipcap_of(loaded).eval()
    device = str(next(model.parameters()).device)
    batches = batches_for(loaded, pairs, batch_size, seed=0, device=device, prompt=prompt)
    prompt_length = len(loaded.tokenizer.encode_prompt(prompt))
    total, tokens = 0.0, 0
    for first in range(0, len(pairs), batch_size):
        batch = batches.take(np.arange(first, min(first + batch_size, len(pairs)), dtype=np.int64))
        own = int((model.labels(batch.ids_BT, batch.mask_BT, prompt_length) >= 0).sum())
        total += float(model.losses(batch, prompt_length=prompt_length)["lm"]) * own
        tokens += own
    return total / tokens


@dataclass(frozen=True)
class PrefixLengthResult:
    """What one prefix length gave. Losses as in `mean_loss`."""

    prefix_length: int
    parameters: int
    """That learnt."""
    train_loss: float
    heldout_loss: float


def compare_prefix_lengths(
    config: OptimConfig,
    pairs: EmbeddingPairs,
    heldout: EmbeddingPairs,
    lengths: Sequence[int],
    make: Callable[[ClipCapArchitecture], Loaded],
    architecture: ClipCapArchitecture,
    *,
    work: Path,
    seed: int,
    device: str = "cpu",
    on_trained: Callable[[int, Loaded], None] = lambda length, loaded: None,
) -> list[PrefixLengthResult]:
    """The paper's study of the prefix's length (ClipCap section 4, "Prefix length"): the same training for each, all else equal.

    Args:
        make: A start for an architecture, such as `lambda a: assemble(a, text="gpt2")`.
        architecture: Its `prefix_length` is replaced; `clip_length`, where the mapper has one, too.
        work: Gets a folder per length, `prefix-10/model` among them; what is there already is trained no further.
        on_trained: Called with each trained network: for captions and their CIDEr.
    """
    found: list[PrefixLengthResult] = []
    for length in lengths:
        fields = architecture.model_dump()
        fields["prefix_length"] = length
        if fields["mapper"]["kind"] == "transformer":
            fields["mapper"]["clip_length"] = length
        loaded = make(ClipCapArchitecture.model_validate(fields))
        folder = work / f"prefix-{length}"
        train_on_embeddings(config, pairs, loaded, out=folder / "model", work=folder, seed=seed, device=device)
        loaded = load_network(folder / "model")
        on_trained(length, loaded)
        parameters = sum(p.numel() for p in ClipCapTraining(clipcap_of(loaded)).parameters())
        found.append(PrefixLengthResult(length, parameters, mean_loss(loaded, pairs), mean_loss(loaded, heldout)))
    return found
