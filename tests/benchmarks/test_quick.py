"""The benchmark's command, as anybody runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KEYS = (
    "serving_efficiency redundancy pan_waste last_viewport_ratio warm_ratio naive_ratio identical_inferences "
    "health_p99_ms"
).split()


def test_quick_ends_with_one_line_of_json(tmp_path: Path):
    pytest.importorskip("torch")
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert set(KEYS) <= set(found)
    assert found["identical_inferences"] == 1
    # What a shared machine's speed cannot move far: less than fixed chips, and most of the work is used.
    assert 1.0 < found["redundancy"] < found["redundancy_chips"]
    assert 0 <= found["pan_waste"] < 0.5
    assert found["pan_failed"] == 0
    assert 0 < found["serving_efficiency"] < 1.5
