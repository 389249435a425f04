"""The tricks of the hostile web: for each the addresses that play it, and the outcomes that it may have.

Used by hostile.py; knows nothing of how they are fetched. `{trap}` is a port of loopback that nobody may reach.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

HOSTS_PER_TRICK = 6
HOSTS = 100  # names that change their address
PUBLIC = "93.184.216.34"  # never reached: the fence of hostile.py ends every connection beyond loopback before there is a socket

REFUSED = "download_failed refused_address"
BAD_URL = "download_failed bad_url"


@dataclass(frozen=True)
class Trick:
    """`url(i)` is the i-th address; `outcomes` are regular expressions for "status error", of which one must match whole.
    What floods may run into the deadline before it reaches a limit, on a machine that is busy.
    """

    name: str
    url: Callable[[int], str | None]
    outcomes: tuple[str, ...]

    def allows(self, status: str, error: str | None) -> bool:
        return any(re.fullmatch(pattern, f"{status} {error}" if error else status) for pattern in self.outcomes)


def names(trap: int) -> dict[str, list[list[str]]]:
    """Names that only the resolver of the benchmark knows: what it answers the first time, the second time, and so on."""
    return {
        "private.test": [["10.1.2.3"]],
        "loopback.test": [["127.0.0.1"]],
        "loopback6.test": [["::1"]],
        "mapped.test": [["::ffff:127.0.0.1"]],
        "metadata.test": [["169.254.169.254"]],
        "mixed.test": [[PUBLIC, "127.0.0.1"]],
        "public.test": [[PUBLIC]],
        **{f"rebinds-{number}.test": [["127.0.0.1"], [PUBLIC]] for number in range(HOSTS)},
        **{f"rebinds-later-{number}.test": [[PUBLIC], ["127.0.0.1"]] for number in range(HOSTS)},
    }


# Spellings of addresses that nobody may reach; each is played directly and as a redirect.
PLACES = {
    "loopback": "http://127.0.0.1:{trap}/",
    "loopback_short": "http://127.1:{trap}/",
    "loopback_decimal": "http://2130706433:{trap}/",
    "loopback_hex": "http://0x7f000001:{trap}/",
    "loopback_octal": "http://0177.0.0.1:{trap}/",
    "loopback_mixed": "http://0x7f.0.1:{trap}/",
    "loopback_wide": "http://１２７。0。0。1:{trap}/",
    "loopback_circled": "http://①②⑦.⓪.⓪.①:{trap}/",
    "loopback_other": "http://127.8.9.10:{trap}/",
    "loopback_dot": "http://127.0.0.1.:{trap}/",
    "any": "http://0.0.0.0:{trap}/",
    "any_short": "http://0:{trap}/",
    "loopback_v6": "http://[::1]:{trap}/",
    "any_v6": "http://[::]:{trap}/",
    "mapped_v6": "http://[::ffff:127.0.0.1]:{trap}/",
    "mapped_hex_v6": "http://[::ffff:7f00:1]:{trap}/",
    "compatible_v6": "http://[::127.0.0.1]:{trap}/",
    "nat64": "http://[64:ff9b::127.0.0.1]:{trap}/",
    "nat64_local": "http://[64:ff9b:1::7f00:1]:{trap}/",
    "6to4": "http://[2002:7f00:1::1]:{trap}/",
    "teredo": "http://[2001:0:7f00:1::1]:{trap}/",
    "link_local_v6": "http://[fe80::1%25eth0]:{trap}/",
    "unique_local_v6": "http://[fd12::1]/",
    "private_10": "http://10.0.0.1/",
    "private_172": "http://172.16.0.1/",
    "private_192": "http://192.168.1.1/",
    "shared": "http://100.64.0.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata_decimal": "http://2852039166/latest/meta-data/",
    "metadata_v6": "http://[fd00:ec2::254]/latest/meta-data/",
    "metadata_mapped": "http://[::ffff:169.254.169.254]/",
    "metadata_name": "http://metadata.google.internal/computeMetadata/v1/",
    "metadata_other": "http://100.100.100.200/",
    "metadata_azure": "http://168.63.129.16/",
    "localhost": "http://localhost:{trap}/",
    "localhost_below": "http://a.localhost:{trap}/",
    "name_private": "http://private.test/",
    "name_loopback": "http://loopback.test:{trap}/",
    "name_loopback6": "http://loopback6.test:{trap}/",
    "name_mapped": "http://mapped.test:{trap}/",
    "name_metadata": "http://metadata.test/",
    "name_mixed": "http://mixed.test:{trap}/",
    "rebinds": "http://rebinds-{host}.test:{trap}/",
}
NO_URLS = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://web.test/a.jpg",
    "gopher": "gopher://127.0.0.1:{trap}/_GET",
    "data": "data:image/png;base64,iVBORw0KGgo=",
    "script": "javascript:alert(1)",
    "userinfo": "http://www.example.org@127.0.0.1:{trap}/",
    "password": "http://user:secret@web.test/ok/1",
    "backslash": "http://www.example.org\\@127.0.0.1:{trap}/",
    "escaped_host": "http://127%2e0%2e0%2e1:{trap}/",
    "port_0": "http://web.test:0/",
    "port_high": "http://web.test:70000/",
    "too_long": "http://web.test/" + "a" * 9000,
}
FAILED = {
    "not_found": "http_404", "gone": "http_410", "forbidden": "http_403", "teapot": "http_418", "not_modified": "http_304",
    "server_error": "http_500", "busy": "http_503", "come_back_later": "http_429", "come_back_tomorrow": "http_503",
    "loop": "too_many_redirects", "new_loop": "too_many_redirects", "silent": "timeout", "drip_body": "timeout",
    "drip_head": "timeout", "drip_status": "timeout", "endless": "(too_large|timeout)",
    "endless_extensions": "(too_large|timeout)", "endless_trailers": "(too_large|timeout)",
    "endless_until_close": "(too_large|timeout)", "head_100mb": "(header_too_large|timeout)",
    "line_100mb": "(header_too_large|timeout)", "many_headers": "header_too_large", "continues": "(header_too_large|timeout)",
    "garbage": "bad_response", "hang_up": "connection_failed", "cut_off": "truncated", "declares_10gb": "too_large",
    "bad_chunk": "(truncated|bad_response)", "huge_chunk": "(truncated|too_large|bad_response)",
    "gzip_bomb": "content_encoding:gzip", "brotli": "content_encoding:br",
}  # fmt: skip
PICTURES = (
    "ok", "png", "webp", "grey", "grey16", "palette", "cmyk", "animated", "rotated", "huge_icc", "slow", "chunked", "until_close",
    "busy_once", "endless_redirect", "negative_length", "second_answer", "rich_header", "noai_for_others",
)  # fmt: skip
NO_PICTURES = (
    "pixel_bomb", "gif_bomb", "truncated_jpeg", "truncated_progressive", "head_only", "empty", "html", "text", "svg", "zip",
    "gzip_file", "pdf", "postscript", "tiff", "noise",
)  # fmt: skip
EITHER = ("icc_bomb", "text_bomb", "data_bomb")  # a small picture behind a bomb: kept without it or refused, never unpacked
OPTED_OUT = {
    "noai": "x_robots_tag:noai",
    "noai_for_us": "x_robots_tag:noimageai",
    "noindex_none": "x_robots_tag:none",
    "reserved": "tdm_reservation",
}
ROBOTS = {  # by the first word of the host's name
    "denies": "opted_out robots_txt:disallow",
    "deniesjpg": "opted_out robots_txt:disallow",
    "huge": "ok",
    "endless": "ok",  # the first 512,000 bytes count
    "fails": "download_failed robots_txt_unavailable",
    "loops": "ok",
    "leads": REFUSED,
    "drips": "download_failed timeout",
}


def tricks(trap: int) -> list[Trick]:
    """All of them; every host below hostile.test leads to the hostile web, every other only where `names` says."""

    def played(path: str, host: str = "") -> Callable[[int], str]:
        prefix = (host or path).replace("_", "-")
        return lambda i: f"http://{prefix}-{i % HOSTS_PER_TRICK}.hostile.test/{path}/{i}.jpg"

    def fixed(url: str) -> Callable[[int], str]:
        return lambda i: url.replace("{trap}", str(trap)).replace("{host}", str(i % HOSTS))

    def led(url: str) -> Callable[[int], str]:
        place = fixed(url)
        return lambda i: f"http://away-{i % HOSTS_PER_TRICK}.hostile.test/to/{place(i).encode().hex()}/{i}.jpg"

    found = [Trick(name, played(name), ("ok",)) for name in PICTURES]
    found += [Trick(name, played(name), ("image_invalid .+",)) for name in NO_PICTURES]
    found += [Trick(name, played(name), ("ok", "image_invalid .+")) for name in EITHER]
    found += [Trick(name, played(name), (f"download_failed {code}",)) for name, code in FAILED.items()]
    found += [Trick(name, played(name), (f"opted_out {code}",)) for name, code in OPTED_OUT.items()]
    found += [Trick(f"robots_{name}", played("ok", f"{name}-robots"), (outcome,)) for name, outcome in ROBOTS.items()]
    found += [Trick(f"at_{name}", fixed(url), (REFUSED,)) for name, url in PLACES.items()]
    found += [Trick(f"to_{name}", led(url), (REFUSED,)) for name, url in PLACES.items()]
    found += [Trick(f"at_{name}", fixed(url), (BAD_URL,)) for name, url in NO_URLS.items()]
    found += [Trick(f"to_{name}", led(url), (BAD_URL,)) for name, url in NO_URLS.items() if len(url) < 4000]
    return [
        *found,
        Trick("to_ok", led("http://fine-0.hostile.test/ok/1"), ("ok",)),
        Trick("to_line_break", led("http://fine-0.hostile.test/ok/%0d%0aX: y/1.jpg"), ("ok",)),
        Trick("split_location", played("split_location"), ("ok",)),
        Trick(
            "https_to_http",
            lambda i: f"https://plain-{i % HOSTS_PER_TRICK}.hostile.test/ok/{i}.jpg",
            ("download_failed (tls_error|timeout)",),
        ),
        Trick("rebinds_later", fixed("http://rebinds-later-{host}.test:{trap}/"), ("download_failed connection_failed", REFUSED)),
        Trick("mail_port", fixed("http://public.test:25/"), ("download_failed refused_port",)),
        Trick("no_name", lambda i: f"http://nobody-{i % 50}.invalid/a.jpg", ("download_failed dns_failed",)),
        Trick("no_address", lambda _: None, (BAD_URL,)),
        Trick("blocked_domain", lambda i: f"http://w{i}.blocked.test:{trap}/a.jpg", ("download_blocked blocklist:domain",)),
        Trick("to_blocked_domain", led("http://www.blocked.test:{trap}/"), ("download_blocked blocklist:domain",)),
        Trick("blocked_url", fixed("http://open.test:{trap}/blocked.jpg"), ("download_blocked blocklist:url",)),
        Trick("blocked_picture", played("bad_picture"), ("download_blocked blocklist:sha256",)),
    ]
