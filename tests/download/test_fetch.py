import hashlib
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from capfilt.download.blocklists import Blocklists
from capfilt.download.fetch import GuardedFetch
from capfilt.download.outcome import NONE_STATED

Make = Callable[..., GuardedFetch]


def test_a_picture_comes_with_the_consent_that_nobody_stated(web: Any, make_fetch: Make) -> None:
    outcome = make_fetch()(web.url("ok"))
    assert (outcome.status, outcome.error, outcome.consent) == ("ok", None, NONE_STATED)
    assert outcome.body is not None
    assert outcome.body.startswith(b"\xff\xd8")


@pytest.mark.parametrize("path", ["chunked", "until_close", "slow", "lies_about_length", "malformed_head", "malformed_location"])
def test_odd_but_honest_answers_are_read_to_their_end(path: str, web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    assert fetch(web.url(path)).body == fetch(web.url("ok")).body


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", "http_404"),
        ("no_location", "http_302"),
        ("loop", "too_many_redirects"),
        ("cut_off", "truncated"),
        ("cut_off_chunk", "truncated"),
        ("too_large", "too_large"),
        ("endless", "too_large"),
        ("endless_extensions", "too_large"),
        ("endless_head", "header_too_large"),
        ("endless_line", "header_too_large"),
        ("many_headers", "header_too_large"),
        ("continues", "header_too_large"),
        ("hints", "header_too_large"),
        ("switching", "http_101"),
        ("garbage", "bad_response"),
        ("hang_up", "connection_failed"),
        ("gzip", "content_encoding:gzip"),
        ("gzip_bomb", "content_encoding:gzip"),
        ("hundred_megabytes_of_head", "header_too_large"),
        ("busy", "http_503"),
        ("wait_long", "http_429"),
        ("drip", "timeout"),
        ("drip_head", "timeout"),
        ("silent", "timeout"),
        ("drip_404", "http_404"),
    ],
)
def test_every_trick_ends_within_the_deadline_with_its_own_code(path: str, error: str, web: Any, make_fetch: Make) -> None:
    start = time.monotonic()
    outcome = make_fetch()(web.url(path))
    assert (outcome.status, outcome.error, outcome.body) == ("download_failed", error, None)
    assert time.monotonic() - start < 2


def test_a_busy_host_is_asked_again_and_a_missing_picture_is_not(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    assert fetch(web.url("busy_once")).status == "ok"
    fetch(web.url("missing"))
    assert web.hits["busy_once"] == 2
    assert web.hits["missing"] == 1


def test_without_retries_a_busy_host_is_asked_once(web: Any, make_fetch: Make) -> None:
    assert make_fetch(retries=0)(web.url("busy_once")).error == "http_503"
    assert web.hits["busy_once"] == 1


def test_a_redirect_is_followed_within_the_limit(web: Any, make_fetch: Make) -> None:
    web.locations = {"one": "/two", "two": web.url("three"), "three": "http://other.web.test/ok"}
    assert make_fetch()(web.url("one")).status == "ok"
    assert make_fetch(max_redirects=2)(web.url("one")).error == "too_many_redirects"


@pytest.mark.parametrize("trick", ["utf8_location", "split_location"])
def test_a_location_is_made_fit_for_a_request_line(trick: str, web: Any, make_fetch: Make) -> None:
    outcome = make_fetch()(web.url(trick))
    if trick == "utf8_location":
        assert (outcome.status, web.paths[1:]) == ("ok", ["/ok?s%C3%BC%C3%9F"])
    else:  # the escaped line break stays escaped, a raw one ends the header
        assert (outcome.error, web.paths[1:]) == ("http_404", ["/ok%0d%0aX-Evil:%201"])


@pytest.mark.parametrize(
    ("retry_after", "asked"),
    [
        ("0", 2),
        ("Tue, 03 Nov 2026 09:00:00 GMT", 2),  # by the host's own clock that was an hour ago
        ("Tue, 03 Nov 2026 11:00:00 GMT", 1),  # longer than the deadline: nobody is asked again
        ("9" * 40, 1),
        ("soon", 2),
    ],
)
def test_a_host_that_names_a_time_is_not_asked_before(retry_after: str, asked: int, web: Any, make_fetch: Make) -> None:
    web.retry_after = retry_after
    start = time.monotonic()
    assert make_fetch()(web.url("wait_until")).status == ("ok" if asked == 2 else "download_failed")
    assert web.hits["wait_until"] == asked
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://{trap}/", "refused_address"),
        ("//{trap}/", "refused_address"),
        ("http://[::ffff:127.0.0.1]:{port}/", "refused_address"),
        ("http://2130706433:{port}/", "refused_address"),
        ("http://localhost:{port}/", "refused_address"),
        ("http://evil.test:{port}/", "refused_address"),
        ("file:///etc/passwd", "bad_url"),
        ("http://user@{trap}/", "bad_url"),
        ("http://[/", "bad_url"),
    ],
)
def test_a_redirect_to_a_refused_address_reaches_nobody(location: str, error: str, web: Any, trap: Any, make_fetch: Make) -> None:
    web.locations = {"away": location.format(trap=trap.place, port=trap.place.split(":")[1])}
    fetch = make_fetch(lookup=lambda host, port: ["127.0.0.1"])
    assert fetch(web.url("away")).error == error
    assert trap.hits == 0


@pytest.mark.parametrize(("kind", "entry"), [("domains", "bad.test"), ("urls", "http://www.bad.test:{port}/a.jpg")])
def test_what_is_on_a_blocklist_is_never_asked_for(
    kind: str, entry: str, web: Any, trap: Any, make_fetch: Make, tmp_path: Path
) -> None:
    port = trap.place.split(":")[1]
    (tmp_path / "list").write_text(entry.format(port=port))
    url = f"http://www.bad.test:{port}/a.jpg"
    web.locations = {"away": url}
    fetch = make_fetch(
        connect_to={"www.bad.test": trap.place, "web.test": web.place},
        blocklists=Blocklists(**{kind: [str(tmp_path / "list")]}),
        respect_robots_txt=True,
    )
    for address in (url, web.url("away")):
        outcome = fetch(address)
        assert (outcome.status, outcome.error, outcome.body) == ("download_blocked", f"blocklist:{kind[:-1]}", None)
    assert trap.hits == 0


def test_a_robots_txt_that_leads_to_a_blocked_host_is_not_to_be_had(
    web: Any, trap: Any, make_fetch: Make, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("bad.test")
    web.locations = {"robots.txt": f"http://bad.test:{trap.place.split(':')[1]}/robots.txt"}
    fetch = make_fetch(blocklists=Blocklists(domains=[str(tmp_path / "list")]), respect_robots_txt=True)
    assert fetch(web.url("ok")).error == "robots_txt_unavailable"
    assert trap.hits == 0


def test_a_known_bad_picture_is_not_kept(web: Any, make_fetch: Make, tmp_path: Path) -> None:
    good = make_fetch()(web.url("ok")).body
    assert good is not None
    (tmp_path / "list").write_text(hashlib.sha256(good).hexdigest())
    fetch = make_fetch(blocklists=Blocklists(sha256=[str(tmp_path / "list")]))
    outcome = fetch(web.url("ok"))
    assert (outcome.status, outcome.error, outcome.body) == ("download_blocked", "blocklist:sha256", None)
    assert fetch(web.url("big")).status == "ok"


def test_robots_txt_may_move_even_where_pictures_may_not(web: Any, make_fetch: Make) -> None:
    web.locations = {"robots.txt": "http://other.web.test/rules"}
    fetch = make_fetch(respect_robots_txt=True, max_redirects=0)
    assert fetch(web.url("ok")).status == "ok"  # nothing is at /rules
    assert web.paths == ["/robots.txt", "/rules", "/ok"]


def test_a_port_of_another_service_gets_no_request(make_fetch: Make, no_socket: None) -> None:
    fetch = make_fetch(lookup=lambda host, port: ["93.184.216.34"])
    assert [fetch(f"http://example.org:{port}/").error for port in (22, 25, 6667)] == ["refused_port"] * 3


def test_the_trap_notices_who_does_reach_it(trap: Any, make_fetch: Make) -> None:
    """Without this, a counter that stays at 0 would show nothing."""
    make_fetch(allow_hosts=[trap.place], retries=0)(f"http://{trap.place}/")
    assert trap.hits > 0


def test_a_name_that_resolves_elsewhere_the_second_time_gains_nothing(trap: Any, make_fetch: Make) -> None:
    answers = iter([["127.0.0.1"], ["93.184.216.34"]])
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    fetch = make_fetch(lookup=rebinding)
    assert fetch(f"http://rebind.test:{trap.place.split(':')[1]}/").error == "refused_address"
    assert asked == ["rebind.test"]
    assert trap.hits == 0


def test_the_connection_goes_to_the_checked_address_and_not_to_the_name(
    monkeypatch: pytest.MonkeyPatch, make_fetch: Make
) -> None:
    import socket

    connected: list[object] = []

    def note(address: object, **_: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", note)
    fetch = make_fetch(lookup=lambda host, port: ["93.184.216.34"], retries=0)
    assert fetch("http://example.org/a.jpg").error == "connection_failed"
    assert connected == [("93.184.216.34", 80)]


def test_refused_addresses_make_no_socket(make_fetch: Make, no_socket: None) -> None:
    fetch = make_fetch(respect_robots_txt=True)
    for host in ("10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "localhost"):
        assert fetch(f"http://{host}/").error == "refused_address"


def test_a_host_that_cannot_be_found_or_reached_says_so(make_fetch: Make) -> None:
    import socket

    from capfilt.download.outcome import FetchError

    def unknown(host: str, port: int) -> list[str]:
        raise FetchError("dns_failed")

    assert make_fetch(lookup=unknown)("http://example.org/").error == "dns_failed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
        assert make_fetch(connect_to={"dead.test": place})("http://dead.test/").error == "connection_failed"


def test_a_null_url_is_a_bad_url(make_fetch: Make) -> None:
    assert make_fetch()(None).error == "bad_url"


def test_https_to_a_plain_server_is_a_tls_error(web: Any, make_fetch: Make) -> None:
    assert make_fetch()("https://web.test/ok").error == "tls_error"


@pytest.mark.parametrize(
    ("path", "status", "consent"),
    [
        ("noai", "opted_out", "x_robots_tag:noai"),
        ("noai_for_us", "opted_out", "x_robots_tag:noimageai"),
        ("none", "opted_out", "x_robots_tag:none"),
        ("nofollow", "ok", "x_robots_tag:nofollow"),
        ("reserved", "opted_out", "tdm_reservation"),
        ("not_reserved", "ok", "none_stated"),
        ("reserved_in_the_end", "opted_out", "tdm_reservation"),
        ("malformed_noai", "opted_out", "tdm_reservation;x_robots_tag:noai"),
        ("malformed_head", "ok", "x_robots_tag:noarchive"),
        ("spaced_noai", "opted_out", "x_robots_tag:noai"),
        ("noai_for_others", "ok", "none_stated"),
    ],
)
def test_an_x_robots_tag_is_respected_and_recorded(path: str, status: str, consent: str, web: Any, make_fetch: Make) -> None:
    outcome = make_fetch()(web.url(path))
    assert (outcome.status, outcome.consent) == (status, consent)
    assert (outcome.body is None) == (status == "opted_out")


def test_without_respect_the_tag_is_still_recorded(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch(respect_x_robots_tag=frozenset(), respect_tdm_reservation=False)
    outcome = fetch(web.url("noai"))
    assert (outcome.status, outcome.consent) == ("ok", "x_robots_tag:noai+noarchive")
    outcome = fetch(web.url("reserved"))
    assert (outcome.status, outcome.consent) == ("ok", "tdm_reservation;x_robots_tag:nofollow")


def test_robots_txt_keeps_us_out_and_is_asked_for_once(web: Any, make_fetch: Make) -> None:
    web.robots = (200, "User-agent: *\nDisallow: /o\nAllow: /pause")
    fetch = make_fetch(respect_robots_txt=True)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(fetch, [web.url("ok"), web.url("pause")] * 8))
    assert {(o.status, o.consent) for o in outcomes[0::2]} == {("opted_out", "robots_txt:disallow")}
    assert {o.status for o in outcomes[1::2]} == {"ok"}
    assert web.hits["robots.txt"] == 1
    assert web.hits["ok"] == 0


@pytest.mark.parametrize(
    ("status", "error"), [(404, None), (403, None), (500, "robots_txt_unavailable"), (429, "robots_txt_unavailable")]
)
def test_a_missing_robots_txt_allows_and_a_broken_one_does_not(
    status: int, error: str | None, web: Any, make_fetch: Make
) -> None:
    web.robots = (status, "User-agent: *\nDisallow: /")
    assert make_fetch(respect_robots_txt=True)(web.url("ok")).error == error
    assert web.hits["ok"] == (0 if error else 1)


def test_robots_txt_of_a_redirects_host_is_asked_too(web: Any, make_fetch: Make) -> None:
    web.robots = (200, "User-agent: capfilt\nDisallow: /ok")
    web.locations = {"away": "http://other.web.test/ok"}
    assert make_fetch(respect_robots_txt=True)(web.url("away")).status == "opted_out"
    assert web.hits["robots.txt"] == 2


def test_we_say_who_we_are_and_ask_for_plain_bytes(web: Any, make_fetch: Make) -> None:
    make_fetch(user_agent="capfilt/0.1\r\nX-Evil: 1")(web.url("ok"))
    assert web.user_agents == {"capfilt/0.1 X-Evil: 1"}
    assert web.encodings == {"identity"}


def test_connections_are_kept_over_pictures_and_error_pages(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    for path in ("ok", "missing", "chunked", "busy_once", "noai", "ok"):
        fetch(web.url(path))
    assert web.connections == 2  # only the opt-out, whose body is not read, costs one


def test_a_kept_connection_that_the_host_closed_is_replaced_silently(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch(retries=0)
    assert fetch(web.url("ok")).status == "ok"
    fetch(web.url("until_close"))
    assert fetch(web.url("ok")).status == "ok"


def test_no_host_gets_more_than_its_slots(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch(per_host=3, deadline_s=0.4)
    with ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(fetch, [web.url("pause")] * 40))
    assert {outcome.status for outcome in outcomes} == {"ok"}  # waiting for a turn does not use up the deadline
    assert 1 < web.most_at_once <= 3


def test_a_bug_costs_one_row_only(monkeypatch: pytest.MonkeyPatch, web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    monkeypatch.setattr(fetch._transport, "exchange", lambda *_, **__: 1 / 0)
    assert fetch(web.url("ok")).error == "internal_error:ZeroDivisionError"


def test_outcomes_hold_nothing_that_changes_between_two_runs(web: Any, make_fetch: Make) -> None:
    paths = ["ok", "missing", "drip", "hang_up", "garbage", "noai", "cut_off"]
    seen = []
    for _ in range(2):
        fetch = make_fetch(deadline_s=0.2)
        seen.append([fetch(web.url(path)) for path in paths])
    assert seen[0] == seen[1]
    assert not [thread for thread in threading.enumerate() if thread.name == "capfilt-lookup"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for web.test, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    file = tmp_path / "web.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=web.test"
    names = ["-addext", "subjectAltName=DNS:web.test", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    file.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    return file


def test_https_is_checked_against_the_name_and_not_the_address(web: Any, make_fetch: Make, certificate: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    web.socket = server.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    trusting = make_fetch(tls=ssl.create_default_context(cafile=str(certificate)), deadline_s=0.7)
    errors = [trusting(f"https://web.test/{path}").error for path in ("ok", "drip", "cut_off", "ok")]
    assert errors == [None, "timeout", "truncated", None]
    assert trusting("https://other.web.test/ok").error == "tls_error"
    assert make_fetch(deadline_s=2)("https://web.test/ok").error == "tls_error"
