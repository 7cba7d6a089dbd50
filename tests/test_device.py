"""What would fail on a GPU alone fails here: tensors of the CPU among those of a device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unlabel.objectives import CATALOGUE

pytestmark = [pytest.mark.slow, pytest.mark.data]


def test_every_method_keeps_to_the_device_of_its_batch(data_folder, tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(Path.cwd())])
    command = [sys.executable, str(here / "far_cells.py"), str(data_folder), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == {}
    assert found["methods"] == len(CATALOGUE) - 2  # CLIP and SigLIP take pairs of sides
