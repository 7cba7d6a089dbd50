"""Let the C library keep the memory that tensors give back, where training runs on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_KEEP, _AT_ONCE = 2**31 - 1, 1 << 26  # bytes


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed memory for the next tensor; False where that is none.

    By default every large tensor is mapped from the system and given back when it is freed, and
    each step pays for the zeroing of the same pages again: a tenth to a fifth of the CPU time of a
    convolution network's step (RESULTS.md). It holds for the whole process, which does not shrink
    afterwards, so it is the command line that asks for it, never the library.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another C library
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEEP), (_TOP_PAD, _AT_ONCE))
    return all(mallopt(*one) == 1 for one in wanted)


__all__ = ["keep_freed_memory"]
