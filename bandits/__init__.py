"""Policies as pure JAX functions, the slate sampler that draws from what it logs, learning, snapshots and their store.

Settings are made when this room is imported, once for serving, learning, evaluation and replay:

- 64 bits. Propensities are logged as integers out of 2^31 and recomputed within 1e-6 anywhere, which float32 scores cannot promise
  once a posterior is narrow. Arrays that callers make as float32 stay float32.
- For the CPU, unless XLA_FLAGS is set: no pool for matrix products (a decision is too small to share: 43 us against 70 with one), and
  vectors as wide as the processor has (a third off a slate where it has AVX-512).
- XLA is told of one core, unless PJRT_NPROC is set: it would cut the loops of a batch into one part a core, and wait for its threads at
  every loop (8 decisions 257 us on two cores that are both idle, 136 in one thread; 64: 673 and 506). The flag above does not keep it
  from that.
- Programs run in the thread that calls them: handing one over and waiting for it costs 60 us, the decision itself 90 (on two idle
  cores). Callers that want several at once use threads; the interpreter's lock is released while a program runs.
- Likewise one thread for the BLAS that JAX borrows from scipy, unless OPENBLAS_NUM_THREADS is set: its triangular solves are small and
  many, and its idle threads spin (on two busy cores, eleven 65 x 65 factors took 48 ms of CPU with two threads, 0.3 ms with one). It
  is read when scipy is first imported; import this room before scikit-learn or scipy.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=512")
os.environ.setdefault("PJRT_NPROC", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_enable_async_dispatch", False)
