import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capfilt.config.miniweb import MiniwebConfig
from capfilt.errors import CapfiltError
from capfilt.miniweb.server import MiniwebServer

Answer = tuple[int, dict[str, str], bytes]


def get(server: MiniwebServer, url: str, *, method: str = "GET") -> Answer:
    host, path = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(server.address, timeout=5)
    connection.request(method, f"/{path}", headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


@pytest.fixture(scope="module")
def pages(web: Path) -> dict[str, list[dict[str, object]]]:
    by_kind: dict[str, list[dict[str, object]]] = {}
    for row in pq.read_table(web / "pictures.parquet").to_pylist():
        by_kind.setdefault(row["url_kind"], []).append(row)
    return by_kind


@pytest.mark.parametrize(
    ("kind", "status", "content_type"),
    [
        ("ok", 200, "image/jpeg"),
        ("slow", 200, "image/jpeg"),
        ("png", 200, "image/png"),
        ("grayscale", 200, "image/jpeg"),
        ("truncated", 200, "image/jpeg"),
        ("not_image", 200, "image/jpeg"),
        ("html", 200, "text/html"),
        ("bomb", 200, "image/png"),
        ("robots", 200, "image/jpeg"),
        ("opted_out_header", 200, "image/jpeg"),
    ],
)
def test_a_body_is_served_as_it_was_built(server: MiniwebServer, pages, kind: str, status: int, content_type: str) -> None:
    page = pages[kind][0]
    found, headers, body = get(server, page["url"])
    assert (found, headers["content-type"], body) == (status, content_type, page["body"])
    assert headers.get("x-robots-tag") == ("noai" if kind == "opted_out_header" else None)


@pytest.mark.parametrize(("kind", "status"), [("not_found", 404), ("gone", 410)])
def test_a_missing_picture_says_so(server: MiniwebServer, pages, kind: str, status: int) -> None:
    assert get(server, pages[kind][0]["url"])[0] == status


def test_a_host_or_path_outside_the_web_is_not_served(server: MiniwebServer, pages) -> None:
    path = pages["ok"][0]["url"].split("/", 3)[3]
    assert get(server, f"http://elsewhere.test/{path}")[0] == 421
    assert get(server, "http://a.miniweb.test/p/999999.jpg")[0] == 404
    assert get(server, pages["ok"][0]["url"], method="POST")[0] == 405


def test_a_redirect_leads_to_the_picture(server: MiniwebServer, pages) -> None:
    page = pages["redirect_ok"][0]
    status, headers, _ = get(server, page["url"])
    assert status == 302
    assert get(server, headers["location"])[2] == page["body"]


def test_a_server_error_comes_once(config: MiniwebConfig, web: Path, pages) -> None:
    page = pages["server_error_once"][0]
    with MiniwebServer(config, web, 3) as fresh:
        assert [get(fresh, page["url"])[0] for _ in range(3)] == [503, 200, 200]


def test_robots_txt_closes_the_last_host_alone(server: MiniwebServer, config: MiniwebConfig) -> None:
    texts = [get(server, f"http://{host}/robots.txt")[2] for host in config.hosts]
    assert [b"Disallow: /\n" in text for text in texts] == [False, False, True]


def test_a_dripping_address_never_finishes(server: MiniwebServer, pages) -> None:
    host, path = pages["dripping"][0]["url"].removeprefix("http://").split("/", 1)
    with socket.create_connection(server.address.split(":")) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        time.sleep(0.5)
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert 1 <= len(body) <= 6


def test_connections_are_kept_and_head_has_no_body(server: MiniwebServer, pages) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=5)
    sockets = []
    for page in pages["ok"][:3]:
        host, path = page["url"].removeprefix("http://").split("/", 1)
        connection.request("HEAD", f"/{path}", headers={"Host": host})
        response = connection.getresponse()
        assert int(response.headers["Content-Length"]) == len(page["body"])
        assert response.read() == b""
        sockets.append(connection.sock)
    assert sockets[0] is not None
    assert sockets == [sockets[0]] * 3
    connection.close()


def test_what_reaches_the_refused_address_is_counted_and_remembered(config: MiniwebConfig, web: Path, pages) -> None:
    server = MiniwebServer(config, web, 3)
    with server:
        location = get(server, pages["redirect_refused"][0]["url"])[1]["location"]
        assert location == f"http://{server.refused_address}/private.jpg"
        assert server.refused_hits == 0
        with socket.create_connection(server.refused_address.split(":")) as connection:
            assert connection.recv(1) == b""
        assert server.refused_hits == 1
    assert server.refused_hits == 1
    with server:
        assert server.refused_hits == 1


def test_a_restart_changes_nothing_but_the_ports(config: MiniwebConfig, web: Path, pages) -> None:
    server = MiniwebServer(config, web, 3)
    urls = [pages[kind][0]["url"] for kind in ("ok", "gone", "html", "redirect_ok")]
    answers = []
    for _ in range(2):
        with server:
            answers.append([get(server, url) for url in urls])
    assert answers[0] == answers[1]
    with pytest.raises(CapfiltError, match="stopped"):
        _ = server.address


def test_open_connections_leave_no_traceback_behind(
    config: MiniwebConfig, web: Path, pages, capfd: pytest.CaptureFixture[str]
) -> None:
    with MiniwebServer(config, web, 3) as server:
        kept = http.client.HTTPConnection(server.address, timeout=5)
        dripping = http.client.HTTPConnection(server.address, timeout=5)
        for connection, page in ((kept, pages["ok"][0]), (dripping, pages["dripping"][0])):
            host, path = page["url"].removeprefix("http://").split("/", 1)
            connection.request("GET", f"/{path}", headers={"Host": host})
            answer = connection.getresponse()
            if connection is kept:
                answer.read()
    kept.close()
    dripping.close()
    assert capfd.readouterr().err == ""


def test_the_web_ends_with_its_parent(config: MiniwebConfig, web: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from capfilt.config.miniweb import MiniwebConfig;"
        "from capfilt.miniweb.server import MiniwebServer;"
        f"s = MiniwebServer(MiniwebConfig.model_validate_json({config.model_dump_json()!r}), Path({str(web)!r}), 3);"
        "s.start(); print(s.address, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    address = parent.stdout.readline().strip().split(":")
    socket.create_connection(address).close()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert ends_within(address, seconds=5)


def ends_within(address: list[str], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.05)
    return False
