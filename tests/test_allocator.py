import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from unlabel.allocator import keep_freed_memory
    assert keep_freed_memory()
for _ in range(50):
    torch.ones(12 << 20)  # 48 MB, touched: above what glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone")
def test_pages_of_freed_arrays_are_used_again_and_not_asked_for_anew():
    def faults(how: str) -> int:
        run = [sys.executable, "-c", STEPS, how]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    kept, plain = faults("keep"), faults("plain")
    # 48 MB are 12,288 pages of 4 KB, 50 times over without it.
    assert plain - kept > 10 * (3 << 24) // resource.getpagesize()
