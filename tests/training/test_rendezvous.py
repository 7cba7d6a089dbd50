"""torchrun starts the ranks again after one has died, and the run ends as if none had."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import sentences

from unlabel.benchmarks.fault_runs import differences, outcome
from unlabel.training import checkpoint

# Two ranks of the command, started again up to twice.
COMMAND = """-m torch.distributed.run --nproc_per_node=2 --max-restarts=2 -m unlabel train
    --objective moco --objective.queue 24 --objective.width 8 --data notes.txt --text.vocabulary 80
    --text.config {"hidden_size":16,"num_hidden_layers":1,"num_attention_heads":2}
    --training.output_dir run --training.max_steps 120 --training.save_steps 3
    --training.logging_steps 3 --training.per_device_train_batch_size 4
    --training.save_total_limit 100 --resume"""


def _run(folder: Path, *, broken: bool) -> dict[str, Any]:
    """The run's outcome; `broken` kills a rank after the first checkpoint."""
    folder.mkdir()
    (folder / "notes.txt").write_text("\n".join(sentences(60)))
    path = {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    about: dict[str, Any] = {"cwd": folder, "env": os.environ | path, "text": True}
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, *COMMAND.split()], **about, **both) as launch:
        try:
            until = time.monotonic() + 200
            while broken and not checkpoint.checkpoints(folder / "run"):
                assert launch.poll() is None, launch.communicate()[0][-2000:]
                assert time.monotonic() < until, "no checkpoint in 200 s"
                time.sleep(0.01)
            if broken:
                psutil.Process(launch.pid).children()[-1].send_signal(signal.SIGKILL)
            said = launch.communicate(timeout=200)[0]
        except BaseException:
            for process in [*psutil.Process(launch.pid).children(), launch]:
                process.kill()
            raise
    assert launch.returncode == 0, said[-2000:]
    assert ("exitcode: -9" in said) == broken
    return outcome(folder / "run")


@pytest.mark.slow
def test_a_rank_that_died_is_started_again_with_the_others(tmp_path):
    whole = _run(tmp_path / "whole", broken=False)
    assert differences(whole, _run(tmp_path / "broken", broken=True)) == []
