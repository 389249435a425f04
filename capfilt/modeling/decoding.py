"""One decoding engine for every captioner: greedy, beam and nucleus, several captions per image.

Talks to a network through `Decoder`; knows nothing of images or of what the network looks like.

Chance belongs to the row: a sampled token is the argmax of log-probability plus Gumbel noise that depends on the row's seed,
the position and the token alone (`capfilt.modeling.noise`). So a caption depends on its image, prompt and seed; float sums may
still differ in the last bits between batch sizes, which is why a batch shrinks only by halves, and never below 8 rows.

Axes at the end of tensor names: B images, n captions (or beams) per image, R = B * n rows, P prompt, L output, V vocabulary,
K candidate tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, assert_never

import torch
from torch import Tensor

from capfilt.config.decoding import Beam, Decoding, Greedy, Nucleus, as_decoding
from capfilt.errors import ConfigError, ContractError
from capfilt.modeling.beam import beam_search
from capfilt.modeling.noise import gumbel, seeds_tensor
from capfilt.modeling.scores import candidates, penalised, without

LOOK_EVERY = 4
"""Steps: a GPU is asked only so often whether all texts have ended, since each question makes it wait."""
SMALLEST_BATCH = 8
"""Rows; fewer are never decoded than this, unless there were fewer to begin with."""


class Cache(Protocol):
    """What a network remembers of a decoding batch."""

    def reorder(self, rows_R: Tensor) -> None:
        """Row r goes on from what row `rows_R[r]`, of the same image, has written."""

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Drop all other images and rows."""


CacheT = TypeVar("CacheT", bound=Cache)


class Decoder(Protocol[CacheT]):
    """A network that continues texts about images."""

    eos_id: int
    pad_id: int
    longest: int
    """Most tokens a text may have."""

    def start(self, image_embeds: Any, prompt_BP: Tensor, rows_per_image: int, max_length: int) -> tuple[Tensor, CacheT]:
        """Scores [B, V] of the first new token, the same for all rows of an image, and the cache of B * rows_per_image rows."""

    def step(self, ids_R: Tensor, cache: CacheT) -> Tensor:
        """Scores [R, V] of the token after `ids_R`, which is appended to the rows."""


@dataclass(frozen=True)
class Generated:
    """Captions of B images, n each."""

    ids_BnL: Tensor
    """int64, prompt first; the closing token is kept, padding follows it."""
    log_prob_Bn: Tensor
    """Sum over the generated tokens, closing one included, of log p under the network's own distribution: before temperature,
    cuts, penalties and the minimal length. Higher is more probable."""


def prompt_of_each(prompt_ids: Tensor, images: int, *, end_id: int | None = None) -> Tensor:
    """[B, P] of [P] or [B, P]; behind a prompt that ends in `end_id`, no text would come, so that goes."""
    if prompt_ids.ndim == 1:
        prompt_ids = prompt_ids.expand(images, -1)
    if end_id is not None and prompt_ids.shape[1] > 1 and bool((prompt_ids[:, -1] == end_id).all()):
        prompt_ids = prompt_ids[:, :-1]
    return prompt_ids


def generate(
    decoder: Decoder[Any],
    image_embeds: Any,
    prompt_BP: Tensor,
    decoding: Decoding | Mapping[str, Any],
    *,
    seeds: Sequence[Sequence[int]] | None = None,
    look_every: int | None = None,
) -> Generated:
    """Continue the prompt about each image.

    Args:
        decoder: The network.
        image_embeds: What the network's `start` takes.
        prompt_BP: First tokens of every text, without a closing token.
        decoding: Greedy, beam or nucleus, or the dictionary of one (`config.decoding.as_decoding`).
        seeds: Per image one 64-bit seed per caption. Nucleus needs it; greedy and beam give one caption and ignore it.
        look_every: Steps of greedy and nucleus between two looks at whether texts have ended; None: 1 on a CPU, `LOOK_EVERY`
            on a GPU. Texts are the same.

    Raises:
        ConfigError: If the lengths do not fit the network, or a dictionary describes no decoding.
        ContractError: If seeds are missing or ragged.
    """
    decoding = as_decoding(decoding)
    prompt_length = prompt_BP.shape[1]
    if not prompt_length < decoding.max_length <= decoder.longest:
        raise ConfigError(
            f"decode.max_length: expected more than the prompt's {prompt_length} and at most the network's {decoder.longest} "
            f"tokens, found {decoding.max_length}; change it or the prompt"
        )
    if look_every is None:
        look_every = LOOK_EVERY if prompt_BP.is_cuda else 1
    match decoding:
        case Beam():
            ids_BL, log_prob_B = beam_search(decoder, image_embeds, prompt_BP, decoding)
            return Generated(ids_BL[:, None], log_prob_B[:, None])
        case Greedy():
            return _one_by_one(decoder, image_embeds, prompt_BP, decoding, None, 1, look_every)
        case Nucleus():
            if seeds is None or len(seeds) != len(prompt_BP) or len({len(row) for row in seeds}) != 1 or not seeds[0]:
                found = None if seeds is None else [len(row) for row in seeds]
                raise ContractError(f"seeds: expected {len(prompt_BP)} lists of one length, found lengths {found}; pass one each")
            flat = seeds_tensor([seed for row in seeds for seed in row], prompt_BP.device)
            return _one_by_one(decoder, image_embeds, prompt_BP, decoding, flat, len(seeds[0]), look_every)
        case _:
            assert_never(decoding)


def _one_by_one(
    decoder: Decoder[Any],
    image_embeds: Any,
    prompt_BP: Tensor,
    decoding: Greedy | Nucleus,
    seeds_R: Tensor | None,
    n: int,
    look_every: int,
) -> Generated:
    """Greedy and nucleus: every row takes one token at a time, whatever the others do.

    With `look_every` above 1 nothing is asked of the device in between. Then a nucleus is looked for in the highest scores
    alone, and if one was wider (seldom: `scores.PREFIX`), all is done again with a look at every step.
    """
    all_seeds_R = seeds_R
    images, length = prompt_BP.shape
    device = prompt_BP.device
    ids_RL = torch.full((images * n, decoding.max_length), decoder.pad_id, dtype=torch.int64, device=device)
    ids_RL[:, :length] = prompt_BP.repeat_interleave(n, 0)
    log_prob_R = torch.zeros(images * n, dtype=torch.float64, device=device)
    alive_R = torch.ones(images * n, dtype=torch.bool, device=device)
    rows_R = torch.arange(images * n, device=device)  # which output row each row of the decoding batch is

    is_too_wide = torch.zeros((), dtype=torch.bool, device=device) if look_every > 1 else None

    scores_BV, cache = decoder.start(image_embeds, prompt_BP, n, decoding.max_length)
    scores_RV = scores_BV.repeat_interleave(n, 0)
    while True:
        chosen_R = _choose(scores_RV.float(), ids_RL[rows_R, :length], decoding, decoder.eos_id, seeds_R, length, is_too_wide)
        own_R = scores_RV.float().log_softmax(1).gather(1, chosen_R[:, None])[:, 0].double()
        log_prob_R[rows_R] += torch.where(alive_R, own_R, 0.0)
        ids_RL[rows_R, length] = torch.where(alive_R, chosen_R, decoder.pad_id)
        alive_R &= chosen_R != decoder.eos_id
        length += 1
        if (length - prompt_BP.shape[1]) % look_every and length < decoding.max_length:
            scores_RV = decoder.step(chosen_R, cache)
            continue
        if is_too_wide is not None and bool(is_too_wide):
            return _one_by_one(decoder, image_embeds, prompt_BP, decoding, all_seeds_R, n, 1)
        alive_B = alive_R.view(-1, n).any(1)
        live = int(alive_B.sum())
        if not live or length == decoding.max_length:
            break
        target = smaller_batch(len(alive_B), live, n)
        if target < len(alive_B):
            # Images with a live row first, in order; finished ones fill the batch up to its fixed size.
            images_B = alive_B.int().argsort(descending=True, stable=True)[:target].sort().values
            kept_R = (images_B[:, None] * n + torch.arange(n, device=device)).flatten()
            cache.keep(images_B, kept_R)
            rows_R, alive_R, chosen_R = rows_R[kept_R], alive_R[kept_R], chosen_R[kept_R]
            seeds_R = seeds_R[kept_R] if seeds_R is not None else None
        scores_RV = decoder.step(chosen_R, cache)
    return Generated(ids_RL.view(images, n, -1), log_prob_R.view(images, n).float())


def smaller_batch(images: int, live: int, n: int) -> int:
    """Images to go on with: halved as often as the live ones fit and at least `SMALLEST_BATCH` rows remain."""
    while images % 2 == 0 and live <= images // 2 and images // 2 * n >= SMALLEST_BATCH:
        images //= 2
    return images


def _choose(
    scores_RV: Tensor,
    ids_RL: Tensor,
    decoding: Greedy | Nucleus,
    eos_id: int,
    seeds_R: Tensor | None,
    length: int,
    is_too_wide: Tensor | None,
) -> Tensor:
    """Next token of each row, [R]; see `candidates` for `is_too_wide`."""
    scores_RV = penalised(scores_RV, ids_RL, decoding.repetition_penalty)
    if length < decoding.min_length:
        scores_RV = without(scores_RV, eos_id)
    if isinstance(decoding, Greedy):
        return scores_RV.argmax(1)
    assert seeds_R is not None
    tokens_RK, log_p_RK = candidates(scores_RV, decoding.top_p, decoding.top_k, decoding.temperature, is_too_wide)
    best_R1 = (log_p_RK.double() + gumbel(seeds_R, length, tokens_RK)).argmax(1, keepdim=True)
    return tokens_RK.gather(1, best_R1)[:, 0]
