"""Names derived from content: uid, row id, chunk id, seeds and fingerprints.

Pure and stable for ever: a change here orphans every run ever made. Knows nothing about files or tables.
"""

import json
from hashlib import blake2b
from pathlib import PurePath
from typing import Any


def content_hash(*parts: str | bytes, size: int = 16) -> str:
    """Hex blake2b of length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ. `size` is in bytes."""
    digest = blake2b(digest_size=size)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def uid_of(address: str | bytes, text: str | None) -> str:
    """32 hex digits for a pair: `address` is the URL, or the image's sha256 where the input holds bytes."""
    return content_hash(address, text or "", size=16)


def chunk_id(path: str, etag: str, start: int, rows: int) -> str:
    """16 hex digits for rows `start … start + rows` of one input file; appended files renumber nothing."""
    return content_hash("chunk", path, etag, str(start), str(rows), size=8)


def row_id(chunk: str, row: int) -> str:
    return f"{chunk}-{row:06d}"


def row_seed(run_seed: int, round_number: int, stage: str, captioner: str, uid: str, k: int) -> int:
    """Seed in [0, 2**63) of the random stream that belongs to one text of one row (architecture, section 3)."""
    digest = content_hash(str(run_seed), str(round_number), stage, captioner, uid, str(k), size=8)
    return int(digest, 16) >> 1


def stage_seed(run_seed: int, *parts: str) -> int:
    """Seed in [0, 2**31) for what belongs to a whole stage, such as a training run."""
    return int(content_hash(str(run_seed), *parts, size=8), 16) % (2**31)


def model_name(source: str) -> str:
    """`round-0/captioner` for a model this run trained, else the folder's or hub repository's own name."""
    parts = PurePath(source).parts
    if len(parts) >= 3 and parts[-2] == "models":
        return f"{parts[-3]}/{parts[-1]}"
    return parts[-1].removesuffix(".pth") if parts else source


def fingerprint(settings: Any) -> str:
    """16 hex digits of a JSON-able value; the order of keys does not count."""
    return content_hash(json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False), size=8)
