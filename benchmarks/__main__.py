"""Run every benchmark and print one table: ``python -m benchmarks [header] [orthanc] [route] [multipart] ...``."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks._table import Row, print_table

BENCHES = (
    "header",
    "orthanc",
    "route",
    "multipart",
    "dicomweb",
    "rad69",
    "dimse",
    "index_qido",
    "index",
    "collect",
    "deid",
)


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all."""
    rows: list[Row] = []
    for name in names or BENCHES:
        rows += import_module(f"benchmarks.bench_{name}").run()
    print_table(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
