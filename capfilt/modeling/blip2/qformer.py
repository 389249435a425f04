"""The Q-Former of BLIP-2's first stage: query outputs, features, matching and next-token logits, captions, losses.

A few learned queries look at the tokens of a frozen image encoder and speak for the picture, whatever its resolution (BLIP-2
sections 3.1 and 3.2). Knows nothing of language models (`capfilt.modeling.blip2.network`), optimisers, tokenising or files.

Axes at the end of tensor names: B images, R texts (rows), N image tokens, D image width, Q queries, T text tokens, W width,
E common space, V vocabulary, C channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.parts import Role
from capfilt.config.decoding import Decoding
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2.qformer_layers import QFormerTower, Queried
from capfilt.modeling.decoding import Generated, generate, prompt_of_each
from capfilt.modeling.layers import KeysValues, initialise
from capfilt.modeling.text import LanguageHead
from capfilt.modeling.vision import VisionTransformer

if TYPE_CHECKING:
    from capfilt.modeling.losses import Negatives

PARTS: dict[str, Role] = {
    "image_projection": "filter",
    "text_projection": "filter",
    "itm_head": "filter",
    "temp": "filter",
    "head": "captioner",
}
"""The role that each head serves."""


class QFormer(nn.Module):
    """Text ids are the tokenizer's ([CLS] ... [SEP], padded right). ITC and ITM keep [CLS]; for ITG position 0 becomes [DEC].

    `vision` is frozen: it takes no gradient, stays in evaluation mode and is in no optimiser. It is None with
    `config.image.layers` 0; `encode_image` then takes the features of an encoder elsewhere.
    """

    def __init__(self, config: Blip2Architecture) -> None:
        super().__init__()
        text, width = config.text, config.image.width
        self.config = config
        self.vision: VisionTransformer | None = None
        if config.image.layers:
            self.vision = VisionTransformer(config.image)
            if not config.image.final_norm:
                self.vision.norm = nn.Identity()  # type: ignore[assignment]
            self.vision.requires_grad_(False).eval()
        self.bridge_norm = nn.LayerNorm(width, config.bridge_norm_eps)
        self.tower = QFormerTower(text, width, reads=bool(config.roles))
        if "captioner" in config.roles:
            self.head = LanguageHead(text, self.tower.words if text.tied_vocabulary else None)
        if "filter" in config.roles:
            self.image_projection = nn.Linear(text.width, config.embed_dim)
            self.text_projection = nn.Linear(text.width, config.embed_dim)
            self.itm_head = nn.Linear(text.width, 2)
            self.temp = nn.Parameter(torch.tensor(0.07))
        self._objective: list[Any] = []  # a list, so that its network is not taken for a part of this one
        initialise(self, config.init_std)
        nn.init.normal_(self.tower.queries, std=config.init_std)
        self._start_feed_forwards_equal()

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        config: "Blip2Architecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "QFormer":
        """A Q-Former in evaluation mode with the weights of LAVIS' Blip2Qformer.

        Args:
            state_dict: Under its own names (`Qformer.bert.*`, `query_tokens`, `ln_vision.*`, `vision_proj`, ...), bare or in a
                checkpoint that holds it under `model` or `state_dict`. Heads that are missing are missing roles. Without
                `visual_encoder.*` (LAVIS leaves frozen weights out) there is no `vision`, and `encode_image` takes features.
            config: What shapes do not say; None takes LAVIS' values (heads of 64 in the Q-Former, of 88 in its ViT-g/14, norms
                1e-12, 1e-6 and 1e-5, [CLS] 101, [SEP] 102, [DEC] last). A Blip2Architecture, the name or path of an
                architecture YAML, or a dictionary of either's fields or of LAVIS', BERT's or transformers' own.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
            ConfigError: If `config` describes no architecture.
        """
        from capfilt.modeling.blip2.original import qformer_from_original

        return qformer_from_original(state_dict, config)

    def __getattr__(self, name: str) -> Any:
        if name in PARTS and PARTS[name] not in self.__dict__["config"].roles:
            raise CheckpointError(missing_part(PARTS[name]))
        return super().__getattr__(name)

    def train(self, mode: bool = True) -> "QFormer":
        """The frozen image encoder stays in evaluation mode: its batch norms and dropouts do not move."""
        super().train(mode)
        if self.vision is not None:
            self.vision.eval()
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[B, N, D], after the norm that learns (LAVIS' ln_vision); what every other method calls `image_embeds`.

        Pixels of any size go through the frozen encoder; features [B, N, D] of such an encoder, where they are at hand, only
        through the norm.
        """
        features_BND = pixels
        if pixels.ndim == 4:
            if self.vision is None:
                raise CheckpointError(
                    "expected an image encoder to take pixels, found a Q-Former without one. Give `encode_image` the features "
                    "[B, N, D] of the encoder it was trained with, or a state dict that has `visual_encoder.*`"
                )
            with torch.no_grad():
                features_BND = self.vision(pixels)
        image_embeds: Tensor = self.bridge_norm(features_BND)
        return image_embeds

    def look(self, image_embeds: Tensor) -> Queried:
        """The queries' outputs and self-attention keys and values: made once per image, used by every text."""
        return self.tower.look(self.tower.image_kv(image_embeds), len(image_embeds))

    def query_outputs(self, image_embeds: Tensor) -> Tensor:
        """[B, Q, W]; Q is the number of queries, whatever N is."""
        return self.look(image_embeds).states_BQW

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """[B, Q, E], one unit vector per query; see `itc_similarities`."""
        return self.project_queries(self.query_outputs(image_embeds))

    def project_queries(self, states_BQW: Tensor) -> Tensor:
        """[B, Q, E], unit norm, from `query_outputs`."""
        return F.normalize(self.image_projection(states_BQW), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[R, E], unit norm: [CLS] of the text alone (unimodal mask)."""
        return F.normalize(self.text_projection(self.tower.read(ids, mask)[:, 0]), dim=-1)

    @staticmethod
    def itc_similarities(image_features_BQE: Tensor, text_features_RE: Tensor) -> Tensor:
        """[B, R]: the highest cosine of the image's queries with the text, without temperature (BLIP-2 section 3.2)."""
        return torch.einsum("bqe,re->brq", image_features_BQE, text_features_RE).amax(-1)

    def itm_logits(self, ids: Tensor, mask: Tensor, image_embeds: Tensor, image_of_text: Tensor | None = None) -> Tensor:
        """[R, 2], mean over the queries; the softmax of index 1 is the probability that text and image match.

        Args:
            ids: Texts; [CLS] at position 0 stays.
            mask: 1 for tokens.
            image_embeds: From `encode_image`.
            image_of_text: [R] index of each text's image. None: R is a multiple of B and texts come image by image, the
                fastest way since nothing is copied.
        """
        image_kv = self.tower.image_kv(image_embeds)
        if image_of_text is not None:
            image_kv = take_looks(image_kv, image_of_text)
        return self.itm_logits_from(ids, mask, image_kv)

    def itm_logits_from(self, ids: Tensor, mask: Tensor, image_kv: list[KeysValues | None]) -> Tensor:
        """As `itm_logits`, from the tower's cross-attention keys and values."""
        logits_R2: Tensor = self.itm_head(self.tower.match(ids, mask, image_kv)).mean(1)
        return logits_R2

    def lm_logits(self, ids: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
        """[R, T, V], ITG: at each position, the scores of the next token (multimodal causal mask).

        Position 0 becomes [DEC] whatever the caller gave. R is a multiple of B, texts image by image.
        """
        prefix = self.look(image_embeds).keys_values
        times = len(ids) // len(image_embeds)
        if times > 1:
            prefix = [(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in prefix]
        logits_RTV: Tensor = self.head(self.tower.write(self.begun(ids), mask, prefix))
        return logits_RTV

    def begun(self, ids_RT: Tensor) -> Tensor:
        """A copy with [DEC] at position 0."""
        ids_RT = ids_RT.clone()
        ids_RT[:, 0] = self.config.text.first_id
        return ids_RT

    @torch.inference_mode()
    def generate(
        self,
        image_embeds: Tensor,
        prompt_ids: Tensor,
        decoding: Decoding | Mapping[str, Any],
        *,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> Generated:
        """Captions of the images; see `capfilt.modeling.decoding.generate`.

        Args:
            image_embeds: From `encode_image`.
            prompt_ids: [P] or [B, P], the tokenizer's ids of the prompt; position 0 becomes [DEC], a final [SEP] goes.
            decoding: Greedy, beam or nucleus.
            seeds: One list per image, one 64-bit seed per caption wanted. Needed by nucleus.
        """
        from capfilt.modeling.blip2.decoding import QFormerDecoder

        decoder = QFormerDecoder(self)
        prompt_ids = prompt_of_each(prompt_ids, len(image_embeds), end_id=self.config.text.sep_id)
        return generate(decoder, image_embeds, self.begun(prompt_ids), decoding, seeds=seeds)

    def losses(self, batch: "Batch | Mapping[str, Tensor]", *, negatives: "Negatives | None" = None) -> dict[str, Tensor]:
        """One step's losses by name, `itc` and `itm` for a filter and `lm` (ITG) for a captioner: see `QFormerTraining`.

        Args:
            batch: A Batch, or a dictionary of `pixels` [B, C, H, W] (or features [B, N, D] of the image encoder), `ids` [B, T],
                `mask` [B, T] and, where pairs share images, `image_ids` [B].
            negatives: The ITM negatives; None draws them.
        """
        from capfilt.modeling.batch import as_batch
        from capfilt.modeling.blip2.training import QFormerTraining

        if not self._objective:
            self._objective.append(QFormerTraining(self))
        objective: QFormerTraining = self._objective[0]
        return objective.losses(batch if isinstance(batch, Batch) else as_batch(batch), negatives=negatives)

    def take_vision(self, vision: VisionTransformer) -> None:
        """Copy the weights of a trained image encoder; learned positions are interpolated where the picture size differs.

        Raises:
            CheckpointError: If it is another network than `config.image` says; lists what differs.
        """
        wanted = self.config.image
        wrong = [
            f"{name}: expected {getattr(wanted, name)!r}, found {getattr(vision.config, name)!r}"
            for name in ("patch", "width", "layers", "heads", "mlp_ratio", "stem", "positions", "norm_eps", "activation")
            if getattr(wanted, name) != getattr(vision.config, name)
        ]
        if not wanted.final_norm:
            wrong.append("final_norm: expected none, found the norm that a MED's image encoder ends in")
        if wrong or self.vision is None:
            listed = "\n  ".join(wrong)
            raise CheckpointError(
                f"image: expected the network that the architecture says, found\n  {listed}\nWrite the checkpoint's into `image`"
            )
        given = vision.state_dict()
        if "positions" in given:
            given["positions"] = vision.positions_for(self.vision.side).detach()
        self.vision.load_state_dict(given)

    @torch.no_grad()
    def _start_feed_forwards_equal(self) -> None:
        """As in the published code, the queries' feed-forwards start as copies of the texts'."""
        for layer in self.tower.in_order():
            if layer.feed_forward is not None:
                layer.query_feed_forward.load_state_dict(layer.feed_forward.state_dict())


def missing_part(role: Role) -> str:
    """The sentence for a Q-Former that is asked for what its weights cannot do."""
    if role == "captioner":
        return "expected a Q-Former with a text head to write captions (ITG), found none. Give stage 1's weights, or a Blip2"
    return "expected a Q-Former with ITC and ITM heads to match texts, found none. Give stage 1's or retrieval weights"


def take_looks(image_kv: list[KeysValues | None], index: Tensor) -> list[KeysValues | None]:
    """Keys and values of these images."""
    return [None if kv is None else (kv[0].index_select(0, index), kv[1].index_select(0, index)) for kv in image_kv]
