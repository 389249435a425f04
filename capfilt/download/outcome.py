"""What came of one address: a status, a closed error code, the bytes, and what the host said about their use.

Holds no clock time, address, port or attempt count: two runs that met the same web write the same outcomes.

    download_failed    bad_url · refused_address · refused_port · dns_failed · connection_failed · tls_error · timeout ·
                       bad_response · header_too_large · too_large · truncated · content_encoding:NAME · http_NNN ·
                       too_many_redirects · robots_txt_unavailable · internal_error:CLASS
    download_blocked   blocklist:domain · blocklist:url · blocklist:sha256
    opted_out          robots_txt:disallow · tdm_reservation · x_robots_tag:WORDS
    image_invalid      the codes of capfilt/images

`consent`: `none_stated`; `robots_txt:disallow`; `tdm_reservation`; `x_robots_tag:WORDS`, the restricting words in alphabet,
joined by `+`; `tdm_reservation;x_robots_tag:WORDS` for both. What was stated stands there whether it is respected or not; null
where no host answered for the picture.
"""

from dataclasses import dataclass
from typing import Literal

FetchStatus = Literal["ok", "download_failed", "download_blocked", "opted_out"]

NONE_STATED = "none_stated"


@dataclass(frozen=True)
class Outcome:
    """`body` is there exactly when `status` is ok."""

    status: FetchStatus
    error: str | None = None
    body: bytes | None = None
    consent: str | None = None


class FetchError(Exception):
    """Ends one attempt. `may_get_better` says whether another attempt makes sense."""

    def __init__(self, code: str, may_get_better: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.may_get_better = may_get_better
        self.retry_after_s: float | None = None


class OptedOut(Exception):
    """The host does not want this picture used; `consent` says how it said so."""

    def __init__(self, consent: str) -> None:
        super().__init__(consent)
        self.consent = consent


class Blocked(Exception):
    """The operator does not want this address or picture; `code` says which list holds it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
