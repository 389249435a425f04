import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.download.addresses import AddressBook, Endpoint, is_public, parse_url, split_host_port
from capfilt.download.outcome import FetchError

PUBLIC = "93.184.216.34"


def never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def book(
    *, allow: tuple[str, ...] = (), connect_to: dict[str, str] | None = None, answers: dict[str, list[str]] | None = None
) -> AddressBook:
    return AddressBook(connect_to or {}, allow, (lambda host, port: answers[host]) if answers else never)


def code_of(error: pytest.ExceptionInfo[FetchError]) -> str:
    return error.value.code


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://168.63.129.16/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:93.184.216.34]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1%25eth0]/",
        "http://[ff02::1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://127.1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127.0.0.1./",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[64:ff9b:1::a00:1]/",
        "http://[2001:0:7f00:1::]/",
        "http://[2001:db8::1]/",
        "http://[5f00::1]/",
        "http://[fec0::1]/",
        "http://[0:0:0:0:0:ffff:127.0.0.1]/",
        "http://192.0.0.192/latest/",
        "http://198.18.0.1/",
        "http://255.255.255.255/",
        "http://0/",
        "http://0x0/",
        "http://00000177.0.0.1/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
    ],
)
def test_a_private_address_is_refused_without_a_lookup_or_a_socket(url: str, no_socket: None) -> None:
    with pytest.raises(FetchError) as error:
        book().endpoints(parse_url(url), 1.0)
    assert code_of(error) == "refused_address"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url",
        "file:///etc/passwd",
        "ftp://example.org/a.jpg",
        "gopher://example.org/",
        "data:image/png;base64,AAAA",
        "//example.org/a.jpg",
        "http://",
        "http:///a.jpg",
        "http://user:secret@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org:http/",
        "http://exa mple.org/",
        "http://[::1/",
        "http://a..b/",
        "http://256.1.1.1/",
        "http://127%2e0%2e0%2e1/",
        "http://@example.org/",
        "http://:@example.org/",
        "http://example.org:80@127.0.0.1/",
        "http://example.org\x00.evil.test/",
        "http://\u202eexample.org/",
        "http://ⓟ℀.example/",
        "http://[fe80::1%eth0/",
        "http://" + "ü" * 2000 + ".example/",
        "http://example.org/" + "a" * 9000,
    ],
)
def test_what_is_no_web_address_is_a_bad_url(url: str) -> None:
    with pytest.raises(FetchError) as error:
        parse_url(url)
    assert code_of(error) == "bad_url"


def test_a_url_is_taken_apart_and_made_fit_for_a_request_line() -> None:
    target = parse_url("HTTPS://Bücher.Example:8443/süß bild.jpg?q=ä b#part")
    assert (target.scheme, target.host, target.port) == ("https", "xn--bcher-kva.example", 8443)
    assert target.path == "/s%C3%BC%C3%9F%20bild.jpg?q=%C3%A4%20b"
    assert target.authority == "xn--bcher-kva.example:8443"


@given(st.text(max_size=60))
def test_no_url_breaks_out_of_the_request_line(tail: str) -> None:
    try:
        target = parse_url("http://example.org/" + tail)
    except FetchError:
        return
    assert target.host == "example.org"
    assert target.path.isascii()
    assert not any(letter <= " " or letter == "\x7f" for letter in target.path)


@given(st.text(max_size=40))
def test_any_text_is_either_a_target_or_a_bad_url(text: str) -> None:
    try:
        found = parse_url(text).scheme
    except FetchError as error:
        found = error.code
    assert found in ("http", "https", "bad_url")


@given(st.ip_addresses(v=4))
def test_only_addresses_that_python_calls_global_are_public(ip: ipaddress.IPv4Address) -> None:
    if is_public(str(ip)):
        assert ip.is_global
        assert not any((ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved, ip.is_unspecified))


@given(st.ip_addresses(v=6))
def test_only_global_unicast_is_public_of_ipv6(ip: ipaddress.IPv6Address) -> None:
    if is_public(str(ip)) and ip not in ipaddress.ip_network("64:ff9b::/96"):
        assert ip.is_global
        assert not any((ip.is_private, ip.is_multicast, ip.is_site_local, ip.ipv4_mapped, ip.sixtofour, ip.teredo))


PRIVATE_V4 = st.sampled_from(
    ["127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"]
).flatmap(lambda block: st.ip_addresses(network=block))


@given(PRIVATE_V4)
def test_no_spelling_of_a_private_ipv4_address_is_let_through(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    a, b, c, d = ip.packed
    spellings = [
        str(ip),
        str(number),
        hex(number),
        f"0{number:o}",
        f"{a}.{b}.{c * 256 + d}",
        f"0x{a:x}.{b}.{c}.0{d:o}",
        f"[::ffff:{ip}]",
        f"[::{ip}]",
        f"[64:ff9b::{ip}]",
        f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]",
    ]
    for spelling in spellings:
        with pytest.raises(FetchError) as error:
            book().endpoints(parse_url(f"http://{spelling}/"), 1.0)
        assert code_of(error) == "refused_address"


def test_public_addresses_pass_in_either_family() -> None:
    assert is_public(PUBLIC)
    assert is_public("2606:4700::6810:1")
    assert is_public(f"64:ff9b::{PUBLIC}")
    assert not is_public("example.org")


def test_a_name_gives_exactly_the_addresses_that_were_checked() -> None:
    found = book(answers={"example.org": [PUBLIC, "2606:4700::1"]}).endpoints(parse_url("http://example.org/"), 1.0)
    assert found == [Endpoint(PUBLIC, 80), Endpoint("2606:4700::1", 80)]


def test_one_private_address_refuses_the_whole_name() -> None:
    with pytest.raises(FetchError) as error:
        book(answers={"example.org": [PUBLIC, "10.0.0.1"]}).endpoints(parse_url("http://example.org/"), 1.0)
    assert code_of(error) == "refused_address"


def test_allow_hosts_opens_one_port_of_one_name() -> None:
    allowing = book(allow=("10.0.0.1:8080", "inner.test:80"), answers={"inner.test": ["10.0.0.2"]})
    assert allowing.endpoints(parse_url("http://10.0.0.1:8080/"), 1.0) == [Endpoint("10.0.0.1", 8080)]
    assert allowing.endpoints(parse_url("http://inner.test/"), 1.0) == [Endpoint("10.0.0.2", 80)]
    for url in ("http://10.0.0.1:8081/", "http://10.0.0.2/", "https://inner.test/"):
        with pytest.raises(FetchError) as error:
            allowing.endpoints(parse_url(url), 1.0)
        assert code_of(error) == "refused_address"


def test_connect_to_maps_names_by_pattern_and_leaves_the_others() -> None:
    mapping = book(connect_to={"*.mini.test": "127.0.0.1:4000", "one.test:81": "127.0.0.1:4001"})
    assert mapping.endpoints(parse_url("http://a.mini.test/"), 1.0) == [Endpoint("127.0.0.1", 4000)]
    assert mapping.endpoints(parse_url("https://b.mini.test:9/"), 1.0) == [Endpoint("127.0.0.1", 4000)]
    assert mapping.endpoints(parse_url("http://one.test:81/"), 1.0) == [Endpoint("127.0.0.1", 4001)]
    with pytest.raises(FetchError) as error:
        mapping.endpoints(parse_url("http://127.0.0.1:4000/"), 1.0)
    assert code_of(error) == "refused_address"


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("faß.de", "xn--fa-hia.de"),  # not fass.de, which is somebody else
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("a_b.bücher.example", "a_b.xn--bcher-kva.example"),
        ("中文。example", "xn--fiq228c.example"),
    ],
)
def test_international_names_are_read_as_browsers_read_them(name: str, host: str) -> None:
    assert parse_url(f"http://{name}/").host == host


def test_ports_of_other_services_are_refused_unless_allowed() -> None:
    answers = {"mail.test": [PUBLIC]}
    with pytest.raises(FetchError) as error:
        book(answers=answers).endpoints(parse_url("http://mail.test:25/"), 1.0)
    assert code_of(error) == "refused_port"
    allowing = book(allow=("mail.test:25",), answers=answers)
    assert allowing.endpoints(parse_url("http://mail.test:25/"), 1.0) == [Endpoint(PUBLIC, 25)]
    for port in (80, 443, 3000, 8000, 8080, 8443, 9000):
        assert book(answers=answers).endpoints(parse_url(f"http://mail.test:{port}/"), 1.0)


def test_a_lookup_that_hangs_ends_with_the_deadline() -> None:
    import threading

    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(5)
        return [PUBLIC]

    with pytest.raises(FetchError) as error:
        AddressBook({}, (), hang).endpoints(parse_url("http://example.org/"), 0.05)
    release.set()
    assert code_of(error) == "timeout"


@pytest.mark.parametrize("place", ["host", "host:", ":80", "host:0", "host:70000", "host:٣"])
def test_a_place_that_is_no_host_and_port_says_what_was_expected(place: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        split_host_port(place)


def test_places_may_be_ipv6() -> None:
    assert split_host_port("[::1]:80") == ("::1", 80)
