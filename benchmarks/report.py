"""One table on the screen and one JSON file in benchmarks/results, for every benchmark."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"

Row = Mapping[str, object]


def write_report(name: str, rows: Sequence[Row], *, notes: str = "") -> Path:
    """Print `rows` as an aligned table and write them to results/NAME.json with the machine's size.

    Rows share their keys; the keys are the columns. Returns the JSON file's path.
    """
    print(table(rows))
    if notes:
        print(notes)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    content = {
        "benchmark": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "notes": notes,
        "rows": [dict(row) for row in rows],
    }
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def table(rows: Sequence[Row]) -> str:
    """`rows` as text, one column per key of the first row."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [columns] + [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
