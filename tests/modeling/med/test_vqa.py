from collections.abc import Callable

import pytest
import torch

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.decoding import Beam, Greedy
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.med import MED
from capfilt.modeling.med.vqa import Answered, MedVqa, Questions


@pytest.fixture
def network(model: MED) -> MedVqa:
    return MedVqa(model).eval()


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Five answers of one to three tokens."""
    ids = torch.tensor([[2, 7, 3, 0, 0], [2, 8, 9, 3, 0], [2, 8, 10, 11, 3], [2, 12, 3, 0, 0], [2, 13, 14, 3, 0]])
    return ids, (ids != 0).long()


@pytest.fixture
def questions(network: MedVqa, make_batch: Callable[..., Batch]) -> Questions:
    batch = make_batch(pairs=3)
    with torch.inference_mode():
        return network.read(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT)


def brute_force(network: MedVqa, questions: Questions, answer: list[int]) -> torch.Tensor:
    """[B]: the sum of the log-probabilities of the tokens, one at a time, each question without its padding."""
    found = []
    for states, mask in zip(questions.states_BSW, questions.mask_BS, strict=True):
        alone = Questions(states[None, : int(mask.sum())], mask[None, : int(mask.sum())])
        total = torch.zeros(())
        for end in range(1, len(answer)):
            written = torch.tensor([answer[:end]])
            total = total + network.answer_logits(alone, written)[0, -1].log_softmax(0)[answer[end]]
        found.append(total)
    return torch.stack(found)


@torch.inference_mode()
def test_ranking_takes_the_most_probable_answer(
    network: MedVqa, questions: Questions, answers: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_AT, mask_AT = answers
    every = [brute_force(network, questions, ids[mask.bool()].tolist()) for ids, mask in zip(ids_AT, mask_AT, strict=True)]
    log_p_BA = torch.stack(every, dim=1)
    rows = torch.arange(5).repeat(3)
    together = network.answer_log_probs(questions, ids_AT[rows], mask_AT[rows]).view(3, 5)
    torch.testing.assert_close(together, log_p_BA, atol=1e-5, rtol=0)
    assert torch.equal(network.rank(questions, ids_AT, mask_AT, 5), log_p_BA.argmax(1))
    monkeypatch.setattr("capfilt.modeling.med.vqa.ANSWERS_AT_ONCE", 7)
    assert torch.equal(network.rank(questions, ids_AT, mask_AT, 5), log_p_BA.argmax(1)), "one question at a time"
    assert torch.equal(network.rank(questions, ids_AT, mask_AT, 128), log_p_BA.argmax(1))


@torch.inference_mode()
def test_only_answers_with_a_probable_first_token_are_compared(
    network: MedVqa, questions: Questions, answers: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ids_AT, mask_AT = answers
    first_BV = network.answer_logits(questions, torch.full((3, 1), 2))[:, 0]
    distinct = torch.tensor([0, 1, 3, 4])  # answers 1 and 2 begin alike
    found = network.rank(questions, ids_AT[distinct], mask_AT[distinct], 1)
    assert torch.equal(found, first_BV[:, ids_AT[distinct, 1]].argmax(1))


@torch.inference_mode()
def test_open_answers_are_those_of_writing_without_a_cache(network: MedVqa, questions: Questions) -> None:
    written = network.generate(questions, Greedy(min_length=1, max_length=6)).ids_BnL[:, 0]
    for row in range(3):
        mask = questions.mask_BS[row : row + 1]
        alone = Questions(questions.states_BSW[row : row + 1, : int(mask.sum())], mask[:, : int(mask.sum())])
        ids = [network.config.text.dec_id]
        while len(ids) < 6 and ids[-1] != network.config.text.sep_id:
            ids.append(int(network.answer_logits(alone, torch.tensor([ids]))[0, -1].argmax()))
        assert written[row].tolist()[: len(ids)] == ids
    beams = network.generate(questions, Beam(beams=3, min_length=1, max_length=6))
    best = brute_force(network, questions, [t for t in beams.ids_BnL[0, 0].tolist() if t != network.config.text.pad_id])
    assert float(beams.log_prob_Bn[0, 0]) == pytest.approx(float(best[0]), abs=1e-4)


def test_the_decoder_begins_as_the_captioner_and_shares_nothing(model: MED) -> None:
    trained = {name: x.clone() for name, x in model.text_decoder.state_dict().items()}
    network = MedVqa(model)
    own = network.text_decoder.state_dict()
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], trained[name]) for name in own), "pictures and texts are equally wide here"
    encoder = {id(x) for x in network.text_encoder.parameters()}
    assert not encoder & {id(x) for x in network.text_decoder.parameters()}


def test_where_pictures_are_wider_only_keys_and_values_begin_anew(architecture: MedArchitecture) -> None:
    wide = architecture.model_copy(update={"image": architecture.image.model_copy(update={"width": 32})})
    model = build(wide, seed=1)
    own, trained = MedVqa(model).text_decoder.state_dict(), model.text_decoder.state_dict()
    changed = {name for name in own if own[name].shape != trained[name].shape}
    assert changed == {name for name in own if name.endswith("cross.attention.kv.weight")}
    assert all(torch.equal(own[name], trained[name]) for name in own if name not in changed)


@torch.no_grad()
def test_the_loss_is_the_answers_sum_and_the_questions_mean(
    network: MedVqa, make_batch: Callable[..., Batch], answers: tuple[torch.Tensor, torch.Tensor]
) -> None:
    batch = make_batch(pairs=3)
    ids, mask = answers[0][:3], answers[1][:3]
    whole = network.losses(Answered(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT, ids, mask))["lm"]
    each = [
        network.losses(
            Answered(*(x[i : i + 1] for x in (batch.pixels_BCHW, batch.ids_BT, batch.mask_BT)), ids[i : i + 1], mask[i : i + 1])
        )["lm"]
        for i in range(3)
    ]
    assert float(whole) == pytest.approx(float(torch.stack(each).mean()), abs=1e-5)
