"""What a training tells of itself: means of its losses, a line each few steps in log.jsonl.

Knows nothing of networks or steps.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from capfilt.errors import CapfiltError


class Since:
    """Sums of the losses since the last log line; a single inf or nan stays visible in them, so no step needs a check."""

    def __init__(self, sums: dict[str, Tensor] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            value = loss.detach().float()
            before = self.sums.get(name)
            self.sums[name] = value if before is None else before.to(value.device) + value
        self.steps += 1

    def means(self, step: int) -> dict[str, float]:
        """Raises: CapfiltError: If one is no finite number."""
        found = {name: float(total) / self.steps for name, total in self.sums.items()}
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        if wrong:
            raise CapfiltError(
                f"expected finite losses, found {', '.join(f'{name} = {found[name]}' for name in wrong)} between steps "
                f"{step - self.steps + 1} and {step}; lower lr, lengthen warmup_steps or set clip_norm: 1.0"
            )
        return found

    def clear(self) -> None:
        self.sums, self.steps = {}, 0


class Log:
    """One JSON object per line; on resume, lines after the checkpoint's step go, so that no step stands twice."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, float]) -> None:
        self._file.write(json.dumps({key: round(value, 8) for key, value in line.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Whole lines; a half-written last one belongs to a step that will be done again."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
