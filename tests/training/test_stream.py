import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from capfilt.config.read import ParquetImages, WebDataset
from capfilt.config.train import CapfiltShards, Losses, Mix, PretrainConfig
from capfilt.errors import InputError
from capfilt.modeling.families import load_network
from capfilt.training import WebPairs, pretrain
from capfilt.training.shards import ShardReader
from capfilt.training.stream import StreamedPairs


@pytest.fixture
def shards(tmp_path, picture):
    """Four Parquet shards of two row groups each: 36 rows, of which one has no text and one a broken picture."""
    schema = pa.schema([("image", pa.large_binary()), ("text", pa.string()), ("all_captions", pa.list_(pa.string()))])
    for shard in range(4):
        numbers = range(shard * 9, shard * 9 + 9)
        rows = [{"image": picture(i), "text": f"a thing {i}", "all_captions": [f"a thing {i}", f"thing {i}"]} for i in numbers]
        if shard == 1:
            rows[2]["image"], rows[4]["all_captions"] = b"broken", [" "]
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"{shard:05d}.parquet", row_group_size=5)
    return CapfiltShards(kind="capfilt", paths=[str(tmp_path / "*.parquet")])


def streamed(config, lanes=2, rows=8, **options) -> StreamedPairs:
    return StreamedPairs(ShardReader(config), 8, seed=1, shuffle_rows=rows, lanes=lanes, **options)


def test_every_place_is_found_from_its_number_alone(shards):
    pixels, ids, texts = streamed(shards).take(np.arange(80))
    for places in ([79, 3, 40], [17]):
        alone = streamed(shards).take(np.array(places))
        assert torch.equal(alone[0], pixels[places])
        assert alone[1].tolist() == ids[places].tolist()
        assert alone[2] == [texts[i] for i in places]


def test_each_time_round_shows_every_pair_in_another_order(shards):
    stream = streamed(shards)
    assert len(stream) == 36
    _, _, texts = stream.take(np.arange(72))
    numbers = [int(text.split()[-1]) for text in texts]
    usable = set(range(36)) - {11, 13}
    for start in (0, 36):
        assert set(numbers[start : start + 36]) <= usable
        assert len(set(numbers[start : start + 36])) >= 32  # a place of a broken row shows another; lanes may differ by a chunk
    assert numbers[:36] != numbers[36:]
    assert numbers[:36] != sorted(numbers[:36])
    assert {text.split()[0] for text in texts} == {"a", "thing"}  # of several texts one is drawn


def test_a_worker_reads_its_own_lanes_only_and_few_rows_are_held(shards):
    stream = streamed(shards, lanes=4, rows=16)
    read = []
    real = stream._reader.rows
    stream._reader.rows = lambda chunk: (read.append(chunk.chunk_id), real(chunk))[1]
    stream.take(np.arange(0, 200, 2))
    mine = set(read)
    read.clear()
    stream.take(np.arange(1, 200, 2))
    assert mine
    assert mine.isdisjoint(read)
    held = [sum(len(future.result()) for future in lane._read.values()) for lane in stream._lanes]
    assert max(held) <= 2 * (16 // 4 + 5)


def test_other_kinds_of_shards_are_read_by_the_sources(tmp_path, shards, picture):
    plain = ShardReader(ParquetImages(kind="parquet_images", paths=shards.paths))
    assert list(plain.texts())[:2] == ["a thing 0", "a thing 1"]
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        for i in range(3):
            for name, data in ((f"{i}.png", picture(i)), (f"{i}.txt", f"tar {i}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    tar = ShardReader(WebDataset(kind="webdataset", paths=[str(tmp_path / "w.tar")]))
    assert sorted(tar.texts()) == ["tar 0", "tar 1", "tar 2"]
    assert tar.content != plain.content


def test_shards_without_a_pair_are_named(tmp_path):
    schema = pa.schema([("image", pa.large_binary()), ("all_captions", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist([{"image": None, "all_captions": []}], schema), tmp_path / "e.parquet")
    config = CapfiltShards(kind="capfilt", paths=[str(tmp_path / "e.parquet")])
    with pytest.raises(InputError, match="expected pictures with texts, found none in 1 rows"):
        streamed(config).take(np.array([0]))


class Stop(Exception):
    pass


def test_a_pretraining_on_shards_that_was_stopped_ends_with_the_same_weights(tmp_path, shards, architecture_file):
    config = PretrainConfig(
        architecture=str(architecture_file),
        mix=Mix(web=1, human=0),
        web=shards,
        web_fraction_per_epoch=0.5,
        shuffle_rows=8,
        interleave=2,
        augment="blip",
        losses=Losses(itc=1, itm=1, lm=1),
        steps=14,
        batch_size=4,
        lr=1e-3,
        checkpoint_every_steps=3,
        threads=1,
    )

    def run(name, **options):
        out, work = tmp_path / name, tmp_path / f"{name}-work"
        pretrain(config, web=WebPairs((), "pool"), out=out, work=work, seed=1, device="cpu", **options)
        return load_network(out).model.state_dict()

    def stop(report):
        raise Stop

    whole = run("whole")
    with pytest.raises(Stop):
        run("cut", on_step=stop)
    cut = run("cut")
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_text_alone_in_a_shard_stands_for_a_list_of_one_and_other_types_are_refused(tmp_path, picture):
    rows = {"image": [picture(0), picture(1)], "all_captions": ["a red dog", None]}
    pq.write_table(pa.table(rows), tmp_path / "plain.parquet")
    config = CapfiltShards(kind="capfilt", paths=[str(tmp_path / "plain.parquet")])
    assert list(ShardReader(config).texts()) == ["a red dog"]
    pq.write_table(pa.table(rows | {"all_captions": [1, 2]}), tmp_path / "plain.parquet")
    with pytest.raises(InputError, match=r"pretrain.web: expected a text or a list .* found int64 of .*plain\.parquet"):
        list(ShardReader(config).texts())
