"""WebDataset shards: awkward texts come back as they were."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.writers.webdataset import WebDatasetShards

SCHEMA = pa.schema([("key", pa.string()), ("image", pa.large_binary()), ("caption", pa.string()), ("score", pa.float32())])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(), image=st.binary(), score=st.floats(width=32))
def test_members_come_back(tmp_path_factory: "object", text: str, image: bytes, score: float) -> None:
    text = text.encode("utf-8", "replace").decode()  # Arrow strings hold no surrogates
    folder: Path = tmp_path_factory.mktemp("wds") / "webdataset"  # type: ignore[attr-defined]
    shards = WebDatasetShards(folder, SCHEMA)
    shards.open(0)
    shards.add(pa.table({"key": ["000000000"], "image": [image], "caption": [text], "score": [score]}, schema=SCHEMA))
    tar_path, _ = shards.close()
    with tarfile.open(tar_path) as tar:
        read = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert read["000000000.jpg"] == image
    assert read["000000000.txt"].decode() == text
    told = json.loads(read["000000000.json"])
    is_number = score == score and abs(score) != float("inf")
    assert told == {"key": "000000000", "score": score if is_number else None}
