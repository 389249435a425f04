"""The download stage against plain img2dataset: images per second and CPU seconds per image, from a well-behaved loopback server.

    python benchmarks/download_rate.py                       two cases, both ways to write, about five minutes on two cores
    python benchmarks/download_rate.py --cases large --pictures 200 --rounds 2

A process of its own serves JPEGs made here (seed fixed). Plain img2dataset (its Downloader with threads, its fetch, its Resizer,
sha256, its Parquet writer or its files writer) and our download stage with the writing of a pool chunk run in a process each.
Both live through the whole measurement and take turns, A B B A, over the same addresses with the same number of threads; the
other one sleeps meanwhile. Both decode, resize to the same shorter side, encode with the same quality and write. What importing
and a first picture cost is told apart, as `start_up`.

A ratio above 1 is in our favour: images per second, ours over theirs; CPU seconds per image, theirs over ours. Every fetch of
ours keeps its guards: addresses, deadline, limits, robots.txt, X-Robots-Tag.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("img2dataset", "opencv-python-headless", "pillow", "albumentations", "pyarrow", "numpy")
QUALITY = 95
WARM_UP = 24  # pictures


@dataclass(frozen=True)
class Case:
    """Pictures whose longer side lies between `least` and `most`, kept with a shorter side of `image_px`."""

    least: int
    most: int
    image_px: int


CASES = {"small": Case(320, 480, 256), "large": Case(640, 1024, 384)}
SIDES = ("capfilt", "img2dataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--writers", nargs="+", choices=("parquet", "files"), default=["parquet", "files"], help="of img2dataset")
    parser.add_argument("--pictures", type=int, default=256, help="in one pass")
    parser.add_argument("--rounds", type=int, default=6, help="each is A B B A: two passes of either")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "download_rate.json")
    parser.add_argument("--role", choices=("server", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "server":
        asyncio.run(serve(**args.task))
        return
    if args.role is not None:
        work(args.role, **args.task)
        return
    result: dict[str, Any] = {
        "what": "images/s (ours over theirs) and CPU s per image (theirs over ours) of the download stage and plain img2dataset; "
        "above 1 is in our favour",
        "command": " ".join(["python", "benchmarks/download_rate.py", *sys.argv[1:]]),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": processor(),
            "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2),
            **{name: version(name) for name in LIBRARIES},
        },
        "threads": args.threads,
        "pictures": args.pictures,
        "rounds": args.rounds,
        "seed": args.seed,
        "cases": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        for writer in args.writers:
            result["cases"].append(measure(name, writer, args))
            args.out.write_text(json.dumps(result, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


# ── the measurement ─────────────────────────────────────────────────────────────────────────────────────────


def measure(name: str, writer: str, args: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        make = {"least": case.least, "most": case.most, "pictures": args.pictures, "seed": args.seed}
        server = Process("server", make)
        try:
            served = server.answer()
            common = {"port": served["port"], "pictures": args.pictures, "image_px": case.image_px, "threads": args.threads}
            sides = {side: Process(side, {**common, "writer": writer, "folder": f"{folder}/{side}"}) for side in SIDES}
            try:
                return {"case": name, "img2dataset_writes": writer, **vars(case), **compared(sides, args.rounds, served)}
            finally:
                for side in sides.values():
                    side.end()
        finally:
            server.end()


def compared(sides: dict[str, "Process"], rounds: int, served: dict[str, Any]) -> dict[str, Any]:
    start_up = {name: side.answer() for name, side in sides.items()}
    for side in sides.values():
        side.ask()  # not counted: file caches, memory, idle connections
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    a, b = SIDES
    for number in range(rounds):
        for name in (a, b, b, a) if number % 2 == 0 else (b, a, a, b):
            passes[name].append(sides[name].ask())
    ours, theirs = passes[a], passes[b]
    # neighbours in time are compared: the machine is the same for both
    rate = [o["images_per_s"] / t["images_per_s"] for o, t in zip(ours, theirs, strict=True)]
    cpu = [t["cpu_ms_per_image"] / o["cpu_ms_per_image"] for o, t in zip(ours, theirs, strict=True)]
    result = {
        "mean_kib": served["mean_kib"],
        "start_up": start_up,
        **{name: {key: spread([one[key] for one in passes[name]]) for key in passes[name][0]} for name in SIDES},
        "ratio_images_per_s": spread(rate),
        "ratio_cpu_per_image": spread(cpu),
    }
    print(json.dumps({key: result[key] for key in (*SIDES, "ratio_images_per_s", "ratio_cpu_per_image")}, indent=1), flush=True)
    return result


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


class Process:
    """One role in a process of its own, asked by lines of JSON."""

    def __init__(self, role: str, task: dict[str, Any]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--role", role, "--task", json.dumps(task)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended early: {self._process.args!r}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # each role ends where its input ends
        self._process.wait()


# ── the two sides ───────────────────────────────────────────────────────────────────────────────────────────


def work(role: str, *, port: int, pictures: int, image_px: int, threads: int, writer: str, folder: str) -> None:
    """Answer each line of the input with the figures of one pass over all pictures."""
    begun = time.perf_counter()
    urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(pictures)]
    Path(folder).mkdir(parents=True)
    make = ours if role == "capfilt" else theirs
    run = make(port=port, image_px=image_px, threads=threads, writer=writer, folder=folder)
    run(urls[:WARM_UP])
    tell({"seconds": round(time.perf_counter() - begun, 2), "cpu_seconds": round(time.process_time(), 2)})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        done = run(urls)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if done != pictures:
            raise SystemExit(f"{role}: expected {pictures} pictures, found {done}")
        tell({"images_per_s": pictures / wall, "cpu_ms_per_image": 1000 * cpu / pictures})


def tell(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def ours(*, port: int, image_px: int, threads: int, writer: str, folder: str) -> Callable[[list[str]], int]:
    """The download stage behind its guard, then a chunk of the pool as `capfilt run` writes it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from capfilt.config.download import DownloadConfig
    from capfilt.run.commit import commit
    from capfilt.schema import COLUMNS, READ_COLUMNS
    from capfilt.stages.base import Guarded
    from capfilt.stages.download import DownloadStage

    types = {column.name: column.type for column in COLUMNS}
    place = f"127.0.0.1:{port}"
    config = DownloadConfig(image_px=image_px, jpeg_quality=QUALITY, allow_hosts=[place], per_host=threads)
    stage = Guarded(DownloadStage(config, threads=threads, connect_to={}))

    def run(urls: list[str]) -> int:
        given: dict[str, list[str | None]] = {
            "row_id": [f"c-{row:06d}" for row in range(len(urls))],
            "uid": [f"{row:032x}" for row in range(len(urls))],
            "url": list(urls),
            "status": ["ok"] * len(urls),
        }
        table = pa.table({name: pa.array(given.get(name, [None] * len(urls)), types[name]) for name in READ_COLUMNS})
        table = stage(table)
        table = table.append_column("captions", pa.nulls(len(urls), types["captions"]))
        commit(table, folder, chunk_id="c", fingerprint="", stage="pool")
        return int(pc.sum(pc.equal(table["status"], "ok")).as_py())

    return run


def theirs(*, port: int, image_px: int, threads: int, writer: str, folder: str) -> Callable[[list[str]], int]:
    """What a worker process of img2dataset does with a shard, with the defaults of its command line but for `resize_mode`."""
    import pyarrow as pa
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import FilesSampleWriter, ParquetSampleWriter

    written = [0]

    class Counted(FilesSampleWriter if writer == "files" else ParquetSampleWriter):  # type: ignore[misc]
        def write(self, img_str: bytes | None, *rest: Any) -> None:
            written[0] += img_str is not None
            super().write(img_str, *rest)

    resizer = Resizer(
        image_size=image_px, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=QUALITY, encode_format="jpg"
    )
    downloader = Downloader(
        sample_writer_class=Counted,
        resizer=resizer,
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=["url"],
        timeout=10,
        number_sample_per_shard=10_000,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )

    def run(urls: list[str]) -> int:
        path = f"{folder}/_shard.feather"
        table = pa.table({"url": urls})
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as stream:
            stream.write_table(table)
        written[0] = 0
        downloader((0, path))
        return written[0]

    return run


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────


def picture(number: int, *, least: int, most: int, seed: int) -> bytes:
    """A JPEG with soft shapes and camera noise, about as big as a photograph of its size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng([seed, number])
    longer = int(rng.integers(least, most + 1))
    shorter = int(longer * rng.uniform(0.66, 0.8))
    width, height = (longer, shorter) if rng.random() < 0.7 else (shorter, longer)
    shapes = rng.integers(0, 255, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


async def serve(*, least: int, most: int, pictures: int, seed: int) -> None:
    """HTTP/1.1 from memory, keep-alive for whoever wants it, until the input ends."""
    bodies = [picture(number, least=least, most=most, seed=seed) for number in range(pictures)]

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.waiting = transport, b""

        def data_received(self, data: bytes) -> None:
            self.waiting += data
            while b"\r\n\r\n" in self.waiting:
                head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                number = path[1:-4]
                found = path.endswith(b".jpg") and number.isdigit() and int(number) < pictures
                body = bodies[int(number)] if found else b""
                closes = b"connection: close" in head.lower()
                lines = [
                    "HTTP/1.1 200 OK" if found else "HTTP/1.1 404 Not Found",
                    f"Content-Length: {len(body)}",
                    "Content-Type: image/jpeg",
                    f"Connection: {'close' if closes else 'keep-alive'}",
                ]
                self.transport.writelines(["\r\n".join(lines).encode() + b"\r\n\r\n", body])
                if closes:
                    self.transport.close()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    tell({"port": port, "mean_kib": round(sum(map(len, bodies)) / len(bodies) / 1024, 1)})
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    main()
