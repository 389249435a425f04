"""Questions about pictures as BLIP answers them: the question is read with the picture, the answer is written about the question.

Gives question states, log-probabilities of given answers, ranks, open answers and the loss (BLIP section 5.3). The answer decoder
sees the question's states in place of the picture. Knows nothing of tokenising or files.

Axes at the end of tensor names: B questions, S question tokens, W text width, A known answers, k of them compared, R answers
(rows, question by question), T answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.decoding import Decoding
from capfilt.modeling.decoding import Generated, generate
from capfilt.modeling.layers import KeysValues, initialise
from capfilt.modeling.losses import IGNORED, lm_labels
from capfilt.modeling.med.network import MED, MedCache, with_first
from capfilt.modeling.text import MASKED, LanguageHead, TextTower

SMOOTHING = 0.1
"""Of the answers' labels, as of BLIP's LM loss."""
ANSWERS_AT_ONCE = 512
"""Whose scores of every token of the vocabulary are held at a time: BERT's are 120 kB per token of an answer."""


@dataclass(frozen=True)
class Questions:
    """B questions, each read with its picture."""

    states_BSW: Tensor
    mask_BS: Tensor

    def bias(self) -> Tensor:
        """[B, 1, 1, S], added to the scores of the answer decoder's cross-attention: padding is not seen."""
        return (1 - self.mask_BS.to(self.states_BSW.dtype))[:, None, None, :] * MASKED


@dataclass(frozen=True)
class Answered:
    """A batch to learn from: pictures, questions, one answer each."""

    pixels_BCHW: Tensor
    question_ids_BS: Tensor
    question_mask_BS: Tensor
    ids_BT: Tensor
    mask_BT: Tensor


class MedVqa(nn.Module):
    """Takes the image encoder and the text encoder of `model` as its own (they are trained), and a copy of its decoder.

    The decoder's cross-attention starts from the pre-trained weights where pictures and texts are equally wide, else fresh, as in
    the published code. Encoder and decoder share nothing.
    """

    def __init__(self, model: MED) -> None:
        super().__init__()
        text = model.config.text
        self.config = model.config
        self.vision = model.vision
        self.text_encoder = model.text_encoder
        self.text_decoder = TextTower.new(text, text.width)
        self.head = LanguageHead(text, self.text_decoder.embeddings.words if text.tied_vocabulary else None)
        for fresh, trained in ((self.text_decoder, model.text_decoder), (self.head, model.head)):
            initialise(fresh, model.config.init_std)
            own, known = fresh.state_dict(), trained.state_dict()
            fresh.load_state_dict({name: known[name] if known[name].shape == x.shape else x for name, x in own.items()})

    def read(self, pixels_BCHW: Tensor, ids_BS: Tensor, mask_BS: Tensor) -> Questions:
        """Position 0 becomes [ENC]."""
        image_kv = self.text_encoder.image_kv(self.vision(pixels_BCHW))
        return Questions(self.text_encoder(with_first(ids_BS, self.config.text.enc_id), mask_BS, image_kv), mask_BS)

    def answer_logits(self, questions: Questions, ids_RT: Tensor) -> Tensor:
        """[R, T, V]: at each position the scores of the next token.

        R is a multiple of B, answers question by question; position 0 becomes [DEC].
        """
        states_RTW = self.text_decoder(
            with_first(ids_RT, self.config.text.dec_id),
            None,
            self.text_decoder.image_kv(questions.states_BSW),
            causal=True,
            image_bias=questions.bias(),
        )
        logits_RTV: Tensor = self.head(states_RTW)
        return logits_RTV

    def answer_log_probs(self, questions: Questions, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[R]: sum over the answer's tokens, the closing one too. Answers as in `answer_logits`."""
        labels_RT = lm_labels(ids_RT, mask_RT, 0)
        log_p_RTV = self.answer_logits(questions, ids_RT[:, :-1]).float().log_softmax(-1)
        own_RT = log_p_RTV.gather(-1, labels_RT.clamp(min=0)[..., None])[..., 0]
        return own_RT.masked_fill(labels_RT == IGNORED, 0).sum(1)

    def rank(self, questions: Questions, ids_AT: Tensor, mask_AT: Tensor, top_k: int) -> Tensor:
        """[B]: index of the most probable answer among the `top_k` whose first token is the most probable.

        By true log-probabilities; the published code ranks by its smoothed training loss.
        """
        top_k = min(top_k, len(ids_AT))
        at_once = max(1, ANSWERS_AT_ONCE // top_k)
        found = []
        for start in range(0, len(questions.states_BSW), at_once):
            stop = start + at_once
            part = Questions(questions.states_BSW[start:stop], questions.mask_BS[start:stop])
            found.append(self._rank(part, ids_AT, mask_AT, top_k))
        return torch.cat(found)

    def _rank(self, questions: Questions, ids_AT: Tensor, mask_AT: Tensor, top_k: int) -> Tensor:
        count = len(questions.states_BSW)
        start_B1 = ids_AT.new_full((count, 1), self.config.text.dec_id)
        first_BV = self.answer_logits(questions, start_B1)[:, 0].float().log_softmax(-1)
        best_Bk = first_BV[:, ids_AT[:, 1]].topk(top_k, dim=1).indices
        rows_R = best_Bk.flatten()
        log_p_Bk = self.answer_log_probs(questions, ids_AT[rows_R], mask_AT[rows_R]).view(count, top_k)
        return best_Bk.gather(1, log_p_Bk.argmax(1, keepdim=True))[:, 0]

    @torch.inference_mode()
    def generate(self, questions: Questions, decoding: Decoding, *, seeds: Sequence[Sequence[int]] | None = None) -> Generated:
        """Open answers, [DEC] first; see `capfilt.modeling.decoding.generate`."""
        prompt_B1 = questions.mask_BS.new_full((len(questions.mask_BS), 1), self.config.text.dec_id)
        return generate(AnswerDecoder(self), questions, prompt_B1, decoding, seeds=seeds)

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing depends on the step."""

    def losses(self, batch: Answered) -> dict[str, Tensor]:
        """`lm`: the sum over an answer's tokens, the mean over questions, as in the published code."""
        questions = self.read(batch.pixels_BCHW, batch.question_ids_BS, batch.question_mask_BS)
        logits_BTV = self.answer_logits(questions, batch.ids_BT[:, :-1]).float()
        labels_BT = lm_labels(batch.ids_BT, batch.mask_BT, 0)
        total = F.cross_entropy(
            logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=SMOOTHING
        )
        return {"lm": total / len(batch.ids_BT)}


class AnswerCache(MedCache):
    """As MED's, with the questions in place of pictures, and which of their tokens are padding."""

    def __init__(self, image_kv: list[KeysValues], own: list[KeysValues], bias: Tensor) -> None:
        super().__init__(image_kv, own)
        self.bias = bias

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        super().keep(images_B, rows_R)
        self.bias = self.bias.index_select(0, images_B)


class AnswerDecoder:
    """The answer decoder as the decoding engine sees it (`capfilt.modeling.decoding.Decoder`)."""

    def __init__(self, model: MedVqa) -> None:
        self.model = model
        text = model.config.text
        self.eos_id, self.pad_id, self.longest = text.sep_id, text.pad_id, text.max_positions

    def start(
        self, image_embeds: Questions, prompt_BP: Tensor, rows_per_image: int, max_length: int
    ) -> tuple[Tensor, AnswerCache]:
        """Scores of the first new token per question, [B, V], and the cache for B * rows_per_image rows."""
        model, text = self.model, self.model.config.text
        questions, length = prompt_BP.shape
        states_BSW = image_embeds.states_BSW
        image_kv = model.text_decoder.image_kv(states_BSW)
        shape = (questions, text.heads, max_length, text.width // text.heads)
        prompt_own = [(states_BSW.new_empty(shape), states_BSW.new_empty(shape)) for _ in range(text.layers)]
        states = model.text_decoder.step(prompt_BP, image_kv, prompt_own, 0, image_bias=image_embeds.bias())
        own = [(k.repeat_interleave(rows_per_image, 0), v.repeat_interleave(rows_per_image, 0)) for k, v in prompt_own]
        cache = AnswerCache(image_kv, own, image_embeds.bias())
        cache.length = length
        return model.head(states[:, -1]), cache

    def step(self, ids_R: Tensor, cache: AnswerCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        tower = self.model.text_decoder
        states = tower.step(ids_R[:, None], cache.image_kv, cache.own, cache.length, image_bias=cache.bias)
        cache.length += 1
        scores_RV: Tensor = self.model.head(states[:, 0])
        return scores_RV
