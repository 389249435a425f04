"""A ClipCap trained from stored image embeddings and texts: no picture is decoded, so a captioner per data source or style takes
minutes.

Knows nothing of tables, rounds or runs.

Axes at the end of array names: B pairs of a batch, E width of an embedding.
"""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capfilt.config.base import is_operational
from capfilt.config.train import OptimConfig
from capfilt.errors import ConfigError
from capfilt.identity import content_hash, fingerprint, stage_seed
from capfilt.modeling.clipcap.batch import EmbeddedBatch
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.clipcap.training import ClipCapTraining
from capfilt.modeling.families import AnyTokenizer, Loaded, save_network
from capfilt.training.batches import EndlessShuffle, Tokens
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.embeddings import EmbeddingPairs, Int64Array
from capfilt.training.loop import StepReport, train

OnStep = Callable[[StepReport], None]


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
