"""Run the program as ``python -m diana_cli``."""

from __future__ import annotations

from diana_cli.cli import main

main()
