"""A collection needs the same memory however long the list is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from diana.apis import DcmDir
from tests.fakes.make import instance
from tests.helpers import REPO

ALLOWED_KB = 12 * 1024
CODE = """
import re, sys
from pathlib import Path
from diana.apis import DcmDir
from diana.daemons.collector import Collector
folder, project = sys.argv[1], sys.argv[2]
counts = Collector(2).run(project, folder, DcmDir(path=folder + "/source"), "", DcmDir(path=folder + "/" + project))
assert set(counts) == {"verified"}, counts
# not ru_maxrss: that begins with what the parent has
print(sum(counts.values()), re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    source = DcmDir(path=str(tmp_path / "source"), durable=False)
    for number in range(150):
        source.put(instance(1, study=f"1.2.3.{number + 1}", AccessionNumber=f"A{number}", size=512))
    peaks = {}
    for count in (10, 150):
        listed = "".join(f"A{number}\n" for number in range(count))
        (tmp_path / f"list{count}.studies.txt").write_text(listed)
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(tmp_path), f"list{count}"],
            cwd=REPO,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        studies, peaks[count] = map(int, done.stdout.split())
        assert studies == count
    assert peaks[150] - peaks[10] < ALLOWED_KB
