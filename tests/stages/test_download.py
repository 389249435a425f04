import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest
from PIL import Image

from capfilt.config.download import DownloadConfig
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
