"""Each benchmark is a command, `python -m benchmarks.NAME`, that prints a table and writes JSON."""
