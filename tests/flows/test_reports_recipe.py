"""The recipe that joins reports and images runs as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pydicom import dcmread

from diana.apis import DcmDir
from tests.fakes.make import instance
from tests.fakes.montage_server import MontageServer
from tests.helpers import REPO

RECIPE = re.compile(r"^```(?P<language>bash|python) recipe\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def test_reports_and_images_meet_under_the_same_pseudonyms(tmp_path: Path) -> None:
    pacs = DcmDir(path=str(tmp_path / "pacs"), durable=False)
    with MontageServer() as server:
        for number in (1, 2, 3):
            tags = {"AccessionNumber": f"A{number}", "PatientID": f"PATNO77{number}", "BurnedInAnnotation": "NO"}
            made = instance(1, study=f"1.2.{number}", Modality="CR", size=8, **tags)
            pacs.put(made)
            text = f"Patient PATNO77{number} has a nodule." if number < 3 else "FINDINGS: none."
            server.add(made, text)
        (tmp_path / "services.yml").write_text(
            f"reports: {{ctype: Montage, host: 127.0.0.1, port: {server.port}}}\n"
            f"pacs: {{ctype: DcmDir, path: {tmp_path / 'pacs'}}}\n"
            f"research: {{ctype: DcmDir, path: {tmp_path / 'research'}}}\n"
        )
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "diana-cli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diana_cli "$@"\n')
        (programs / "diana-cli").chmod(0o755)
        environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DIANA_")},
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(REPO),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        for match in RECIPE.finditer((REPO / "docs" / "how-to" / "reports.md").read_text()):
            program = ["bash", "-euo", "pipefail", "-c"] if match["language"] == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*program, match["body"]], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr[-2000:]
    images = {
        str(one.StudyInstanceUID): str(one.PatientID) for one in map(dcmread, (tmp_path / "research").rglob("*.dcm"))
    }
    texts = {path.stem: path.read_text() for path in (tmp_path / "texts").iterdir()}
    assert len(images) == 2
    assert texts.keys() == images.keys()
    for text in texts.values():
        assert "has a nodule" in text
        assert "PATNO77" not in text
