"""Run the benchmarks one after another: `python -m benchmarks [NAME ...]`."""

import subprocess
import sys

# The order is from short to long; scripted_annotator takes most of an hour and is run by name.
SHORT = ("startup", "indexing", "search", "search_quality", "answering", "votes", "dpo_speed")

if __name__ == "__main__":
    failed = [
        name
        for name in sys.argv[1:] or SHORT
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    ]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
