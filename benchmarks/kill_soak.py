"""Kills the quickstart at reduced size again and again, at random moments, and compares what it ends with to a run nobody killed.

    python benchmarks/kill_soak.py                     200 kills, every tenth start on Ray
    python benchmarks/kill_soak.py --kills 10 --ray 0  a look whether it works

Each kill is a SIGKILL to the whole process group, to the driver alone (its children must end by themselves), or to one Ray
worker (the run must survive it). The same command then continues, now and then with the other executor. A run that ends before
its next kill is compared byte for byte and begun anew. Writes benchmarks/results/kill_soak.json; exit 1 where anything differed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "kill_soak.json"
REDUCED = {
    "miniweb.pictures": 120,
    "miniweb.human_pairs": 24,
    "miniweb.heldout_pairs": 24,
    "read.rows_per_chunk": 16,
    "download.deadline_s": 2,
    "write.rows_per_shard": 20,
    "pretrain.steps": 12,
    "pretrain.warmup_steps": 4,
    "pretrain.checkpoint_every_steps": 3,
    "pretrain.batch_size": 16,
    "pretrain.threads": 1,
    "finetune.captioner.steps": 6,
    "finetune.captioner.batch_size": 8,
    "finetune.captioner.checkpoint_every_steps": 3,
    "finetune.captioner.threads": 1,
    "finetune.filter.steps": 6,
    "finetune.filter.batch_size": 8,
    "finetune.filter.checkpoint_every_steps": 3,
    "finetune.filter.threads": 1,
    "caption.batch_size": 8,
    "filter.batch_size": 8,
    # Models of 12 steps know nothing: without these settings of dedup and select no row would survive them.
    "dedup.min_cosine": 1,
    "select.min_itm": 0,
    "evaluate.bootstrap": 20,
    "report.cards": 12,
    "report.open": "false",
    "resources.ray.logical_cpus": 4,
    "resources.max_failure_rate": "{caption: null, filter: null}",
}
OUTSIDE = ("events", "report.html", "lease.json")  # wall-clock
OPERATIONAL = ("config.yaml", "plan.json")  # name the executor and the run folder
WORKERS = ("ray::PoolActor", "ray::CaptionActor", "ray::FilterActor", "ray::FusedActor", "ray::MapWorker")
ORPHANS_S = 20.0  # after the driver died


def command(output: Path, executor: str) -> list[str]:
    settings = {**REDUCED, "output": output, "resources.executor": executor}
    overrides = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    return [sys.executable, "-m", "capfilt", "run", str(ROOT / "pipelines" / "quickstart.yaml"), *overrides]


def start(output: Path, executor: str, log: Path) -> subprocess.Popen[bytes]:
    # One thread: two that wait for each other on busy cores take many times as long.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as told:
        return subprocess.Popen(
            command(output, executor), stdout=told, stderr=told, start_new_session=True, env=environment, cwd=output.parent
        )


def tree(output: Path) -> dict[str, str]:
    """Hash of every file that a killed run must end with; of training logs without the speed."""
    found = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output)
        if not path.is_file() or name.parts[0] in (*OUTSIDE, *OPERATIONAL):
            continue
        data = path.read_bytes()
        if name.name == "log.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{key: value for key, value in line.items() if key != "pairs_per_s"} for line in lines]).encode()
        found[str(name)] = sha256(data).hexdigest()
    return found


def family(of: int) -> dict[int, tuple[str, str]]:
    """The living process `of`, its session and all its descendants: pid -> (when it began, how it calls itself)."""
    known: dict[int, tuple[int, int, str, str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            called = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if fields[0] != "Z":
            known[int(folder.name)] = (int(fields[1]), int(fields[3]), fields[19], called)
    members = {pid for pid, (_, session, _, _) in known.items() if pid == of or session == of}
    while more := {pid for pid, (parent, *_) in known.items() if parent in members} - members:
        members |= more
    return {pid: known[pid][2:] for pid in members}


def phase(log: Path) -> str:
    """What the driver last said it was doing."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].partition(":")[0][:60] if lines else "start"


def kill(process: subprocess.Popen[bytes], chance: random.Random) -> tuple[str, bool]:
    """What was killed, and whether the driver is gone."""
    workers = {pid: called for pid, (_, called) in family(process.pid).items() if called.startswith(WORKERS)}
    what = chance.choice(["group", "driver", "worker"] if workers else ["group", "driver"])
    if what == "worker":
        pid = chance.choice(sorted(workers))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return f"worker {workers[pid].split('.')[0]} (had ended)", False
        return f"worker {workers[pid].split('.')[0]}", False
    if what == "driver":
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return what, True


def orphans(relatives: dict[int, tuple[str, str]]) -> list[str]:
    """Those that outlive their driver by more than `ORPHANS_S`; they are ended."""
    until = time.monotonic() + ORPHANS_S
    while (left := _still_there(relatives)) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return sorted(relatives[pid][1] for pid in left)


def _still_there(relatives: dict[int, tuple[str, str]]) -> list[int]:
    """By pid and time of birth: a number alone may be another's by now."""
    found = []
    for pid, (began, _) in relatives.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and fields[19] == began:
            found.append(pid)
    return found


class Soak:
    """Kills until there were enough; `kills` and `runs` are the record."""

    def __init__(self, work: Path, wanted: dict[str, str], seconds: dict[str, float], seed: int, ray_share: float) -> None:
        self.work, self.wanted, self.seconds, self.ray_share = work, wanted, seconds, ray_share
        self.chance = random.Random(seed)
        self.kills: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.starts = 0

    def go(self, count: int) -> None:
        while True:
            self.a_run(count)
            if len(self.kills) >= count:
                return

    def a_run(self, count: int) -> None:
        """One run, killed and continued until it ends by itself."""
        output = self.work / "run"
        shutil.rmtree(output, ignore_errors=True)
        first = len(self.kills)
        while not self.a_start(output, count):
            pass
        found = tree(output)
        names = sorted({*found, *self.wanted})
        different = [name for name in names if found.get(name) != self.wanted.get(name)]
        self.runs.append({"kills": len(self.kills) - first, "files": len(found), "different": different})
        said = "the same" if not different else f"{len(different)} DIFFERENT: {different[:5]}"
        print(f"run {len(self.runs)}: {len(self.kills) - first} kills, {len(found)} files, {said}", flush=True)

    def a_start(self, output: Path, count: int) -> bool:
        """One start and perhaps its end by a kill; True where the run ended by itself."""
        executor = "ray" if self.chance.random() < self.ray_share else "local"
        self.starts += 1
        log = self.work / "driver.log"
        process = start(output, executor, log)
        began = time.monotonic()
        moments = [self.chance.uniform(0, self.seconds[executor])]
        if executor == "ray":  # a worker may go first, its driver later
            moments.append(moments[0] + self.chance.uniform(0, self.seconds[executor] / 2))
        for moment in moments if len(self.kills) < count else ():
            try:
                process.wait(max(0.0, began + moment - time.monotonic()))
                break
            except subprocess.TimeoutExpired:
                at = phase(log)
            relatives = family(process.pid)
            what, is_gone = kill(process, self.chance)
            entry = {"kill": len(self.kills) + 1, "run": len(self.runs) + 1, "start": self.starts, "executor": executor}
            entry |= {"after_s": round(time.monotonic() - began, 2), "phase": at, "what": what}
            if is_gone:
                entry["orphans"] = orphans(relatives)
            self.kills.append(entry)
            print(json.dumps(entry), flush=True)
            if is_gone:
                return False
        code = process.wait()
        if code != 0:
            raise SystemExit(f"expected the run to end well, found exit {code}:\n{log.read_text(errors='replace')[-4000:]}")
        return True


def reference(work: Path, executor: str, name: str) -> tuple[dict[str, str], float]:
    """The tree of a run that nobody killed, and how long it took."""
    log, began = work / f"{name}.log", time.monotonic()
    code = start(work / name, executor, log).wait()
    if code != 0:
        raise SystemExit(f"expected the reference run to end well, found exit {code}:\n{log.read_text(errors='replace')[-4000:]}")
    return tree(work / name), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is killed")
    parser.add_argument("--ray", type=float, default=0.1, metavar="SHARE", help="of the starts that use Ray")
    parser.add_argument("--work", type=Path, help="folder to work in; a temporary one where left out")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-soak-") as place:
        work = (options.work or Path(place)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work / "calm", ignore_errors=True)
        wanted, seconds = reference(work, "local", "calm")
        print(f"uninterrupted: {len(wanted)} files in {seconds:.1f} s", flush=True)
        # Ray takes as long again to start; the next moment is drawn anew at every start.
        soak = Soak(work, wanted, {"local": seconds, "ray": 1.5 * seconds}, options.seed, options.ray)
        try:
            soak.go(options.kills)
        finally:
            different = sum(bool(run["different"]) for run in soak.runs)
            told = {
                "kills": len(soak.kills),
                "runs": len(soak.runs),
                "starts": soak.starts,
                "runs_different": different,
                "orphans": sum(bool(entry.get("orphans")) for entry in soak.kills),
                "files_compared": len(wanted),
                "uninterrupted_s": round(seconds, 1),
                "minutes": round((time.monotonic() - began) / 60, 1),
                "seed": options.seed,
                "by_what": _counted(entry["what"].split()[0] for entry in soak.kills),
                "by_phase": _counted(entry["phase"] for entry in soak.kills),
                "each_run": soak.runs,
                "each_kill": soak.kills,
            }
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{len(soak.kills)} kills, {len(soak.runs)} runs, {different} of them different", flush=True)
    sys.exit(1 if different or told["orphans"] else 0)


def _counted(names: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
