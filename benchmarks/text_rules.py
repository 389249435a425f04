"""What the screen's rules reject of real data: share per rule and source, CPU time per text, and what real photographs measure.

    python benchmarks/text_rules.py DATA [--examples 10] [--pictures 1000]

DATA is a folder with web_text/*.parquet (columns text, source) and, for the rules on pixels, any number of other folders with
Parquet files that have a column `image` (encoded bytes). Prints a table and writes benchmarks/results/text_rules.json. Times are
CPU times of this process, so that others on the machine change them little.
"""

import argparse
import glob
import json
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from capfilt.config.screen import TextRule
from capfilt.filters.rules import TextRules

RULES: dict[str, dict[str, Any]] = {
    "not_empty": {"kind": "not_empty"},
    "not_file_name": {"kind": "not_file_name"},
    "not_markup": {"kind": "not_markup"},
    "words 2 to 60": {"kind": "words", "min": 2, "max": 60},
    "words 3 to 60": {"kind": "words", "min": 3, "max": 60},
    "characters": {"kind": "characters"},
    "letters": {"kind": "letters"},
    "repetition": {"kind": "repetition"},
    "repetition, 10 characters": {"kind": "repetition", "unit": "characters", "length": 10},
    "language en": {"kind": "language", "languages": ["en"]},
    "language en, 0.1": {"kind": "language", "languages": ["en"], "min_confidence": 0.1},
    "language en, 0.5": {"kind": "language", "languages": ["en"], "min_confidence": 0.5},
    "boilerplate": {"kind": "boilerplate"},
    "boilerplate, 3 words left": {"kind": "boilerplate", "min_words_left": 3},
    "pii": {"kind": "pii"},
    "pii, all kinds": {"kind": "pii", "find": ["email", "phone", "card", "ip"]},
}
TOGETHER = (
    "not_empty",
    "not_file_name",
    "not_markup",
    "words 2 to 60",
    "letters",
    "repetition",
    "language en",
    "boilerplate",
    "pii",
)


def measure(name: str, rules: list[dict[str, Any]], rows: list[tuple[str, str]], examples: int) -> dict[str, Any]:
    judge = TextRules(TypeAdapter(list[TextRule]).validate_python(rules)).judge
    judge("a text that makes it load what it loads once")
    start = time.process_time()
    names = [judge(text).rule for text, _ in rows]
    spent = time.process_time() - start
    texts = Counter(source for _, source in rows)
    rejected = Counter(source for (_, source), found in zip(rows, names, strict=True) if found)
    shares = {source: rejected[source] / number for source, number in sorted(texts.items())}
    print(f"{name:28}" + "".join(f"{share:10.2%}" for share in shares.values()) + f"{spent / len(rows) * 1e6:10.1f} us")
    hit = [text for (text, _), found in zip(rows, names, strict=True) if found]
    for text in random.Random(0).sample(hit, min(examples, len(hit))):
        print(f"      {text[:120]!r}")
    by_name = dict(Counter(found for found in names if found).most_common())
    return {"rejected": shares, "cpu_us_per_text": round(spent / len(rows) * 1e6, 1), "by_name": by_name}


def measure_pictures(folder: Path, most: int) -> dict[str, Any]:
    """What rules on pixels measure of real photographs, as they are and blurred by a Gaussian of 1/128 and 1/64 of their side."""
    import cv2

    from capfilt.filters.rules.pictures import share_of_one_colour, sharpness, shrink
    from capfilt.images import decode_rgb

    sharp: list[float] = []
    colour: list[float] = []
    blurred: dict[str, list[float]] = {"1/128": [], "1/64": []}
    spent = dict.fromkeys(("decode", "blur", "one_colour"), 0.0)
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(100, columns=["image"]):
            for data in batch["image"].to_pylist()[: most - len(sharp)]:
                clock = [time.process_time()]
                small = shrink(np.asarray(decode_rgb(data)))
                clock.append(time.process_time())
                sharp.append(sharpness(small))
                clock.append(time.process_time())
                colour.append(share_of_one_colour(small))
                clock.append(time.process_time())
                for part, seconds in zip(spent, np.diff(clock), strict=True):
                    spent[part] += float(seconds)
                for name, share in (("1/128", 1 / 128), ("1/64", 1 / 64)):
                    blurred[name].append(sharpness(cv2.GaussianBlur(small, (0, 0), share * max(small.shape[:2]))))

    def percentiles(values: list[float], digits: int) -> dict[str, float]:
        return {f"p{part:g}": round(float(np.percentile(values, part)), digits) for part in (0, 1, 5, 50, 95, 99, 100)}

    result = {
        "pictures": len(sharp),
        "laplacian_variance": percentiles(sharp, 0),
        "laplacian_variance_blurred": {name: percentiles(values, 0) for name, values in blurred.items()},
        "share_of_one_colour": percentiles(colour, 3),
        "cpu_ms_per_picture": {part: round(seconds / len(sharp) * 1e3, 2) for part, seconds in spent.items()},
    }
    print(f"{folder.name}: {json.dumps(result)}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--examples", type=int, default=0, help="rejected texts to print per rule")
    parser.add_argument("--pictures", type=int, default=1000, help="pictures per folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text_rules.json")
    args = parser.parse_args()
    rows: list[tuple[str, str]] = []
    for file in sorted(glob.glob(str(args.data / "web_text" / "*.parquet"))):
        table = pq.read_table(file, columns=["text", "source"])
        rows += zip(table["text"].to_pylist(), table["source"].to_pylist(), strict=True)
    if not rows:
        raise SystemExit(f"{args.data}: expected web_text/*.parquet, found none. Name another folder")
    print(f"{'rule':28}" + "".join(f"{source[:9]:>10}" for source in sorted({source for _, source in rows})) + f"{'time':>10}")
    result: dict[str, Any] = {"machine": platform.machine(), "texts": dict(Counter(source for _, source in rows)), "rules": {}}
    for name, rule in RULES.items():
        result["rules"][name] = {"rule": rule, **measure(name, [rule], rows, args.examples)}
    result["together"] = {"rules": TOGETHER, **measure("together", [RULES[name] for name in TOGETHER], rows, 0)}
    folders = sorted({path.parent for path in args.data.glob("*/*.parquet") if "image" in pq.read_schema(path).names})
    result["pictures"] = {folder.name: measure_pictures(folder, args.pictures) for folder in folders}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
