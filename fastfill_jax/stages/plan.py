"""Stage 'plan': what to backfill first in a gallery that has no new embeddings.

A row's method maps the stored gallery into the new space, which can be searched
from then on, and every policy that reads neither labels nor new embeddings
orders it. What a share of the work buys is measured on the gallery of the stage
'evaluate'.
"""

import pathlib
from typing import Any

import numpy as np

from fastfill_jax import parallel, policies
from fastfill_jax.stages import align, gallery, learnt
from fastfill_jax.storage import artifact, splits


def plan(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  definition: dict[str, Any],
  fitted: artifact.Artifact,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  fuse: float,
  names: list[str],
  distance: str,
  seed: int,
):
  """Plans the split 'backfill'.

  The directory gets `aligned` and perhaps `log_variance`, sharded arrays, and
  for every policy `POLICY.npy`: ids, first to be backfilled first.
  """
  del how
  items = splits.Split(embedded, 'backfill')
  maps = align.load(definition, fitted)
  aligned, log_variance = gallery.write_aligned(maps, items, old, directory)
  available = learnt.readable(
    *(names, maps, embedded, old, new, aligned, log_variance),
    fuse=fuse,
    distance=distance,
    seed=seed,
  )
  if not parallel.is_main():
    return
  ids = items.column('id')
  for policy, order in policies.make_orders(names, available)[0].items():
    np.save(directory / f'{policy}.npy', ids[order])
