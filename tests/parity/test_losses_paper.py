"""One training step of BLIP against a float64 computation written from the papers, with loops and without the package's losses.

Features and logits come from the network itself, in float64; test_med_transformers.py says that those are right.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from capfilt.modeling.batch import Batch
from capfilt.modeling.med import MED
from capfilt.modeling.med.checkpoints.original import to_original
from capfilt.modeling.med.training import MedCaptionerFinetuning

SHAPE = (2, 2, 32)
ALPHA, MOMENTUM = 0.3, 0.995


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max()
    return shifted - np.log(np.exp(shifted).sum())


def norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def contrast(online: np.ndarray, momentum: np.ndarray, others: np.ndarray, positives: np.ndarray, temp: float) -> float:
    """ALBEF section 3.2: cross-entropy of the online similarities against alpha * momentum softmax + (1 - alpha) * positives."""
    total = 0.0
    for i in range(len(online)):
        target = ALPHA * np.exp(log_softmax(others @ momentum[i] / temp)) + (1 - ALPHA) * positives[i]
        total -= float(target @ log_softmax(others @ online[i] / temp))
    return total / len(online)


class Step:
    """What one step should give, computed beside the package from the weights before it."""

    def __init__(self, model: MED, pixels: Tensor, ids: Tensor, mask: Tensor) -> None:
        model.objective  # noqa: B018  its momentum copy and queue are to be there
        self.before = to_original(model)
        exact = copy.deepcopy(model).double()
        self.exact, self.ids, self.mask = exact, ids, mask
        with torch.no_grad():
            self.embeds = exact.encode_image(pixels.double())
            self.temp = min(max(float(exact.temp), 0.001), 0.5)
            self.image = exact.image_features(self.embeds).numpy()
            self.text = exact.text_features(ids, mask).numpy()
            averaged = self.averaged(exact)
            self.image_m = averaged.image_features(averaged.encode_image(pixels.double())).numpy()
            self.text_m = averaged.text_features(ids, mask).numpy()
        self.images = np.concatenate([self.image_m, self.before["image_queue"].T.double().numpy()])
        self.texts = np.concatenate([self.text_m, self.before["text_queue"].T.double().numpy()])

    def averaged(self, exact: MED) -> MED:
        """The network whose weights are momentum * copy + (1 - momentum) * online."""
        state = {name: x.double() for name, x in to_original(exact).items()}
        for name in list(state):
            root, rest = name.split(".", 1) if "." in name else (name, "")
            own = self.before.get(f"{root}_m.{rest}")
            if own is not None:
                state[name] = MOMENTUM * own.double() + (1 - MOMENTUM) * state[name]
        kept = {name: x for name, x in state.items() if "_m." not in name and "queue" not in name}
        settings = {"image": {"heads": 2}, "text": {"heads": 4, "cls_id": 1, "sep_id": 2}}
        return MED.from_original(kept, settings).double()  # rounded to float32 once, far below the tolerance

    def itc(self, positives: np.ndarray) -> float:
        i2t = contrast(self.image, self.image_m, self.texts, positives, self.temp)
        return (i2t + contrast(self.text, self.text_m, self.images, positives, self.temp)) / 2

    def itm(self, negative_image: list[int], negative_text: list[int]) -> float:
        total, own = 0.0, list(range(len(self.ids)))
        rows = [(i, i, 1) for i in own] + [(negative_image[i], i, 0) for i in own] + [(i, negative_text[i], 0) for i in own]
        for image, text, label in rows:
            with torch.no_grad():
                logits = self.exact.itm_logits(self.ids[[text]], self.mask[[text]], self.embeds[[image]])[0].numpy()
            total -= float(log_softmax(logits)[label])
        return total / len(rows)

    def lm(self, prompt_length: int = 0) -> float:
        with torch.no_grad():
            logits = self.exact.lm_logits(self.ids, self.mask, self.embeds).numpy()
        found = []
        for row, own in enumerate(self.ids.tolist()):
            for at in range(max(1, prompt_length), int(self.mask[row].sum())):
                log_p = log_softmax(logits[row, at - 1])
                found.append(-(0.9 * log_p[own[at]] + 0.1 * log_p.mean()))
        return float(np.mean(found))


def given(found: dict[str, Tensor], **expected: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("temp", [0.09, 0.9, 1e-5])
def test_a_step_of_pretraining(blip: Any, temp: float) -> None:
    model = MED.from_original(blip.pretraining(SHAPE) | {"temp": torch.tensor(temp)}, blip.settings)
    pixels, ids, mask = blip.inputs(4, 9, 32)
    step = Step(model, pixels, ids, mask)
    negatives = [1, 2, 3, 0], [3, 0, 1, 2]
    found = model.losses(
        {"pixels": pixels, "ids": ids, "mask": mask}, alpha=ALPHA, negatives=tuple(torch.tensor(x) for x in negatives)
    )
    tolerance = 1e-5 if temp > 0.01 else 1e-3  # divided by the clamped 0.001, a cosine's last float32 digit is 6e-5
    assert float(found["itc"].detach()) == pytest.approx(step.itc(np.eye(4, 10)), abs=tolerance, rel=tolerance)
    given({name: found[name] for name in ("itm", "lm")}, itm=step.itm(*negatives), lm=step.lm())

    after = to_original(model)
    assert float(after["temp"]) == pytest.approx(step.temp)
    for name, tensor in after.items():  # one momentum update
        root, rest = name.split(".", 1) if "." in name else (name, "")
        if root.endswith("_m"):
            online = step.before[f"{root.removesuffix('_m')}.{rest}"].double()
            expected = MOMENTUM * step.before[name].double() + (1 - MOMENTUM) * online
            torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=0)
    assert after["queue_ptr"].tolist() == [0]  # one enqueue: from place 2 of 6, four entries
    for name, features in (("image_queue", step.image_m), ("text_queue", step.text_m)):
        np.testing.assert_allclose(after[name].T[2:].numpy(), features, atol=1e-5)
        assert torch.equal(after[name][:, :2], step.before[name][:, :2])


def test_two_pairs_have_only_one_negative_each(blip: Any) -> None:
    model = MED.from_original(blip.pretraining(SHAPE), blip.settings)
    pixels, ids, mask = blip.inputs(2, 7, 32)
    step = Step(model, pixels, ids, mask)
    found = model.losses({"pixels": pixels, "ids": ids, "mask": mask}, alpha=ALPHA)
    given(found, itc=step.itc(np.eye(2, 8)), itm=step.itm([1, 0], [1, 0]), lm=step.lm())


def test_a_step_of_the_filter_counts_all_texts_of_an_image_as_positives(blip: Any) -> None:
    state = {name: x for name, x in blip.pretraining(SHAPE).items() if not name.startswith("text_decoder.")}
    state["ptr_queue"] = state.pop("queue_ptr")
    state["idx_queue"] = torch.tensor([[7, -100, 9, 7, -100, 4]])
    model = MED.from_original(state, blip.settings)
    pixels, ids, mask = blip.inputs(4, 9, 32)
    image_ids = [7, 3, 7, 9]
    step = Step(model, pixels, ids, mask)
    candidates = [*image_ids, 7, None, 9, 7, None, 4]
    positives = np.array([[float(one == other) for other in candidates] for one in image_ids])
    positives /= positives.sum(1, keepdims=True)
    negatives = [1, 2, 3, 0], [3, 0, 1, 2]
    batch = {"pixels": pixels, "ids": ids, "mask": mask, "image_ids": torch.tensor(image_ids)}
    found = model.losses(batch, alpha=ALPHA, negatives=tuple(torch.tensor(x) for x in negatives))
    given(found, itc=step.itc(positives), itm=step.itm(*negatives))
    after = to_original(model)
    assert after["idx_queue"].tolist() == [[7, -100, 7, 3, 7, 9]]
    assert after["ptr_queue"].tolist() == [0]


@pytest.mark.parametrize("prompt_length", [0, 4])
def test_the_captioner_learns_what_follows_the_prompt(blip: Any, prompt_length: int) -> None:
    model = MED.from_original(blip.original(blip.make("captioner", SHAPE)), blip.settings)
    pixels, ids, mask = blip.inputs(4, 9, 32)
    exact = copy.deepcopy(model).double()
    step = Step.__new__(Step)
    step.exact, step.ids, step.mask = exact, ids, mask
    with torch.no_grad():
        step.embeds = exact.encode_image(pixels.double())
    task = MedCaptionerFinetuning(model, prompt_length=prompt_length)
    given(task.losses(Batch(pixels, ids, mask, torch.arange(4))), lm=step.lm(prompt_length))
    if not prompt_length:
        given(model.losses({"pixels": pixels, "ids": ids, "mask": mask}), lm=step.lm())
