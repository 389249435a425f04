"""Each loss against a float64 computation written from the papers with loops and no torch losses."""

import math

import numpy as np
import torch

from capfilt.modeling.losses import (
    IGNORED,
    draw_negatives,
    itc_loss,
    itm_loss,
    lm_labels,
    lm_loss,
    log_weights,
    one_hot_positives,
    positives_by_image,
    soft_targets,
)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_itc_is_the_mean_of_both_directions_with_momentum_soft_targets() -> None:
    i2t, t2i, m_i2t, m_t2i = (rand(3, 7, seed=s) for s in range(4))
    own = one_hot_positives(3, 7, torch.device("cpu"))
    found = itc_loss(i2t, t2i, soft_targets(m_i2t, own, 0.3), soft_targets(m_t2i, own, 0.3))
    expected = 0.0
    for sims, momentum in ((i2t, m_i2t), (t2i, m_t2i)):
        for i in range(3):
            target = 0.3 * softmax(momentum[i].double().numpy())
            target[i] += 0.7
            expected -= float(target @ np.log(softmax(sims[i].double().numpy()))) / 3 / 2
    assert math.isclose(float(found), expected, rel_tol=1e-5)


def test_soft_targets_carry_no_gradient() -> None:
    sims = rand(2, 4).requires_grad_()
    assert not soft_targets(sims, one_hot_positives(2, 4, sims.device), 0.4).requires_grad


def test_every_text_of_an_image_is_an_equal_positive() -> None:
    found = positives_by_image(torch.tensor([7, 9, 7]), torch.tensor([7, 9, 7, -1, 9, 7]))
    third, half = 1 / 3, 1 / 2
    expected = [[third, 0, third, 0, 0, third], [0, half, 0, 0, half, 0], [third, 0, third, 0, 0, third]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_itm_is_the_cross_entropy_over_the_pairs_that_could_be_formed() -> None:
    logits, labels = rand(4, 2), [1, 0, IGNORED, 0]
    expected = -np.mean([np.log(softmax(logits[i].double().numpy())[labels[i]]) for i in (0, 1, 3)])
    assert math.isclose(float(itm_loss(logits, torch.tensor(labels))), expected, rel_tol=1e-5)


def test_lm_smooths_labels_and_keeps_the_end_but_neither_padding_nor_prompt() -> None:
    ids = torch.tensor([[2, 5, 6, 3, 0], [2, 7, 3, 0, 0]])
    labels = lm_labels(ids, (ids != 0).long(), prompt_length=2)
    assert labels.tolist() == [[IGNORED, 6, 3, IGNORED], [IGNORED, 3, IGNORED, IGNORED]]
    logits = rand(2, 4, 9)
    expected = []
    for row, column, target in ((0, 1, 6), (0, 2, 3), (1, 1, 3)):
        log_p = np.log(softmax(logits[row, column].double().numpy()))
        expected.append(-(0.9 * log_p[target] + 0.1 * log_p.mean()))
    assert math.isclose(float(lm_loss(logits.flatten(0, 1), labels.flatten())), np.mean(expected), rel_tol=1e-5)


def test_negatives_are_drawn_in_proportion_to_their_weight_and_never_where_forbidden() -> None:
    sims = torch.tensor([[9.0, 0.0, 1.0, 2.0]])
    weights = log_weights(sims, torch.tensor([[True, False, False, False]]), 1e-4)
    generator = torch.Generator().manual_seed(0)
    drawn, possible = draw_negatives(weights.expand(20_000, -1), generator)
    p = softmax(sims[0].double().numpy()) + 1e-4
    p[0] = 0
    np.testing.assert_allclose(np.bincount(drawn.numpy(), minlength=4) / 20_000, p / p.sum(), atol=0.012)
    assert possible.all()


def test_a_negative_is_found_even_where_its_probability_underflows() -> None:
    sims = torch.tensor([[1000.0, 0.0]])
    weights = log_weights(sims, torch.tensor([[True, False]]))
    assert draw_negatives(weights, torch.Generator().manual_seed(0))[0].tolist() == [1]


def test_a_row_without_any_possible_negative_says_so() -> None:
    weights = log_weights(rand(2, 2), torch.tensor([[True, True], [False, True]]))
    assert draw_negatives(weights, torch.Generator().manual_seed(0))[1].tolist() == [False, True]
