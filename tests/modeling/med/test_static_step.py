"""The decoding step of fixed shapes, without a graph on the CPU: what it gives is what the growing one gives."""

import copy
import gc

import pytest
import torch

from capfilt.config.decoding import Beam, Decoding, Greedy, Nucleus
from capfilt.modeling.decoding import generate
from capfilt.modeling.med import MED, MedDecoder
from capfilt.modeling.med.static_step import _STEPS, static_steps


@pytest.fixture(autouse=True)
def few_rows_may_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capfilt.modeling.decoding.SMALLEST_BATCH", 1)


@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(max_length=14, min_length=0),
        Greedy(max_length=14, min_length=0, repetition_penalty=1.4),
        Beam(max_length=13, min_length=4),
        Nucleus(max_length=14, min_length=0, top_p=0.8),
        Nucleus(max_length=14, min_length=0, top_k=5),
    ],
)
@torch.inference_mode()
def test_steps_of_fixed_shapes_write_the_same_texts(model: MED, decoding: Decoding) -> None:
    model.eval()
    model.head.vocabulary.bias[3] += 1.5  # texts end at different lengths, so that batches shrink
    start = torch.tensor([[2, 7]] * 8)
    n = 3 if isinstance(decoding, Nucleus) else 1
    seeds = [[10 * i + k for k in range(n)] for i in range(8)]
    for seed in (0, 1):  # the second batch finds the buffers of the first
        embeds = model.encode_image(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
        expected = generate(MedDecoder(model, static=False), embeds, start, decoding, seeds=seeds)
        for look_every in (1, 3):
            found = generate(MedDecoder(model, static=True), embeds, start, decoding, seeds=seeds, look_every=look_every)
            assert torch.equal(found.ids_BnL, expected.ids_BnL)
            torch.testing.assert_close(found.log_prob_Bn, expected.log_prob_Bn)


@torch.inference_mode()
def test_buffers_stay_where_they_are_from_batch_to_batch(model: MED) -> None:
    model.eval()
    decoder, prompt = MedDecoder(model, static=True), torch.tensor([[2, 7]] * 4)

    def begin(images: int, max_length: int) -> list[int]:
        embeds = model.encode_image(torch.randn(images, 3, 16, 16))
        scores, cache = decoder.start(embeds, prompt[:images], 2, max_length)
        decoder.step(torch.full((2 * images,), 5), cache)
        step = cache._step  # type: ignore[union-attr]
        assert len(scores) == images
        assert step.own[0][0].shape[2] == 16, "lengths come in buckets"
        return [x.data_ptr() for pair in (*step.image_kv, *step.own) for x in pair] + [step.ids_R.data_ptr()]

    first = begin(4, 14)
    assert begin(4, 12) == first
    steps = static_steps(model, model.text_decoder, model.head, model.config.text)
    assert len(steps._made) == 1
    begin(2, 12)
    assert [shape[0] for shape in steps._made] == [2], "an unlike batch takes the place of the old ones"


@torch.inference_mode()
def test_a_model_with_steps_can_be_copied_and_forgotten(model: MED) -> None:
    model = copy.deepcopy(model).eval()
    embeds = model.encode_image(torch.randn(2, 3, 16, 16))
    generate(MedDecoder(model, static=True), embeds, torch.tensor([[2, 7]] * 2), Greedy(max_length=10, min_length=0))
    known = len(_STEPS)
    copy.deepcopy(model)
    assert len(_STEPS) == known
    del model
    gc.collect()
    assert len(_STEPS) == known - 1
