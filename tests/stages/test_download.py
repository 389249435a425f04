import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest
from PIL import Image

from capfilt.config.base import is_operational
from capfilt.config.download import DownloadConfig
from capfilt.errors import InputError
from capfilt.schema import pool_schema
from capfilt.stages.base import Guarded, RowStage
from capfilt.stages.download import DownloadStage


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        out = io.BytesIO()
        Image.new("RGB", (100, 50), (200, 30, 30)).save(out, "PNG")
        found = self.path.startswith("/ok")
        body = out.getvalue() if found else b"no"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        if "nofollow" in self.path:
            self.send_header("X-Robots-Tag", "nofollow")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def stage() -> Iterator[DownloadStage]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    config = DownloadConfig(image_px=25, deadline_s=2, connect_to={"*.web.test": "unresolved"})
    stage = DownloadStage(config, threads=4, connect_to={"*.web.test": f"127.0.0.1:{server.server_address[1]}"})
    yield stage
    stage.close()
    server.shutdown()
    server.server_close()


def rows(*urls: str | None, status: str = "ok") -> pa.Table:
    count = len(urls)
    return pa.table(
        {
            "row_id": [f"c-{row:06d}" for row in range(count)],
            "url": pa.array(urls, pa.string()),
            "status": pa.array([status] * count, pa.string()),
            "error": pa.nulls(count, pa.string()),
            "image": pa.nulls(count, pa.large_binary()),
        }
    )


def test_the_stage_is_a_row_stage(stage: DownloadStage) -> None:
    assert isinstance(stage, RowStage)


def test_rows_gain_pictures_or_the_reason_why_not(stage: DownloadStage) -> None:
    table = Guarded(stage)(
        rows("http://a.web.test/ok", "http://a.web.test/gone", "http://127.0.0.1/ok", "http://b.web.test/ok-nofollow")
    )
    assert table["status"].to_pylist() == ["ok", "download_failed", "download_failed", "ok"]
    assert table["error"].to_pylist() == [None, "http_404", "refused_address", None]
    assert table["consent"].to_pylist() == ["none_stated", None, None, "x_robots_tag:nofollow"]
    assert table["width"].to_pylist() == [50, None, None, 50]
    assert table["original_height"].to_pylist() == [50, None, None, 50]
    assert [image is not None for image in table["image"].to_pylist()] == [True, False, False, True]


def test_its_columns_have_the_types_of_the_contract(stage: DownloadStage) -> None:
    schema = pool_schema()
    for table in (
        stage(rows("http://a.web.test/ok")),
        Guarded(stage)(rows()),
        Guarded(stage)(rows("http://a/", status="opted_out")),
    ):
        for name in stage.writes:
            assert table.schema.field(name).type == schema.field(name).type


def test_two_runs_give_equal_tables(stage: DownloadStage) -> None:
    given = rows(*["http://a.web.test/ok", "http://a.web.test/gone", "http://c.web.test/ok"] * 10)
    assert stage(given).equals(stage(given))


def test_unhealthy_rows_are_not_fetched(stage: DownloadStage) -> None:
    table = Guarded(stage)(rows("http://a.web.test/ok", status="rule_rejected"))
    assert table["image"].to_pylist() == [None]
    assert table["status"].to_pylist() == ["rule_rejected"]


def test_pictures_that_the_input_brought_go_the_same_way_and_none_is_fetched(stage: DownloadStage) -> None:
    out = io.BytesIO()
    Image.new("RGB", (100, 50), (200, 30, 30)).save(out, "PNG")
    given = rows("http://a.web.test/ok", "http://a.web.test/gone", None, None)
    given = given.set_column(4, "image", pa.array([None, out.getvalue(), b"<svg/>", out.getvalue()[:60]], pa.large_binary()))
    table = stage(given)
    assert table["status"].to_pylist() == ["ok", "ok", "image_invalid", "image_invalid"]
    assert table["image"][0] == table["image"][1]
    assert table["sha256"][1].as_py() == hashlib.sha256(out.getvalue()).hexdigest()
    assert table["error"][2].as_py() == "unsupported_format:svg"
    assert table["consent"].to_pylist() == ["none_stated", None, None, None]
    assert table["original_width"].to_pylist() == [100, 100, None, None]


def test_a_picture_in_the_input_may_be_as_large_as_a_downloaded_one() -> None:
    stage = DownloadStage(DownloadConfig(max_bytes=10), threads=1, connect_to={})
    given = rows(None).set_column(4, "image", pa.array([b"01234567890"], pa.large_binary()))
    table = stage(given)
    assert (table["status"].to_pylist(), table["error"].to_pylist()) == (["download_failed"], ["too_large"])
    stage.close()


def carrying(given: pa.Table, boxes: pa.Array) -> pa.Table:
    return given.append_column("upstream", pa.StructArray.from_arrays([boxes], names=["faces"]))


def test_boxes_of_a_carried_column_are_blurred_wherever_the_picture_comes_from(stage: DownloadStage) -> None:
    out = io.BytesIO()
    Image.radial_gradient("L").save(out, "PNG")
    blurs = DownloadStage(DownloadConfig(image_px=64, blur_boxes="faces"), threads=1, connect_to={})
    given = rows(*[None] * 4).set_column(4, "image", pa.array([out.getvalue()] * 4, pa.large_binary()))
    boxes = pa.array([None, [], [[0.2, 0.2, 0.8, 0.8]], [[20.0, 20.0, 80.0, 80.0]]], pa.list_(pa.list_(pa.float64())))
    texts = pa.array([None, "[]", "[[0.2, 0.2, 0.8, 0.8]]", "[[20, 20, 80, 80]]"])
    tables = [blurs(carrying(given, column)) for column in (boxes, texts)]
    assert tables[0].select(blurs.writes).equals(tables[1].select(blurs.writes))
    images = tables[0]["image"].to_pylist()
    assert images[0] == images[1] != images[2]
    assert tables[0]["status"].to_pylist() == ["ok", "ok", "ok", "image_invalid"]
    assert tables[0]["error"].to_pylist() == [None, None, None, "bad_boxes"]
    blurs.close()


def test_boxes_that_are_not_carried_are_asked_for() -> None:
    blurs = DownloadStage(DownloadConfig(blur_boxes="faces"), threads=1, connect_to={})
    with pytest.raises(InputError, match=r"found no carried column. Add `faces` to `read.keep_columns`"):
        blurs(rows("http://a.web.test/ok"))
    with pytest.raises(InputError, match="found other"):
        blurs(rows("x").append_column("upstream", pa.StructArray.from_arrays([pa.array([1])], names=["other"])))
    blurs.close()


def test_the_boxes_column_changes_results_and_so_the_fingerprint() -> None:
    assert not is_operational(DownloadConfig.model_fields["blur_boxes"])
