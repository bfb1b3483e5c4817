"""Memory that a micro-batch frees stays with the process, for the next one. Touches the C library's allocator.

Each batch takes and frees some hundred megabytes. glibc gives large pieces back to the system at once, and to have their pages again costs
a sixth of the joiner's CPU (more on virtual machines). The process then stays as large as its largest batch made it.
"""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BYTES = 2**30


def keep_freed_memory() -> bool:
    """From now on pieces up to 1 GiB come from a heap that doesn't shrink; False = the C library is another one, and nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)) & bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_BYTES))
