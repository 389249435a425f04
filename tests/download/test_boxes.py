import pytest

from capfilt.download.boxes import BoxesError, read_boxes


@pytest.mark.parametrize(
    ("value", "boxes"),
    [
        (None, None),
        ([], None),
        ("", None),
        ("[]", None),
        ("null", None),
        ([[0.1, 0.2, 0.3, 0.4]], [[0.1, 0.2, 0.3, 0.4]]),
        ([[0, 0, 1, 1]], [[0.0, 0.0, 1.0, 1.0]]),
        ("[[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.02, 0.9]]", [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.02, 0.9]]),
        ([[-0.1, 0.2, 0.3, 0.4]], [[-0.1, 0.2, 0.3, 0.4]]),
    ],
)
def test_boxes_are_lists_or_json(value: object, boxes: object) -> None:
    assert read_boxes(value) == boxes


@pytest.mark.parametrize(
    "value",
    [
        [[120, 40, 300, 200]],  # pixels
        [[0.3, 0.2, 0.1, 0.4]],  # from right to left
        [[0.1, 0.2, 0.3]],
        [[0.1, 0.2, 0.2, 0.2]],  # width and height in the place of a corner, mostly
        [0.1, 0.2, 0.3, 0.4],
        [[0.1, 0.2, float("nan"), 0.4]],
        [[0.1, 0.2, None, 0.4]],
        [None],
        "0.1 0.2 0.3 0.4",
        "[" * 100_000,
        7,
        {"x0": 0.1},
    ],
)
def test_what_cannot_be_meant_is_an_error(value: object) -> None:
    with pytest.raises(BoxesError):
        read_boxes(value)
