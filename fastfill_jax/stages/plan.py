"""Stage 'plan': what to backfill first in a gallery that has no new embeddings.

A row's method maps the stored gallery into the new space, which can be searched
from then on, and every policy that reads neither labels nor new embeddings
orders it. What a share of the work buys is measured on the gallery of the stage
'evaluate'.
"""

import pathlib
from typing import Any

import numpy as np

from fastfill_jax import parallel, policies, running
from fastfill_jax.stages import align, gallery, readable
from fastfill_jax.storage import artifact, splits


def plan(
  directory: pathlib.Path,
  how: running.How,
  *,
  definition: dict[str, Any],
  fitted: artifact.Artifact,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  names: list[str],
  seed: int,
):
  """Plans the split 'backfill'.

  Args:
    directory: Gets `aligned` and perhaps `log_variance`, sharded arrays, and
      for every policy `POLICY.npy`: ids, first to be backfilled first.
    how: How to go about it.
    definition: Of the row's method.
    fitted: The method, fitted.
    embedded: Results that hold the arrays; `embedded[new]` the classifier.
    old: The array of old embeddings: an encoder's name.
    new: The new encoder's name.
    names: Of the policies; those that read what is not there are left out.
    seed: Of the random order.
  """
  del how
  items = splits.Split(embedded, 'backfill')
  maps = align.load(definition, fitted)
  side = items.get('side')
  aligned, log_variance = gallery.write_aligned(
    maps, items[old], side, directory
  )
  if not parallel.is_main():
    return
  available = readable.readable(
    embedded, new, aligned, log_variance, seed, maps.new_dim
  )
  ids = items.column('id')
  for policy, order in policies.make_orders(names, available)[0].items():
    np.save(directory / f'{policy}.npy', ids[order])
