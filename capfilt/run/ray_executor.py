"""Runs chunks as Ray Data blocks through pools of actors, on this machine or on a cluster. Only ray_train.py imports Ray too.

Same work, same files as the local executor; knows nothing about stages. Ray's output stays in Ray's own log files.
"""

import logging
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from capfilt.config.machine import Resources, StageResources
from capfilt.errors import CapfiltError, ContractError
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.attempts import Attempts, marks_folder
from capfilt.run.build import Job
from capfilt.run.noise import Noise
from capfilt.run.work import CaptionWork, FilterWork, FusedWork, Outcome, PoolWork

OBJECT_STORE_BYTES = 1 << 30  # on this machine: a few chunks in flight, not the whole pool
_STARTING = threading.Lock()  # a training may want Ray while it is still coming up for the chunks
START_TRIES = 2  # of Ray on this machine, which gives itself 30 s: on a loaded one that may be too short
JOB_TRIES = 4  # of a wave that Ray itself gave up, say because a node was lost

# One row per block. `chunk` says what to do, `table` carries a captioned chunk to the filter, `outcome` goes to the driver.
# As bytes, a table passes Ray untouched: no unified schemas, no split or joined blocks.
ENVELOPE = pa.schema([("chunk", pa.string()), ("table", pa.large_binary()), ("outcome", pa.string())])

QUIET = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_enable_metrics_collection": "0",
}


def _to_terminal(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # looked up now: see run/noise.py


class RayExecutor:
    """`start` returns at once: Ray needs 4-17 s, which the small web, the index and the plan can use.

    One thread starts Ray and stays until `close`: Ray's processes are told by the kernel to end with the thread that started
    them (seen: with a thread that ends after `ray.init`, the driver is killed a minute later, without an exception). So each try
    has a thread of its own: when one fails, its thread ends, and with it what it had started.

    Args:
        note: Tells the user that a start failed and is tried again.
    """

    def __init__(self, resources: Resources, output: str, note: Callable[[str], None] = _to_terminal) -> None:
        self._resources = resources
        self._note = note
        self._noise = Noise(output)
        self._thread: threading.Thread | None = None
        self._is_up, self._may_go = threading.Event(), threading.Event()
        self._problem: BaseException | None = None

    def start(self) -> None:
        if self._thread is None:
            self._noise.put_aside()
            self._thread = threading.Thread(target=self._bring_up, name="capfilt-ray", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._may_go.set()
        if self._thread is not None:
            self._thread.join()
            self._noise.bring_back()

    def wait(self) -> None:
        """Until Ray is up.

        Raises:
            CapfiltError: If it does not come up.
        """
        self.start()
        self._is_up.wait()
        if self._problem is not None:
            raise CapfiltError(
                f"expected Ray to start, found: {_last_line(self._problem)}. Stop other work of this machine and run the same "
                "command again, or set resources.executor: local"
            ) from self._problem

    def run(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        """Outcomes as they come. Where Ray gives a wave up, the chunks without an outcome are submitted again."""
        self.wait()
        files.remove(marks_folder(job))  # marks of a driver that was killed say nothing about its chunks
        left = {chunk.chunk_id: chunk for chunk in chunks}
        for attempt in range(1, JOB_TRIES + 1):
            try:
                for outcome in _submit(job, list(left.values()), self._cpus(job)):
                    del left[outcome.chunk_id]
                    yield outcome
            except Exception as problem:  # Ray wraps whatever happened in classes of its own
                if attempt == JOB_TRIES or not _is_rays_own(problem):
                    raise _plain(problem) from None
                continue
            files.remove(files.join(job.pipeline.output, "events", "attempts"))
            if left:
                raise ContractError(
                    f"expected an outcome of every chunk, found none of {sorted(left)[:3]}; a block was lost or joined"
                )
            return

    def _bring_up(self) -> None:
        """Try after try; returns when Ray is down again."""
        tries = START_TRIES if self._resources.ray.address == "local" else 1  # a cluster is waited for by Ray itself
        for attempt in range(1, tries + 1):
            keeper = threading.Thread(target=self._keep_up, name=f"capfilt-ray-{attempt}", daemon=True)
            keeper.start()
            keeper.join()
            if self._problem is None or self._may_go.is_set():
                break
            if attempt < tries:
                self._note(f"Ray did not start ({_last_line(self._problem)}); trying again")
        self._is_up.set()

    def _keep_up(self) -> None:
        self._problem = None
        try:
            with _STARTING:
                owns_ray = _init(self._resources)
        except BaseException as problem:
            self._problem = problem
            return
        self._is_up.set()
        self._may_go.wait()
        if owns_ray:
            import ray

            ray.shutdown()

    def _cpus(self, job: Job) -> float:
        """CPUs each actor asks for: never so many that a pool waits for ever for its last actor."""
        resources = self._resources
        of_both = resources.caption.actors + (0 if job.fused else resources.filter.actors)
        actors = resources.download.actors if job.kind == "pool" else of_both
        if resources.ray.address != "local":
            return 1.0
        return (
            min(1.0, round((resources.ray.logical_cpus - 1) / actors, 2))
            if resources.ray.logical_cpus > 1
            else round(0.9 / actors, 2)
        )


def _init(resources: Resources) -> bool:
    """Start Ray or join it; False where the caller's program had done so."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "address": resources.ray.address}
        if resources.ray.address == "local":
            options |= {
                "num_cpus": resources.ray.logical_cpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        try:
            ray.init(**options)
        except BaseException:
            ray.shutdown()  # of what was up already
            raise
    _quiet_ray()
    return is_ours


def _is_rays_own(problem: Exception) -> bool:
    """A lost node or object, not an error that our code raised inside a task."""
    import ray

    return isinstance(problem, ray.exceptions.RayError) and not isinstance(problem, ray.exceptions.RayTaskError)


def _plain(problem: Exception) -> Exception:
    if isinstance(problem, CapfiltError):
        return problem
    found = f"{type(problem).__name__}: {_last_line(problem)}"
    return ContractError(f"expected every error inside a Ray actor to come back as an outcome, found {found}")


def _last_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[-1] if str(problem).strip() else type(problem).__name__


def _quiet_ray() -> None:
    from ray._private import worker
    from ray.data import DataContext

    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # `log_to_driver=False` leaves one printer: a thread that tells of every worker that died. Attempts does that, once per chunk.
    worker.print_to_stdstream = lambda *_, **__: None
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # a chunk is a block, whatever its size
    context.execution_no_progress_timeout_s = -1  # a chunk of a large model may take its time


def _submit(job: Job, chunks: list[Chunk], cpus: float) -> Iterator[Outcome]:
    import json

    import ray
    from ray.data import ActorPoolStrategy

    resources = job.pipeline.resources
    envelopes = [pa.table({"chunk": [json.dumps(asdict(chunk))], "table": pa.array([None], pa.large_binary()), "outcome": [None]},
                          schema=ENVELOPE) for chunk in chunks]  # fmt: skip
    blocks = ray.data.from_arrow(envelopes)
    if job.kind == "pool":
        flight = job.downloads_in_flight
        pools: list[tuple[type[_Actor], StageResources, Any]] = [
            (PoolActor, resources.download, ActorPoolStrategy(
                size=min(resources.download.actors, len(chunks)), max_concurrent_calls_per_actor=flight,
                max_tasks_in_flight_per_actor=flight, enable_true_multi_threading=True,
            )),
        ]  # fmt: skip
    elif job.fused:
        pools = [(FusedActor, resources.caption, ActorPoolStrategy(size=min(resources.caption.actors, len(chunks))))]
    else:
        pools = [
            (CaptionActor, resources.caption, ActorPoolStrategy(size=min(resources.caption.actors, len(chunks)))),
            (FilterActor, resources.filter, ActorPoolStrategy(size=min(resources.filter.actors, len(chunks)))),
        ]
    for actor, share, strategy in pools:
        blocks = blocks.map_batches(
            actor,
            fn_constructor_args=(job, os.getcwd()),
            batch_size=None,  # the whole block
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=strategy,
            num_cpus=cpus,
            num_gpus=share.gpus or None,
            # Ray Data's own default brings back an actor that died, for ever; Attempts counts what it died of.
        )
    for batch in blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for outcome in batch["outcome"].to_pylist():
            yield Outcome(**json.loads(outcome))


class _Actor:
    """Opens the envelope, works, closes it. One block must be one chunk."""

    def __init__(self, cwd: str) -> None:
        """`cwd`: the driver's. Relative paths in settings are the user's, and Ray may have been started elsewhere."""
        if os.path.isdir(cwd):
            os.chdir(cwd)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import json

        if batch.num_rows != 1:
            raise ContractError(f"expected one chunk per block, found {batch.num_rows}; Ray Data joined or split blocks")
        row = batch.select(["chunk", "outcome"]).to_pylist()[0]
        if row["outcome"] is not None:  # it failed in the stage before
            return batch
        outcome, table = self.work(Chunk(**json.loads(row["chunk"])), batch)
        return pa.table(
            {
                "chunk": pa.array([row["chunk"]], pa.string()),
                "table": pa.nulls(1, pa.large_binary()) if table is None else _to_bytes(table),
                "outcome": pa.array([None if table is not None else json.dumps(asdict(outcome))], pa.string()),
            },
            schema=ENVELOPE,
        )

    def work(self, chunk: Chunk, batch: pa.Table) -> tuple[Outcome, pa.Table | None]:
        raise NotImplementedError


class PoolActor(_Actor):
    def __init__(self, job: Job, cwd: str) -> None:
        super().__init__(cwd)
        self._work, self._attempts = PoolWork(job), Attempts(job, PoolWork.stage)

    def work(self, chunk: Chunk, batch: pa.Table) -> tuple[Outcome, pa.Table | None]:
        return self._attempts.run(chunk.chunk_id, lambda: self._work(chunk)), None


class CaptionActor(_Actor):
    def __init__(self, job: Job, cwd: str) -> None:
        super().__init__(cwd)
        self._work, self._attempts = CaptionWork(job), Attempts(job, CaptionWork.stage)

    def work(self, chunk: Chunk, batch: pa.Table) -> tuple[Outcome, pa.Table | None]:
        done = self._attempts.run(chunk.chunk_id, lambda: self._work(chunk.chunk_id))
        return done if isinstance(done, tuple) else (done, None)


class FilterActor(_Actor):
    def __init__(self, job: Job, cwd: str) -> None:
        super().__init__(cwd)
        self._work, self._attempts = FilterWork(job), Attempts(job, FilterWork.stage)

    def work(self, chunk: Chunk, batch: pa.Table) -> tuple[Outcome, pa.Table | None]:
        table = _from_bytes(batch["table"].chunk(0)[0])
        return self._attempts.run(chunk.chunk_id, lambda: self._work(chunk.chunk_id, table)), None


class FusedActor(_Actor):
    def __init__(self, job: Job, cwd: str) -> None:
        super().__init__(cwd)
        self._work, self._attempts = FusedWork(job), Attempts(job, FusedWork.stage)

    def work(self, chunk: Chunk, batch: pa.Table) -> tuple[Outcome, pa.Table | None]:
        return self._attempts.run(chunk.chunk_id, lambda: self._work(chunk.chunk_id)), None


def _to_bytes(table: pa.Table) -> pa.Array:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    data = sink.getvalue()
    offsets = pa.py_buffer(struct.pack("<qq", 0, data.size))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _from_bytes(value: pa.Scalar) -> pa.Table:
    """Without a copy: the table's columns point into Ray's object store."""
    return pa.ipc.open_stream(value.as_buffer()).read_all()
