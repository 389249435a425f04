import threading
import time

import pytest

from capfilt.download import names
from capfilt.download.names import Names, system_lookup
from capfilt.download.outcome import FetchError


class Resolver:
    """Answers by name; counts who asks."""

    def __init__(self, **answers: object) -> None:
        self.answers, self.asked = answers, []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]


def test_an_answer_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(here=["192.0.2.1"])
    known = Names(resolver)
    assert [known.addresses("here", 80, 1) for _ in range(3)] == [["192.0.2.1"]] * 3
    assert resolver.asked == ["here"]
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    known.addresses("here", 80, 1)
    assert resolver.asked == ["here", "here"]


def test_no_such_name_is_remembered_and_a_resolvers_own_trouble_is_not() -> None:
    resolver = Resolver(none=FetchError("dns_failed"), empty=[], busy=FetchError("dns_failed", may_get_better=True))
    known = Names(resolver)
    for name in ("none", "none", "empty", "empty", "busy", "busy"):
        with pytest.raises(FetchError) as error:
            known.addresses(name, 80, 1)
        assert (error.value.code, error.value.may_get_better) == ("dns_failed", name == "busy")
    assert resolver.asked == ["none", "empty", "busy", "busy"]


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_NAMES", 3)
    known = Names(lambda host, port: ["192.0.2.1"])
    for number in range(10):
        known.addresses(f"host{number}", 80, 1)
    assert len(known._known) == 3


def test_a_resolver_that_hangs_holds_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_AT_ONCE", 2)
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(5)
        return ["192.0.2.1"]

    known = Names(hang)
    for number in range(5):
        with pytest.raises(FetchError) as error:
            known.addresses(f"host{number}", 80, 0.02)
        assert (error.value.code, error.value.may_get_better) == ("timeout", True)
    assert len([thread for thread in threading.enumerate() if thread.name == "capfilt-lookup"]) <= 2
    release.set()


def test_the_system_knows_an_address_when_it_sees_one() -> None:
    assert system_lookup("127.0.0.1", 80) == ["127.0.0.1"]
