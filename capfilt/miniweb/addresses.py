"""What an address of the small web answers with: the kinds, their shares, and the bytes that each sends.

Knows nothing of sockets (`server`) nor of what the pictures show.
"""

import io
import struct
import zlib
from random import Random

from PIL import Image

BAD: dict[str, float] = {
    "not_found": 0.24,
    "gone": 0.08,
    "dripping": 0.04,  # a byte now and then, for ever
    "truncated": 0.09,  # a JPEG that ends early
    "not_image": 0.09,  # text that calls itself image/jpeg
    "html": 0.09,
    "bomb": 0.04,  # a few bytes that declare 900 million pixels
    "redirect_refused": 0.06,  # to a loopback port that nobody may reach
    "opted_out_header": 0.11,  # X-Robots-Tag: noai
    "robots": 0.16,  # on the host whose robots.txt disallows everything
}
"""Shares among the URLs that must not yield a picture."""

ODD: dict[str, float] = {
    "slow": 0.02,
    "redirect_ok": 0.02,
    "server_error_once": 0.01,
    "grayscale": 0.01,
    "png": 0.03,
    "thumbnail": 0.005,  # below any sensible shorter side
    "banner": 0.005,  # four times as wide as high
}
"""Shares among all URLs: they do yield a picture, by a detour or in another form."""

DUPLICATES: dict[str, float] = {"exact": 0.43, "near": 0.43, "heldout": 0.14}
"""Shares among the duplicates: the same bytes, re-encoded or resized, and either of these of a held-out picture."""

HAS_BODY = frozenset({"ok", *ODD, "dripping", "truncated", "not_image", "html", "bomb", "opted_out_header", "robots"})


def quotas(shares: dict[str, float], total: float) -> dict[str, int]:
    """How often each kind comes in a web, by rounding; at least once where the kinds fit in at all."""
    at_least = 1 if total >= len(shares) else 0
    return {kind: max(at_least, round(share * total)) for kind, share in shares.items()}


def url_kinds(pictures: int, bad_urls: float, rng: Random) -> list[str]:
    """The kind of each of `pictures` addresses, shuffled."""
    counts = quotas(BAD, bad_urls * pictures) | quotas(ODD, pictures)
    kinds = [kind for kind, count in counts.items() for _ in range(count)][:pictures]
    kinds += ["ok"] * (pictures - len(kinds))
    rng.shuffle(kinds)
    return kinds


def encode(picture: Image.Image, kind: str, rng: Random) -> bytes:
    """The picture as the kind sends it; the bodies of `not_image`, `html` and `bomb` do not depend on it."""
    match kind:
        case "png":
            return _saved(picture, "PNG", compress_level=1)
        case "grayscale":
            return jpeg(picture.convert("L"), 90)
        case "truncated":
            whole = jpeg(picture, 88)
            return whole[: int(len(whole) * rng.uniform(0.3, 0.6))]
        case "not_image":
            return b"This is not the picture you are looking for.\n" * rng.randint(5, 40)
        case "html":
            return b"<!doctype html><html><head><title>Moved</title></head><body><p>The picture has moved.</p></body></html>\n"
        case "bomb":
            return bomb()
        case _:
            return jpeg(picture, rng.randint(80, 95))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    return _saved(picture, "JPEG", quality=quality)


def again(body: bytes, rng: Random) -> bytes:
    """A near duplicate: encoded once more at quality 60, or at 0.8 of its size."""
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    if rng.random() < 0.5:
        return jpeg(picture, 60)
    return jpeg(picture.resize((round(picture.width * 0.8), round(picture.height * 0.8)), Image.Resampling.BICUBIC), 88)


def bomb(side: int = 30_000) -> bytes:
    """A PNG of `side` x `side` grey pixels in its header and a few rows of them in its body."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 1) * 4), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _saved(picture: Image.Image, form: str, **options: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()
