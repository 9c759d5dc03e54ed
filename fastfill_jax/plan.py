"""Stage 'plan': what to backfill first in a gallery that has no new embeddings.

The main alignment maps the stored gallery into the new space, which can be
searched from then on, and every policy that reads neither labels nor new
embeddings orders it. What a share of the work buys is measured on the gallery
of the stage 'evaluate'.
"""

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import align, artifact, evaluate, gallery, parallel


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  embedded: artifact.Artifact,
  fitted: artifact.Artifact,
  seed: int,
) -> artifact.Artifact:
  """Plans the split 'backfill', unless that was done.

  The artifact holds `aligned` and perhaps `log_variance`, sharded arrays, and
  for every policy `POLICY.npy`: ids, first to be backfilled first.
  """
  return artifact.make(
    workdir,
    f'plan/seed{seed}',
    {
      'policies': config.evaluate.policies,
      'inputs': {'embeddings': embedded.digest, 'alignment': fitted.digest},
      'seed': seed,
    },
    functools.partial(_plan, config, embedded, fitted, seed),
  )


def _plan(config, embedded, fitted, seed, directory):
  items = gallery.Split(embedded.directory / 'backfill')
  apply = align.load(config, config.main_alignment, fitted)
  aligned, log_variance = gallery.write_aligned(apply, items, directory)
  if not parallel.is_main():
    return
  orders = evaluate.make_orders(config, embedded, aligned, log_variance, seed)
  for policy, order in orders.items():
    np.save(directory / f'{policy}.npy', items.id[order])
