"""MED, BLIP's multimodal mixture of encoder-decoder: one image encoder, one text network in three roles (BLIP section 3.1).

Gives features, matching logits, next-token logits, captions and, on request, the losses it is trained with; knows nothing of
optimisers, tokenising or files. Published weights: `MED.from_original`, `capfilt.modeling.families.load_network`.

Axes at the end of tensor names: B images, R texts (rows), N image tokens, D image width, T text tokens, W text width,
E common space, V vocabulary, C channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import Role, missing_role
from capfilt.config.decoding import Decoding
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch, as_batch
from capfilt.modeling.decoding import Generated, generate, prompt_of_each
from capfilt.modeling.layers import KeysValues, initialise
from capfilt.modeling.losses import Negatives
from capfilt.modeling.med.static_step import StaticCache, StaticStep, static_steps
from capfilt.modeling.text import LanguageHead, TextTower
from capfilt.modeling.vision import VisionTransformer

if TYPE_CHECKING:
    from capfilt.modeling.med.training import MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining

PARTS: dict[str, Role] = {
    "text_encoder": "filter",
    "image_projection": "filter",
    "text_projection": "filter",
    "itm_head": "filter",
    "temp": "filter",
    "text_decoder": "captioner",
    "head": "captioner",
}
"""The role that each part beside the image encoder serves."""


class MED(nn.Module):
    """Text ids are the tokenizer's ([CLS] ... [SEP], padded right); each role puts its own token at position 0.

    [CLS]: unimodal text encoder, for ITC. [ENC]: image-grounded encoder, for ITM. [DEC]: image-grounded decoder, for LM.

    A MED whose `config.roles` lacks a role has none of its parts; whoever asks for one gets a CheckpointError that says so.
    """

    def __init__(self, config: MedArchitecture) -> None:
        super().__init__()
        text = config.text
        self.config = config
        self.vision = VisionTransformer(config.image)
        if "filter" in config.roles:
            self.text_encoder = TextTower.new(text, config.image.width)
        if "captioner" in config.roles:
            is_shared = text.shared and "filter" in config.roles
            self.text_decoder = (
                TextTower.sharing(text, self.text_encoder) if is_shared else TextTower.new(text, config.image.width)
            )
            self.head = LanguageHead(text, self.text_decoder.embeddings.words if text.tied_vocabulary else None)
        if "filter" in config.roles:
            self.image_projection = nn.Linear(config.image.width, config.embed_dim)
            self.text_projection = nn.Linear(text.width, config.embed_dim)
            self.itm_head = nn.Linear(text.width, 2)
            self.temp = nn.Parameter(torch.tensor(0.07))
        self._objective: list[Any] = []  # a list, so that its network is not taken for a part of this one
        initialise(self, config.init_std)

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        config: "MedArchitecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "MED":
        """A MED in evaluation mode with the weights of the original BLIP code (salesforce/BLIP).

        Args:
            state_dict: That of BLIP_Pretrain, BLIP_Retrieval, BLIP_ITM or BLIP_Decoder under its own names, or a checkpoint that
                holds it under `model`. Momentum copies and queues, where it has them, are what `losses` starts from.
            config: What shapes do not say; None takes BLIP's values (heads of 64, erf GELU, norms 1e-6 and 1e-12, [CLS] 101,
                [SEP] 102). A MedArchitecture, the name or path of an architecture YAML, or a dictionary of either's fields or of
                BLIP's own (`num_heads`, `num_attention_heads`, `image_size`, `med_config`, ...). A different image size
                interpolates the positions. Roles, sharing and queue size always come from the tensors.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
            ConfigError: If `config` describes no architecture.
        """
        from capfilt.modeling.med.checkpoints.original import from_original

        return from_original(state_dict, config)

    def __getattr__(self, name: str) -> Any:
        if name in PARTS and PARTS[name] not in self.__dict__["config"].roles:
            raise CheckpointError(missing_role("this checkpoint", PARTS[name]))
        return super().__getattr__(name)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[B, N, D], class token first; what every other method calls `image_embeds`."""
        image_embeds: Tensor = self.vision(pixels)
        return image_embeds

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States [R, T, W] of the texts alone."""
        states_RTW: Tensor = self.text_encoder(ids, mask)
        return states_RTW

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """[B, E], unit norm; its product with `text_features` is the ITC cosine."""
        return F.normalize(self.image_projection(image_embeds[:, 0]), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[R, E], unit norm."""
        return F.normalize(self.text_projection(self.text_encoder(ids, mask, first_only=True)[:, 0]), dim=-1)

    def itm_logits(self, ids: Tensor, mask: Tensor, image_embeds: Tensor, image_of_text: Tensor | None = None) -> Tensor:
        """[R, 2]; the softmax of index 1 is the probability that text and image match (higher is better).

        Args:
            ids: Texts.
            mask: 1 for tokens.
            image_embeds: From `encode_image`; keys and values are made once per image.
            image_of_text: [R] index of each text's image. None: R is a multiple of B and texts come image by image, the
                fastest way since nothing is copied.
        """
        image_kv = self.text_encoder.image_kv(image_embeds)
        if image_of_text is not None:
            return self.itm_logits_from(ids, mask, ImagesOfTexts(image_kv, image_of_text))
        return self.itm_logits_from(ids, mask, image_kv)

    def itm_logits_from(self, ids: Tensor, mask: Tensor, image_kv: Sequence[KeysValues], rows: Tensor | None = None) -> Tensor:
        """As `itm_logits`, from keys and values; `rows` as in `TextTower.forward`."""
        # Position 0 is replaced whatever the caller gave: [ENC], or [CLS] with `itm_position: cls`.
        ids = with_first(ids, self.config.text.enc_id if self.config.itm_position == "enc" else self.config.text.cls_id)
        logits_R2: Tensor = self.itm_head(self.text_encoder(ids, mask, image_kv, first_only=True, rows=rows)[:, 0])
        return logits_R2

    def lm_logits(self, ids: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
        """[R, T, V]: at each position, the scores of the next token. Position 0 becomes [DEC] whatever the caller gave."""
        image_kv = self.text_decoder.image_kv(image_embeds)
        logits_RTV: Tensor = self.head(self.text_decoder(with_first(ids, self.config.text.dec_id), mask, image_kv, causal=True))
        return logits_RTV

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
        prompt_ids = prompt_of_each(prompt_ids, len(image_embeds), end_id=self.config.text.sep_id)
        prompt_ids = with_first(prompt_ids, self.config.text.dec_id)
        return generate(MedDecoder(self), image_embeds, prompt_ids, decoding, seeds=seeds)

    def losses(
        self, batch: "Batch | Mapping[str, Tensor]", *, alpha: float | None = None, negatives: "Negatives | None" = None
    ) -> dict[str, Tensor]:
        """One step's losses by name, as the code that made the checkpoint computes them: see `objective`.

        Moves the momentum copy and the queue on, so a second call gives other values.

        Args:
            batch: A Batch, or a dictionary of its tensors: `pixels` [B, C, H, W], `ids` [B, T], `mask` [B, T] and, for a filter,
                `image_ids` [B].
            alpha: Weight of the momentum model's soft targets; None takes the architecture's final one.
            negatives: The ITM negatives; None draws them.
        """
        from capfilt.modeling.med.training import MedCaptionerFinetuning

        objective = self.objective.to(next(self.parameters()).device).train(self.training)
        if not isinstance(batch, Batch):
            batch = as_batch(batch)
        if isinstance(objective, MedCaptionerFinetuning):
            return objective.losses(batch)
        objective.alpha = self.config.alpha if alpha is None else alpha
        return objective.losses(batch, negatives=negatives)

    @property
    def objective(self) -> "MedPretraining | MedFilterFinetuning | MedCaptionerFinetuning":
        """What `losses` asks: ITC, ITM and LM with both roles (BLIP_Pretrain); a filter's ITC and ITM with targets by image
        (BLIP_Retrieval); a captioner's LM (BLIP_Decoder, no prompt).

        Its momentum copy and queue are those of the state dict that `from_original` read; else it is made at the first call, with
        a copy of the model and random vectors.
        """
        if not self._objective:
            from capfilt.modeling.med.checkpoints.original import objective_of

            self._objective.append(objective_of(self, {}))
        found: MedPretraining | MedFilterFinetuning | MedCaptionerFinetuning = self._objective[0]
        return found


def with_first(ids_RT: Tensor, token: int) -> Tensor:
    """A copy with `token` at position 0."""
    ids_RT = ids_RT.clone()
    ids_RT[:, 0] = token
    return ids_RT


def take_images(image_kv: list[KeysValues], index: Tensor) -> list[KeysValues]:
    return [(k.index_select(0, index), v.index_select(0, index)) for k, v in image_kv]


class ImagesOfTexts(Sequence[KeysValues]):
    """Keys and values per text, from those per image: layer by layer, so that no more than one layer's copy exists at a time."""

    def __init__(self, image_kv: list[KeysValues], image_of_text_R: Tensor) -> None:
        self._image_kv = image_kv
        self._image_of_text_R = image_of_text_R

    def __len__(self) -> int:
        return len(self._image_kv)

    def __getitem__(self, layer: Any) -> Any:
        k, v = self._image_kv[layer]
        return k.index_select(0, self._image_of_text_R), v.index_select(0, self._image_of_text_R)


class MedCache:
    """Keys and values of one decoding batch: of the images once, of the rows as far as they are written."""

    def __init__(self, image_kv: list[KeysValues], own: list[KeysValues]) -> None:
        self.image_kv = image_kv
        self.own = own
        self.length = 0

    def reorder(self, rows_R: Tensor) -> None:
        """Row r continues what row `rows_R[r]` wrote; both belong to the same image."""
        for pair in self.own:
            for x in pair:
                written = x[:, :, : self.length]
                written.copy_(written.index_select(0, rows_R))

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Go on with these images, and these of the rows."""
        self.image_kv = take_images(self.image_kv, images_B)
        self.own = take_images(self.own, rows_R)


class MedDecoder:
    """MED as the decoding engine sees it (`capfilt.modeling.decoding.Decoder`)."""

    def __init__(self, model: MED, *, static: bool | None = None) -> None:
        """`static`: steps of fixed shapes, captured as CUDA graphs on a GPU (`static_step`); None: on a GPU."""
        self.model = model
        self.static = static
        self.eos_id = model.config.text.sep_id
        self.pad_id = model.config.text.pad_id
        self.longest = model.config.text.max_positions

    def start(
        self, image_embeds_BND: Tensor, prompt_BP: Tensor, rows_per_image: int, max_length: int
    ) -> tuple[Tensor, MedCache | StaticCache]:
        """Scores of the first new token per IMAGE, [B, V], and the cache for B * rows_per_image rows.

        The prompt is the same for all rows of an image, so it runs once per image.
        """
        model, text = self.model, self.model.config.text
        images, length = prompt_BP.shape
        shape = (images, text.heads, max_length, text.width // text.heads)
        prompt_own = [(image_embeds_BND.new_empty(shape), image_embeds_BND.new_empty(shape)) for _ in range(text.layers)]
        step: StaticStep | None = None
        if self.static or (self.static is None and image_embeds_BND.is_cuda):
            steps = static_steps(model, model.text_decoder, model.head, text)
            step = steps.start(images, rows_per_image, max_length, image_embeds_BND.shape[1], prompt_own[0][0])
        image_kv = model.text_decoder.image_kv(image_embeds_BND, None if step is None else step.image_memory)
        states = model.text_decoder.step(prompt_BP, image_kv, prompt_own, 0)
        scores_BV: Tensor = model.head(states[:, -1])
        if step is not None:
            for (k, v), (k_, v_) in zip(step.own, prompt_own, strict=True):
                k[:, :, :length] = k_[:, :, :length].repeat_interleave(rows_per_image, 0)
                v[:, :, :length] = v_[:, :, :length].repeat_interleave(rows_per_image, 0)
            return scores_BV, StaticCache(steps, step, length)
        own = [(k.repeat_interleave(rows_per_image, 0), v.repeat_interleave(rows_per_image, 0)) for k, v in prompt_own]
        cache = MedCache(image_kv, own)
        cache.length = length
        return scores_BV, cache

    def step(self, ids_R: Tensor, cache: MedCache | StaticCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        if isinstance(cache, StaticCache):
            return cache.run(ids_R)
        states = self.model.text_decoder.step(ids_R[:, None], cache.image_kv, cache.own, cache.length)
        cache.length += 1
        scores_RV: Tensor = self.model.head(states[:, 0])
        return scores_RV
