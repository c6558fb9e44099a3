"""Whatever fits ``/openapi.json``, and much that does not, is answered without a 500."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from diana.apis import DcmDir
from tests.contract import samples

pytest.importorskip("uvicorn")


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_schemathesis_finds_no_server_error(tmp_path: Path) -> None:
    from diana.server import HttpFace

    archive = DcmDir(str(tmp_path / "archive"))
    for item in samples.instances(1, 2, 2):
        archive.put(item)
    known = {
        "path.study": samples.uid(1), "path.series": samples.uid(1, 1), "path.instance": samples.uid(1, 1, 1),
        "query.studyUID": samples.uid(1), "query.seriesUID": samples.uid(1, 1), "query.objectUID": samples.uid(1, 1, 1),
    }  # fmt: skip
    config = tmp_path / "schemathesis.toml"
    config.write_text("[parameters]\n" + "".join(f'"{key}" = "{uid}"\n' for key, uid in known.items()))
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1"]
    with HttpFace(archive) as face:
        command = [sys.executable, "-W", "ignore", "-c", code, "--config-file", str(config), "run"]
        done = subprocess.run(
            [*command, f"{face.url}/openapi.json", *options, "--generation-database", "none", "--no-color"],
            capture_output=True, text=True, timeout=110, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "Tested: " in done.stdout
