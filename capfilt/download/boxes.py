"""Places of a picture to blur, as a carried column gives them: lists, or the same as JSON text (a CSV file has no lists).

A box is [x0, y0, x1, y1] as shares of the picture's width and height, from the upper left corner of the upright picture: what
img2dataset calls `bbox`. A box that cannot be meant is an error of its row, never a face left as it was.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

Boxes = Sequence[Sequence[float]]

_OVER = 0.5
"""How far beyond the picture a box may reach, as detectors' boxes of cut-off faces do. Pixels reach farther."""


class BoxesError(Exception):
    """What stands in the column is no list of boxes."""


def read_boxes(value: Any) -> list[list[float]] | None:
    """The boxes of a row; None where there are none.

    Raises:
        BoxesError: If it is no list of boxes of four finite numbers, x0 < x1 and y0 < y1, as shares of the picture.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise BoxesError from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise BoxesError
    return [_box(box) for box in value] or None


def _box(box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise BoxesError
    if not all(isinstance(edge, int | float) and math.isfinite(edge) and -_OVER <= edge <= 1 + _OVER for edge in box):
        raise BoxesError
    x0, y0, x1, y1 = map(float, box)
    if x0 >= x1 or y0 >= y1:
        raise BoxesError
    return [x0, y0, x1, y1]
