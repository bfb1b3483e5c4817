"""Suite-wide strictness: strict dtype and rank promotion in JAX. And a bound on what compiled programs cost."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

import bandits  # noqa: F401 (its settings of JAX come before the first computation)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling is most of the suite's time, and half of it is of programs seen before: under another policy's name, or in an earlier run. A
# folder for each process, because JAX writes its entries in place. `bandits.programs.compilations` counts what comes from it as well.
_COMPILED = Path(__file__).parent.parent / "var" / "compiled" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
jax.config.update("jax_compilation_cache_dir", str(_COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# XLA's older generator of loops compiles in a quarter less time; its programs are slower, and right. Servers that tests start inherit it.
# `make test-slow` and the demo take the one that is shipped, and so does `XLA_FLAGS= make test`.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# The same examples in every run, and no clock: a busy machine fails nothing.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

# Every compiled program maps memory of its own, and Linux gives a process 65,530 mappings (vm.max_map_count): beyond them the compiler
# crashes. A suite compiles some ten thousand programs; a server or a learner has a few dozen.
_MAPPINGS = Path("/proc/self/maps")
_MOST_MAPPINGS = 5_000
# Traced programs are many small objects that live long: looking through all of them at every turn took a third of the suite's time.
gc.set_threshold(200_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def few_mappings() -> Iterator[None]:
    """Lets the programs of earlier modules go once they hold many mappings."""
    yield
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()
