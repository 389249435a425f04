"""Connections that are kept, and what must not come over them."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from capfilt.download.fetch import GuardedFetch

from .conftest import jpeg

Make = Callable[..., GuardedFetch]


def test_an_interim_answer_is_no_answer_and_each_url_gets_its_own_picture(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    assert fetch(web.url("early_hints")).body == jpeg(seed=1)
    assert fetch(web.url("ok")).body == jpeg()
    assert web.connections == 1


def test_a_connection_that_changed_its_protocol_is_not_kept(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    assert fetch(web.url("switching")).error == "http_101"
    assert fetch(web.url("ok")).body == jpeg()
    assert web.connections == 2


def test_a_malformed_head_costs_no_connection(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch()
    assert [fetch(web.url("malformed_head")).body for _ in range(2)] == [jpeg()] * 2
    assert web.connections == 1


def test_a_body_that_comes_with_the_end_of_a_large_head_is_not_part_of_it(web: Any, make_fetch: Make) -> None:
    assert make_fetch()(web.url("head_in_two")).body == b"z" * 90_000


@pytest.mark.parametrize(("idle_s", "connections"), [(20, 1), (31, 2)])
def test_a_connection_is_not_used_again_after_a_long_pause(
    idle_s: float, connections: int, web: Any, make_fetch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, clock = make_fetch(), time.monotonic
    fetch(web.url("ok"))
    monkeypatch.setattr(time, "monotonic", lambda: clock() + idle_s)
    assert fetch(web.url("ok")).status == "ok"
    assert web.connections == connections


def test_forgotten_connections_cost_one_url_a_part_of_its_deadline(
    web: Any, make_fetch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capfilt.download.transport._QUIET_S", 0.0)
    fetch = make_fetch(deadline_s=2.0, retries=0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, [web.url("pause")] * 4))
    before, start = web.connections, time.monotonic()
    assert fetch(web.url("forgetful")).status == "ok"
    assert time.monotonic() - start < 1.5
    assert (web.hits["forgetful"], web.connections) == (2, before + 1)


def test_a_host_that_stays_silent_is_asked_on_one_new_connection_alone(
    web: Any, make_fetch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capfilt.download.transport._QUIET_S", 0.0)
    fetch = make_fetch(retries=0)
    fetch(web.url("ok"))
    start = time.monotonic()
    assert fetch(web.url("silent")).error == "timeout"
    assert time.monotonic() - start < 1
    assert (web.hits["silent"], web.connections) == (2, 2)


def test_a_slow_host_has_its_whole_deadline_on_a_connection_that_was_just_used(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch(retries=0)
    fetch(web.url("ok"))
    assert fetch(web.url("silent")).error == "timeout"
    assert (web.hits["silent"], web.connections) == (1, 1)


def test_a_body_that_stops_on_a_used_connection_is_a_timeout_and_not_asked_for_again(web: Any, make_fetch: Make) -> None:
    fetch = make_fetch(retries=0)
    fetch(web.url("ok"))
    assert fetch(web.url("drip")).error == "timeout"
    assert web.hits["drip"] == 1
