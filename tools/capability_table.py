#!/usr/bin/env python3
"""
Write the capability table of the README from ``tests/contract/matrix.py``.

The table stands between the lines ``<!-- capabilities -->`` and ``<!-- /capabilities -->``. Without an argument the
README is rewritten; with ``--check`` nothing is written and the exit code is 1 when it is not in step; with ``--print``
the table goes to stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- capabilities -->", "<!-- /capabilities -->"
HOW = f"put the lines {BEGIN} and {END} into README.md, then run: python tools/capability_table.py"


def table() -> str:
    """Return the table as Markdown."""
    sys.path.insert(0, str(REPO))
    try:
        from tests.contract.matrix import MATRIX, VERBS, VIEWS
    finally:
        sys.path.remove(str(REPO))
    lines = [
        "| endpoint | | " + " | ".join(VERBS) + " | views of `get` |",
        "|---|---|" + ":-:|" * len(VERBS) + "---|",
    ]
    for ctype, row in MATRIX.items():
        marks = " | ".join("✓" if verb in row.verbs else "" for verb in VERBS)
        views = ", ".join(view for view in VIEWS if view in row.views)
        lines.append(f"| `{ctype}` | {row.about} | {marks} | {views} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """Return a README's text with the table of today. Raises ValueError without both markers in order."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(HOW)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Run the script."""
    if arguments == ["--print"]:
        print(table())
        return 0
    path = REPO / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
        wanted = with_table(text)
    except (OSError, ValueError) as error:
        print(f"README.md: {error}", file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        if text != wanted:
            print("README.md is not in step; run: python tools/capability_table.py", file=sys.stderr)
        return int(text != wanted)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
