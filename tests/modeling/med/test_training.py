import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from capfilt.errors import ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.losses import lm_labels
from capfilt.modeling.med import MED
from capfilt.modeling.med.training import MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining


def train(task: MedPretraining, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    optimiser.zero_grad()
    sum(task.losses(batch).values()).backward()
    optimiser.step()


@pytest.mark.parametrize("kind", [MedPretraining, MedFilterFinetuning])
def test_a_resumed_step_equals_the_uninterrupted_one_to_the_bit(
    kind: type[MedPretraining], model: MED, make_batch: Callable[..., Batch]
) -> None:
    task = kind(model, seed=3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for seed in range(3):
        train(task, optimiser, make_batch(seed=seed))
    file = io.BytesIO()
    torch.save({"task": task.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = kind(build(model.config, seed=99), seed=77)
    other_optimiser = torch.optim.AdamW(other.model.parameters(), lr=1e-2)
    other.load_state_dict(saved["task"])
    other_optimiser.load_state_dict(saved["optimiser"])
    for seed in range(3, 5):
        train(task, optimiser, make_batch(seed=seed))
        train(other, other_optimiser, make_batch(seed=seed))
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_training_on_one_batch_lowers_every_loss(model: MED, make_batch: Callable[..., Batch]) -> None:
    task = MedPretraining(model)
    task.set_progress(0, 10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = make_batch()
    first = {name: float(loss.detach()) for name, loss in task.losses(batch).items()}
    for _ in range(60):
        train(task, optimiser, batch)
    last = {name: float(loss.detach()) for name, loss in task.losses(batch).items()}
    assert set(first) == {"itc", "itm", "lm"}
    assert all(last[name] < first[name] for name in first), (first, last)


def test_itc_sees_the_queue_as_it_was_before_this_batch(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    task = MedPretraining(model, losses=["itc"])
    task.set_progress(5, 10)
    before = copy.deepcopy(task.queue.state_dict())
    found = task.losses(batch)["itc"].double()
    with torch.no_grad():
        image = model.image_features(model.encode_image(batch.pixels_BCHW)).double()
        text = model.text_features(batch.ids_BT, batch.mask_BT).double()
        image_m, text_m = (x.double() for x in task.momentum.features(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT))
        texts = torch.cat([text_m, before["text_QE"].double()])
        images = torch.cat([image_m, before["image_QE"].double()])
        expected = torch.zeros((), dtype=torch.float64)
        for online, momentum, others in ((image, image_m, texts), (text, text_m, images)):
            target = 0.2 * (momentum @ others.T / model.temp.double()).softmax(1)
            target[range(5), range(5)] += 0.8
            expected -= (target * (online @ others.T / model.temp.double()).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task.queue.text_QE[:5].double(), text_m)
    assert task.queue.image_ids_Q[:5].tolist() == batch.image_ids_B.tolist()
    assert torch.equal(task.queue.text_QE[5:], before["text_QE"][5:])


def test_lm_loss_equals_the_smoothed_cross_entropy_of_the_public_logits(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    for prompt_length in (0, 3):
        found = MedCaptionerFinetuning(model, prompt_length=prompt_length).losses(batch)["lm"]
        logits = model.lm_logits(batch.ids_BT, batch.mask_BT, model.encode_image(batch.pixels_BCHW))[:, :-1]
        labels = lm_labels(batch.ids_BT, batch.mask_BT, prompt_length)
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_matching_equals_the_public_logits_on_the_drawn_pairs(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    task = MedPretraining(model, losses=["itm"])
    embeds = model.encode_image(batch.pixels_BCHW)
    negative = torch.tensor([1, 2, 3, 4, 0])
    forced = torch.full((5, 5), -torch.inf)
    forced[range(5), negative] = 0.0
    found = task.matching(batch, embeds, model.text_encoder.image_kv(embeds), forced, forced)
    own = torch.arange(5)
    texts, images = torch.cat([own, own, negative]), torch.cat([own, negative, own])
    logits = model.itm_logits(batch.ids_BT[texts], batch.mask_BT[texts], embeds, images)
    labels = torch.tensor([1] * 5 + [0] * 10)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels), atol=1e-5, rtol=1e-5)


def test_texts_of_the_same_image_are_never_negatives(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    same = Batch(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT, torch.zeros(5, dtype=torch.int64))
    found = MedFilterFinetuning(model, losses=["itm"]).losses(same)["itm"]
    positives = model.itm_logits(batch.ids_BT, batch.mask_BT, model.encode_image(batch.pixels_BCHW))
    torch.testing.assert_close(found, F.cross_entropy(positives, torch.ones(5, dtype=torch.int64)), atol=1e-5, rtol=1e-5)


def test_alpha_ramps_linearly_and_then_stays(model: MED) -> None:
    task = MedPretraining(model)
    alphas = []
    for step in (0, 5, 10, 50):
        task.set_progress(step, 10)
        alphas.append(task.alpha)
    assert alphas == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_an_unknown_loss_is_refused_with_the_choices(model: MED) -> None:
    with pytest.raises(ConfigError, match=r"itc, itm.*'lm'"):
        MedFilterFinetuning(model, losses=["lm"])
