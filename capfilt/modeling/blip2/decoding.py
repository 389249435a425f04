"""ITG as the decoding engine sees it: a text is written token by token behind the queries' keys and values.

Axes at the end of tensor names: B images, R rows, N image tokens, D width, P prompt, V vocabulary, H heads, Q queries.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from capfilt.errors import CheckpointError, ContractError
from capfilt.modeling.layers import KeysValues

if TYPE_CHECKING:
    from capfilt.modeling.blip2.qformer import QFormer


class QFormerCache:
    """Self-attention keys and values of the rows: the queries' in front, then the text's as far as it is written."""

    def __init__(self, own: list[KeysValues], queries: int, length: int) -> None:
        self.own = own
        self.queries = queries
        self.length = length

    def reorder(self, rows_R: Tensor) -> None:
        """Row r continues what row `rows_R[r]` wrote; both belong to the same image, so the queries' part stays."""
        for pair in self.own:
            for x in pair:
                written = x[:, :, self.queries : self.queries + self.length]
                written.copy_(written.index_select(0, rows_R))

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Go on with these rows."""
        self.own = [(k.index_select(0, rows_R), v.index_select(0, rows_R)) for k, v in self.own]


class QFormerDecoder:
    """ITG as the decoding engine sees it (`capfilt.modeling.decoding.Decoder`)."""

    def __init__(self, model: "QFormer") -> None:
        from capfilt.modeling.blip2.qformer import missing_part

        self.model = model
        if "captioner" not in model.config.roles:
            raise CheckpointError(missing_part("captioner"))
        self.eos_id = model.config.text.sep_id
        self.pad_id = model.config.text.pad_id
        self.longest = model.config.text.max_positions

    def start(
        self, image_embeds_BND: Tensor, prompt_BP: Tensor, rows_per_image: int, max_length: int
    ) -> tuple[Tensor, QFormerCache]:
        """Scores of the first new token per IMAGE, [B, V], and the cache for B * rows_per_image rows.

        The queries look at each image once; their keys and values, and the prompt's, are then copied to its rows.
        """
        if len(prompt_BP) != len(image_embeds_BND):
            raise ContractError(f"prompts: expected one per image, found {len(prompt_BP)} for {len(image_embeds_BND)} images")
        tower = self.model.tower
        length = prompt_BP.shape[1]
        own: list[KeysValues] = []
        for k_BHQD, v_BHQD in self.model.look(image_embeds_BND).keys_values:
            images, heads, queries, width = k_BHQD.shape
            keys, values = (k_BHQD.new_empty(images, heads, queries + max_length, width) for _ in range(2))
            keys[:, :, :queries], values[:, :, :queries] = k_BHQD, v_BHQD
            own.append((keys, values))
        states = tower.step(prompt_BP, own, 0)
        rows = [(k.repeat_interleave(rows_per_image, 0), v.repeat_interleave(rows_per_image, 0)) for k, v in own]
        return self.model.head(states[:, -1]), QFormerCache(rows, tower.queries.shape[1], length)

    def step(self, ids_R: Tensor, cache: QFormerCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        states = self.model.tower.step(ids_R[:, None], cache.own, cache.length)
        cache.length += 1
        scores_RV: Tensor = self.model.head(states[:, 0])
        return scores_RV
