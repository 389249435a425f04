import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from capfilt.report import charts

counts = st.lists(st.integers(0, 10**9), min_size=40, max_size=40)
thresholds = st.none() | st.floats(0, 1)
heights = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
curves = st.lists(heights, max_size=400).map(lambda ys: [(float(step), y) for step, y in enumerate(ys)])


def numbers(drawing: str) -> list[float]:
    ElementTree.fromstring(drawing)  # well-formed
    return [float(value) for value in re.findall(r'\s(?:[xy][12]?|cx|cy|width|height)="([^"]+)"', drawing)]


@given(counts, counts, thresholds)
def test_a_histogram_stays_inside_its_picture(web: list[int], synthetic: list[int], threshold: float | None) -> None:
    drawing = charts.mirrored(web, synthetic, threshold)
    assert all(-1 <= value <= charts.WIDTH + 1 for value in numbers(drawing))
    assert drawing.count("<rect") == sum(map(bool, [*web, *synthetic]))


@given(curves, curves)
def test_a_loss_curve_stays_inside_its_picture(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> None:
    if not before and not after:
        return
    drawing = charts.losses("ITM", before, after, ("round 0", "round 1"))
    assert all(-1 <= value <= 341 for value in numbers(drawing))
    for points in re.findall(r'points="([^"]+)"', drawing):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 43 <= x <= 329
            assert 27 <= y <= 181


def test_a_label_cannot_break_out_of_the_drawing() -> None:
    drawing = charts.losses("</svg><script>", [(0.0, 1.0), (1.0, 0.5)], [], ("round 0", "round 1"))
    assert "<script>" not in drawing
    ElementTree.fromstring(drawing)


def test_the_share_kept_at_a_threshold_between_two_points_is_read_off_the_line() -> None:
    drawing = charts.keep_rates([(0.0, 1.0), (0.4, 0.6), (0.5, 0.4)], [(0.0, 1.0), (0.5, 0.9)], 0.45)
    assert "web 50 %" in drawing
    assert "synthetic 91 %" in drawing


def test_where_all_is_kept_its_label_and_the_thresholds_stand_on_either_side() -> None:
    drawing = charts.keep_rates([(0.0, 1.0), (1.0, 0.2)], [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0)], 0.5)
    side = {name: re.search(rf'text-anchor="(\w+)">{name}', drawing) for name in ("threshold 0.5", "synthetic 100 %", "web 60 %")}
    assert {name: found and found[1] for name, found in side.items()} == {
        "threshold 0.5": "start",
        "synthetic 100 %": "end",
        "web 60 %": "end",
    }
