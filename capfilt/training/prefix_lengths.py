"""ClipCap's study of the prefix's length: the same training for each, all else equal (ClipCap section 4, "Prefix length").

A tool for studies; no run asks for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.train import OptimConfig
from capfilt.modeling.clipcap.training import ClipCapTraining
from capfilt.modeling.families import Loaded, load_network
from capfilt.training.embeddings import EmbeddingPairs
from capfilt.training.from_embeddings import clipcap_of, mean_loss, train_on_embeddings


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
