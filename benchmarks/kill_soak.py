"""Kills the quickstart at reduced size again and again, at random moments, and compares what it ends with to a run nobody killed.

    python benchmarks/kill_soak.py                     200 kills, some of them on Ray: about an hour on one core
    python benchmarks/kill_soak.py --kills 10 --ray 0  a look whether it works
    python benchmarks/kill_soak.py --work FOLDER       keeps its work there: the same command again goes on where it was ended

Each kill is a SIGKILL to the whole process group, to the driver alone (its children must end by themselves), or to one Ray
worker (the run must survive it). Moments are drawn so that every phase of the run is hit alike: each phase still to come is the
next target with the same chance, and the blow falls at a uniformly random moment of it. The same command then continues, now and
then with the other executor. A run that ends before its next kill is compared byte for byte and begun anew. Writes
benchmarks/results/kill_soak.json after every kill; exit 1 where anything differed.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "kill_soak.json"
REDUCED = {
    "miniweb.pictures": 60,
    "miniweb.human_pairs": 16,
    "miniweb.heldout_pairs": 16,
    "read.rows_per_chunk": 12,
    "download.deadline_s": 2,  # slow hosts take 0.2 s; shorter, and a busy machine would decide what is downloaded
    "write.rows_per_shard": 12,
    "pretrain.steps": 6,
    "pretrain.warmup_steps": 2,
    "pretrain.checkpoint_every_steps": 2,
    "pretrain.batch_size": 12,
    "pretrain.threads": 1,
    "finetune.captioner.steps": 4,
    "finetune.captioner.batch_size": 8,
    "finetune.captioner.checkpoint_every_steps": 2,
    "finetune.captioner.threads": 1,
    "finetune.filter.steps": 4,
    "finetune.filter.batch_size": 8,
    "finetune.filter.checkpoint_every_steps": 2,
    "finetune.filter.threads": 1,
    "caption.batch_size": 8,
    "filter.batch_size": 8,
    # Models of 6 steps know nothing: without these settings of dedup and select no row would survive them.
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
ORPHANS_S = 100.0  # after the driver died; agents of Ray were seen to take 60 to 90 s to notice, and then to end
PHASES = re.compile(r"^(small web|pool|round \d+ [a-z, ]+|report)\b", re.MULTILINE)
START = "start"  # what a driver does before its first word
RAY_PHASES = {"pool", "round 1 caption, filter"}
PER_PHASE = 0.35  # chance of each phase to be the next target


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
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            called = " ".join(word.rpartition("/")[2] for word in words).strip()  # names, not places of a machine
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
    said = PHASES.findall(log.read_text(errors="replace")) if log.exists() else []
    return str(said[-1]).strip() if said else START


def workers_of(process: subprocess.Popen[bytes]) -> dict[int, str]:
    return {pid: called for pid, (_, called) in family(process.pid).items() if called.startswith(WORKERS)}


def kill(process: subprocess.Popen[bytes], chance: random.Random, only: str | None = None) -> tuple[str, bool]:
    """What was killed, and whether the driver is gone."""
    workers = workers_of(process)
    what = only or chance.choice(["group", "driver", "worker", "worker"] if workers else ["group", "driver"])
    if what == "worker":
        if not workers:
            return "none (no worker was left)", False
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
    """Kills until there were enough. `record` is what the result file holds; it is written after every kill and every run."""

    def __init__(self, work: Path, out: Path, options: argparse.Namespace) -> None:
        self.work, self.out, self.options = work, out, options
        self.record: dict[str, Any] = {}
        self.began = time.monotonic()
        self.minutes_before = 0.0

    def go(self) -> None:
        self._begin()
        while len(self.record["each_kill"]) < self.options.kills:
            self._a_run()

    def _begin(self) -> None:
        """The calm run, or the record of a soak that was ended."""
        kept = self.work / "soak.json"
        if kept.exists():
            self.record = json.loads(kept.read_text())
            self.minutes_before = self.record["minutes"]
            print(f"going on after {len(self.record['each_kill'])} kills", flush=True)
            return
        wanted, timeline = calm(self.work)
        print(f"uninterrupted: {len(wanted)} files, {timeline}", flush=True)
        self.record = {
            "what": "random SIGKILLs of the quickstart, reduced; each run's files against one nobody killed, byte for byte",
            "seed": self.options.seed,
            "settings": REDUCED,
            "uninterrupted_s": timeline,
            "starts": 0,
            "kills_before_this_run": 0,
            "wanted": wanted,
            "each_run": [],
            "each_kill": [],
        }

    def _a_run(self) -> None:
        """One run, killed and continued until it ends by itself."""
        output = self.work / "run"
        while not self._a_start(output):
            pass
        found, wanted = tree(output), self.record["wanted"]
        different = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
        kills = len(self.record["each_kill"])
        self.record["each_run"].append(
            {"kills": kills - self.record["kills_before_this_run"], "files": len(found), "different": different}
        )
        print(f"run {len(self.record['each_run'])}: {self.record['each_run'][-1]}", flush=True)
        if different:
            shutil.copytree(output, self.work / f"different-{len(self.record['each_run'])}", dirs_exist_ok=True)
        self.record["kills_before_this_run"] = kills
        shutil.rmtree(output, ignore_errors=True)
        self._write()

    def _a_start(self, output: Path) -> bool:
        """One start and perhaps its end by a kill; True where the run ended by itself."""
        record, log = self.record, self.work / "driver.log"
        chance = random.Random(f"{self.options.seed} {record['starts']}")
        timeline: dict[str, float] = record["uninterrupted_s"]
        here = record.get("phase") if record["kills_before_this_run"] < len(record["each_kill"]) else None
        names = list(timeline)
        ahead = names[names.index(here) if here in timeline else 0 :]
        if self.options.only == "worker":
            ahead = [name for name in ahead if name in RAY_PHASES]
        on_ray = bool(set(ahead) & RAY_PHASES) and chance.random() < self.options.ray
        record["starts"] += 1
        process = start(output, "ray" if on_ray else "local", log)
        began = time.monotonic()
        while len(record["each_kill"]) < self.options.kills:
            target = self._target(ahead, chance)
            if target is None:
                break
            stay = timeline[target]
            if not self._reached(process, log, target, chance.uniform(0, stay), needs_worker=on_ray and target in RAY_PHASES):
                break
            at = phase(log)
            relatives = family(process.pid)
            what, is_gone = kill(process, chance, self.options.only)
            entry = {
                "kill": len(record["each_kill"]) + 1,
                "run": len(record["each_run"]) + 1,
                "start": record["starts"],
                "executor": "ray" if on_ray else "local",
                "after_s": round(time.monotonic() - began, 2),
                "phase": at,
                "what": what,
                "orphans": orphans(relatives) if is_gone else [],
            }
            if at in timeline and at != START:
                record["phase"] = at
            elif record["kills_before_this_run"] == len(record["each_kill"]):
                record["phase"] = START
            record["each_kill"].append(entry)
            print(json.dumps(entry), flush=True)
            self._write()
            if is_gone:
                return False
            # One kill of a worker per phase: a chunk has four tries, and its quarantine is another test.
            ahead = ahead[ahead.index(target) + (what.startswith("worker")) :]
        code = process.wait()
        if code != 0:
            told = log.read_text(errors="replace")[-4000:]
            raise SystemExit(f"expected the run in {output} to end well, found exit {code}; start {record['starts']}:\n{told}")
        return True

    def _target(self, ahead: list[str], chance: random.Random) -> str | None:
        """Each phase still to come is passed over with the same chance, and all of them by a run that may end."""
        return next((name for name in ahead if self.options.only or chance.random() < PER_PHASE), None)

    def _reached(self, process: subprocess.Popen[bytes], log: Path, target: str, stay: float, *, needs_worker: bool) -> bool:
        """Wait until the driver is in `target` or past it, and `stay` seconds more; False where it ended first.

        On Ray these seconds begin with the first worker: Ray takes longer to start than the work takes.
        """
        names = list(self.record["uninterrupted_s"])
        since = None
        while process.poll() is None:
            at = phase(log)
            is_past = at in names and names.index(at) > names.index(target)
            if since is None and (target == START or is_past or (at == target and (not needs_worker or workers_of(process)))):
                since = time.monotonic()
            if since is not None and time.monotonic() - since >= stay:
                return True
            time.sleep(0.02)
        return False

    def _write(self) -> None:
        kills, runs = self.record["each_kill"], self.record["each_run"]
        self.record["minutes"] = round(self.minutes_before + (time.monotonic() - self.began) / 60, 1)
        beside = self.work / "soak.json.part"
        beside.write_text(json.dumps(self.record))
        beside.replace(self.work / "soak.json")
        told = {
            "what": self.record["what"],
            "kills": len(kills),
            "kills_wanted": self.options.kills,
            "runs": len(runs),
            "runs_different": sum(bool(run["different"]) for run in runs),
            "files_compared": len(self.record["wanted"]),
            "orphans": sum(bool(entry["orphans"]) for entry in kills),
            **{name: self.record[name] for name in ("starts", "minutes", "seed", "settings", "uninterrupted_s")},
            "by_what": counted(entry["what"].split()[0] for entry in kills),
            "by_executor": counted(entry["executor"] for entry in kills),
            "by_phase": counted(entry["phase"] for entry in kills),
            "each_run": runs,
            "each_kill": kills,
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def calm(work: Path) -> tuple[dict[str, str], dict[str, float]]:
    """The tree of a run that nobody killed, and how many seconds each phase of it took, by the driver's words."""
    log, timeline = work / "calm.log", {START: 0.0}
    shutil.rmtree(work / "calm", ignore_errors=True)
    process, before = start(work / "calm", "local", log), time.monotonic()
    while process.poll() is None:
        time.sleep(0.02)
        now, at = time.monotonic(), phase(log)
        timeline[at] = timeline.get(at, 0.0) + now - before
        before = now
    if process.returncode != 0:
        told = log.read_text(errors="replace")[-4000:]
        raise SystemExit(f"expected the calm run to end well, found exit {process.returncode}:\n{told}")
    timeline = {name: round(seconds, 2) for name, seconds in timeline.items() if not name.startswith("/")}
    return tree(work / "calm"), timeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is killed")
    parser.add_argument("--ray", type=float, default=0.2, metavar="SHARE", help="of the starts with chunks to do: on Ray")
    parser.add_argument("--only", choices=["worker"], help="one Ray worker in each phase that has some; with --ray 1")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; a temporary one where left out")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-soak-") as place:
        work = (options.work or Path(place)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        soak = Soak(work, options.out, options)
        soak.go()
    kills, runs = soak.record["each_kill"], soak.record["each_run"]
    different = sum(bool(run["different"]) for run in runs)
    print(f"{len(kills)} kills, {len(runs)} runs, {different} of them different", flush=True)
    sys.exit(1 if different or any(entry["orphans"] for entry in kills) else 0)


def counted(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


if __name__ == "__main__":
    main()
