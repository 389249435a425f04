"""CoCa, contrastive captioner: one pass over image and text gives features for contrast and next-token scores (arXiv:2205.01917).

Gives features, image tokens and pooled queries, joint states, next-token logits, captions and the two losses; knows nothing of
optimisers, tokenising or files. Published weights: `CoCa.from_original`.

Axes at the end of tensor names: B images, F frames, R texts (rows), N image tokens, D image width, Q captioning queries, P pooler
width, T text tokens, W text width, E common space, V vocabulary, M kept tokens, C channels, H and W pixels.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.decoding import Decoding
from capfilt.modeling.batch import Batch, as_batch, known_names
from capfilt.modeling.coca.decoding import CocaDecoder
from capfilt.modeling.coca.image import Poolers, image_encoder, mean_feature
from capfilt.modeling.coca.text import MultimodalText, UnimodalText
from capfilt.modeling.decoding import Generated, generate, prompt_of_each
from capfilt.modeling.layers import initialise
from capfilt.modeling.losses import IGNORED, itc_loss, lm_labels, lm_loss, one_hot_positives, positives_by_image

CocaLoss = Literal["itc", "lm"]
LOSS_WEIGHTS: dict[CocaLoss, float] = {"itc": 1.0, "lm": 2.0}
"""The paper's weights of the contrastive and the captioning loss (section 4.1)."""


class CoCa(nn.Module):
    """Text ids are the tokenizer's (start token ... end token, padded right). Nothing takes the place of position 0.

    Wherever `images` are asked for, `encode_image`'s result [B, 1 + Q, P] or pixels [B, 3, H, W] may be given. Where a mask
    [R, T] (1 for tokens) is not given, everything but `text.pad_id` is a token, as in open_clip.
    """

    def __init__(self, config: CocaArchitecture) -> None:
        super().__init__()
        text = config.text
        self.config = config
        self.vision = image_encoder(config.image)
        self.poolers = Poolers(config.pooler, config.image.width)
        self.text = UnimodalText(text)
        self.decoder = MultimodalText(config.multimodal, text, config.pooler.width)
        self.image_projection = nn.Linear(config.pooler.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(text.width, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        initialise(self, config.init_std)

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        config: "CocaArchitecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "CoCa":
        """A CoCa in evaluation mode with the weights of an open_clip CoCa.

        Args:
            state_dict: Under open_clip's names, bare or under `state_dict` or `model`, with or without `module.` before names.
            config: What shapes do not say; None takes the values of open_clip's released models (image and text heads of 64, 8
                pooler heads, GELU, norms 1e-5, padding 0, released [CLS] mask). A CocaArchitecture, the name or path of an
                architecture YAML, open_clip's own name (`coca_ViT-B-32`), or a dictionary of either's fields (ours, or
                `vision_cfg`, `text_cfg`, `multimodal_cfg`, ...). A different image size interpolates the positions.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
            ConfigError: If `config` describes no architecture.
        """
        from capfilt.modeling.coca.checkpoint import from_original

        return from_original(state_dict, config)

    # ── images ──────────────────────────────────────────────────────────────────────────────────────────────

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """[B, N, D], the encoder's tokens before pooling: what a new pooler for a frozen encoder takes (section 3.3)."""
        tokens_BND: Tensor = self.vision(pixels)
        return tokens_BND

    def pool(self, tokens_BND: Tensor) -> Tensor:
        """[B, 1 + Q, P] of `image_tokens`: the contrastive query's output first, then those of the captioning queries.

        With `layout: joint`, 1 + Q is `pooler.queries`.
        """
        contrast_BP, caption_BQP = self.poolers(tokens_BND)
        return torch.cat([contrast_BP[:, None], caption_BQP], dim=1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[B, 1 + Q, P]: what every other method calls `images`."""
        return self.pool(self.image_tokens(pixels))

    def pooled_queries(self, images: Tensor) -> Tensor:
        """[B, 1 + Q, P]; pixels are encoded, what is encoded already comes back as it is."""
        return self.encode_image(images) if images.ndim == 4 else images

    def contrastive_query(self, images: Tensor) -> Tensor:
        """[B, P], before the projection to the common space."""
        return self.pooled_queries(images)[:, 0]

    def caption_queries(self, images: Tensor) -> Tensor:
        """[B, Q, P], what the decoder's cross-attention looks at."""
        return self.pooled_queries(images)[:, 1:]

    def image_features(self, images: Tensor) -> Tensor:
        """[B, E], unit norm; its product with `text_features` is the contrastive cosine, without temperature."""
        return self._projected_image(self.contrastive_query(images))

    def video_tokens(self, frames_BFCHW: Tensor) -> Tensor:
        """[B, F * N, D]: the tokens of all frames, each frame encoded by itself; for a pooler with one query (section 3.3)."""
        tokens_GND = self.image_tokens(frames_BFCHW.flatten(0, 1))
        return tokens_GND.view(len(frames_BFCHW), -1, tokens_GND.shape[-1])

    def video_features(self, frames_BFCHW: Tensor) -> Tensor:
        """[B, E], unit norm: the mean of the frames' features (section 3.3; the paper samples 16 frames uniformly)."""
        features_GE = self.image_features(frames_BFCHW.flatten(0, 1))
        return mean_feature(features_GE.view(*frames_BFCHW.shape[:2], -1))

    # ── texts ───────────────────────────────────────────────────────────────────────────────────────────────

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unimodal states [R, T, W] of the texts alone, without [CLS] and before any norm: what the second half takes."""
        states_RTW: Tensor = self.text(ids, self._mask(ids, mask), with_cls=False)[0]
        return states_RTW

    @property
    def padded_to(self) -> int | None:
        """Tokens that every text must be padded to before `text_features`; None: any length will do."""
        return self.config.text.max_positions if self.config.text.cls_position == "padded" else None

    def text_features(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """[R, E], unit norm, from the learned [CLS] at the end of the text.

        With `cls_position: padded` they depend on T: pad to `padded_to`, as open_clip does.
        """
        return self._projected_text(self.text(ids, self._mask(ids, mask))[1])

    def joint_features(self, ids: Tensor, mask: Tensor | None, images: Tensor) -> Tensor:
        """[R, T, W], the decoder's outputs: image and text in one representation, for a new pooler with one query and a
        classifier (section 4.2.3 and appendix B: VQA, entailment, two-image reasoning).

        R is a multiple of the images' B, texts image by image.
        """
        states_RTW: Tensor = self.decoder(self.encode_text(ids, mask), self.decoder.image_kv(self.caption_queries(images)))
        return states_RTW

    def lm_logits(self, ids: Tensor, mask: Tensor | None, images: Tensor) -> Tensor:
        """[R, T, V]: at each position, the scores of the next token. Texts as in `joint_features`."""
        logits_RTV: Tensor = self.decoder.vocabulary(self.joint_features(ids, mask, images))
        return logits_RTV

    @torch.inference_mode()
    def generate(
        self,
        images: Tensor,
        prompt_ids: Tensor,
        decoding: Decoding | Mapping[str, Any],
        *,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> Generated:
        """Captions of the images; see `capfilt.modeling.decoding.generate`.

        Args:
            images: From `encode_image`, or pixels.
            prompt_ids: [P] or [B, P], start token first; a final end token goes.
            decoding: Greedy, beam or nucleus.
            seeds: One list per image, one 64-bit seed per caption wanted. Needed by nucleus.
        """
        images = self.pooled_queries(images)
        prompt_ids = prompt_of_each(prompt_ids, len(images), end_id=self.config.text.sep_id)
        return generate(CocaDecoder(self), images, prompt_ids, decoding, seeds=seeds)

    # ── losses ──────────────────────────────────────────────────────────────────────────────────────────────

    def losses(
        self,
        batch: "Batch | Mapping[str, Tensor]",
        *,
        names: Sequence[CocaLoss] = ("itc", "lm"),
        positives: Literal["pair", "image"] = "pair",
        prompt_length: int = 0,
    ) -> dict[str, Tensor]:
        """The contrastive loss `itc` and the captioning loss `lm` from ONE pass, unweighted (the paper's weights: LOSS_WEIGHTS).

        Args:
            batch: A Batch, or a dictionary of its tensors: `pixels` [B, C, H, W], `ids` [B, T] and, where given, `mask` [B, T]
                and `image_ids` [B].
            names: Those wanted; what only the others need is not computed.
            positives: pair: the own pair alone (CoCa eq. 2). image: every text of the same image, by `image_ids`.
            prompt_length: Tokens at the head of every text that are the prompt, seen but not learnt; position 0 counted.
        """
        if not isinstance(batch, Batch):
            batch = known_names(batch)
            batch = as_batch(
                batch if "mask" in batch or "ids" not in batch else {**batch, "mask": self._mask(batch["ids"], None)}
            )
        tokens_BND = self.image_tokens(batch.pixels_BCHW)
        contrast_BP, caption_BQP = self.poolers(tokens_BND, contrastive="itc" in names, captioning="lm" in names)
        states_RTW, cls_RW = self.text(batch.ids_BT, batch.mask_BT, with_cls="itc" in names)
        found: dict[str, Tensor] = {}
        if "itc" in names:
            image_BE, text_BE = self._projected_image(contrast_BP).float(), self._projected_text(cls_RW).float()
            if positives == "image":
                targets_BB = positives_by_image(batch.image_ids_B, batch.image_ids_B)
            else:
                targets_BB = one_hot_positives(len(text_BE), len(text_BE), text_BE.device)
            # In bfloat16 a cosine has two digits, and the temperature multiplies its error by 14.
            with torch.autocast(text_BE.device.type, enabled=False):
                sims_BB = image_BE @ text_BE.T * self.logit_scale.float().exp()
            found["itc"] = itc_loss(sims_BB, sims_BB.T, targets_BB, targets_BB)
        if "lm" in names:
            labels_RT = lm_labels(batch.ids_BT, batch.mask_BT, prompt_length)
            states_RTW = self.decoder(states_RTW[:, :-1], self.decoder.image_kv(caption_BQP))
            # The vocabulary is scored only where a token is kept.
            kept_M = (labels_RT != IGNORED).flatten().nonzero()[:, 0]
            logits_MV = self.decoder.vocabulary(states_RTW.flatten(0, 1).index_select(0, kept_M))
            found["lm"] = lm_loss(logits_MV.float(), labels_RT.flatten()[kept_M], smoothing=0.0)
        return found

    def _projected_image(self, contrast_BP: Tensor) -> Tensor:
        return F.normalize(self.image_projection(contrast_BP), dim=-1)

    def _projected_text(self, cls_RW: Tensor) -> Tensor:
        return F.normalize(self.text_projection(cls_RW), dim=-1)

    def _mask(self, ids_RT: Tensor, mask_RT: Tensor | None) -> Tensor:
        return (ids_RT != self.config.text.pad_id).long() if mask_RT is None else mask_RT
