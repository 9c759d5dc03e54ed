"""Backfilling curves: the exact sweep over policies and cut-offs.

At a cut-off of c items, the first c of an order are new and the others
aligned (FastFill, arXiv 2303.04766, section 3). A curve is a metric against
the cut-offs, its area, the plain mean of its points, the policy's score.
"""

from typing import Any

import numpy as np

from fastfill_jax import choices, parallel
from fastfill_jax.curve import inputs, totals

BACKENDS = ('auto', 'numba', 'jax')
DISTANCES = inputs.DISTANCES
METRICS = totals.METRICS


def cutoffs(size: int, steps: int = 20) -> np.ndarray:
  """The numbers of backfilled items at which a curve is measured.

  Args:
    size: Number of gallery items.
    steps: Intermediate steps between nothing and everything.

  Returns:
    floor(i * size / (steps + 1)) for i = 0 .. steps + 1, int64 [steps + 2].
  """
  return np.arange(steps + 2) * size // (steps + 1)


def sweep(
  query: Any,
  aligned: Any,
  new: Any,
  query_labels: np.ndarray,
  gallery_labels: np.ndarray,
  orders: np.ndarray,
  cutoffs: np.ndarray,
  *,
  distance: str = 'l2',
  query_ids: np.ndarray | None = None,
  gallery_ids: np.ndarray | None = None,
  backend: str = 'auto',
  per_query: bool = False,
  memory_limit: int = 2**30,
  all_processes: bool = False,
) -> dict[str, Any]:
  """Exact metrics of every order at every cut-off, in one pass.

  An item is relevant if it has the query's label. Average precision is
  tie-aware as in `metrics.average_precision`, CMC as in `metrics.cmc`; the
  scores are float32, and `inputs.Problem` says when they are equal. Queries
  without a relevant item are left out of every mean.

  Args:
    query: New embeddings of the queries [query, embedding].
    aligned: Aligned embeddings of the gallery [gallery, embedding].
    new: New embeddings of the gallery [gallery, embedding]. These three may
      be array-likes on disk with `shape`, `dtype`, `len`, slices and integer
      arrays of rows (np.memmap, arrays.ShardedArray): they are read in
      slices. Anything but float32 is rounded to it.
    query_labels: Integers or strings [query].
    gallery_labels: Integers or strings [gallery].
    orders: Permutations, first to be backfilled first, int [policy, gallery].
    cutoffs: Numbers of backfilled items, 0 .. gallery, int [cutoff].
    distance: 'l2' or 'cosine'.
    query_ids: Integers or strings [query].
    gallery_ids: Integers or strings [gallery]. Gallery items with the query's
      id are left out; without ids none are.
    backend: 'numba' (compiled for CPUs), 'jax' (any device) or 'auto', which
      takes numba where JAX would run on a CPU.
    per_query: Whether to return the metrics of every query.
    memory_limit: Bytes for scores and tables: of each accelerator, or of all
      threads or CPU devices together. Indices (about 100 bytes an item), the
      arguments and the results come on top.
    all_processes: Whether every process makes this same call, counts its
      share of the queries and returns the same whole; per-query results are
      NaN for the others' shares.

  Returns:
    For m of 'mAP', 'cmc@1', 'cmc@5':
      m: mean over queries, float64 [policy, cutoff].
      'standard_error'[m]: of that mean, float64 [policy, cutoff].
      'area_standard_error'[m]: of its plain mean over the cut-offs, float64
        [policy]; the cut-offs of one query vary together.
      'per_query'[m]: if asked, float32 [policy, cutoff, query], NaN for
        queries without a relevant item.
    'num_queries': how many queries count.

  Raises:
    ValueError: If an argument does not fit, before anything is computed.
  """
  choices.check('backend', backend, BACKENDS)
  distinct, inverse = np.unique(cutoffs, return_inverse=True)
  problem = inputs.prepare(
    query,
    aligned,
    new,
    (query_labels, gallery_labels),
    orders,
    distinct,
    distance=distance,
    ids=(query_ids, gallery_ids),
  )
  shape = len(problem.buckets), len(inverse)
  sums = totals.Totals(shape, inverse, len(query) if per_query else 0)
  if backend == 'auto':
    backend = 'numba' if parallel.is_cpu() else 'jax'
  if backend == 'numba':
    from fastfill_jax.curve import numba_sweep as counter
  else:
    from fastfill_jax.curve import jax_sweep as counter
  process, processes = 0, 1
  if all_processes:
    process, processes = parallel.process_index(), parallel.process_count()
  counter.run(problem, process, processes, memory_limit, sums.add)
  if all_processes:
    sums.gather()
  return sums.result()
