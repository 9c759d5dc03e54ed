"""Stage 'serve': what a live ScaNN index returns while it is backfilled.

The exact curves rank the whole gallery; an index that serves returns k items,
approximately. Here it is built once on the aligned gallery and upserted in a
policy's order, with its recall beside every figure.
"""

import functools
import pathlib

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from fastfill_jax import artifact, curve, gallery, index, parallel


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  embedded: artifact.Artifact,
  evaluated: artifact.Artifact,
  seed: int,
) -> artifact.Artifact:
  """Serves the main alignment of one seed, unless that was done."""
  return artifact.make(
    workdir,
    f'serve/seed{seed}',
    {
      'serve': config.serve.to_dict(),
      'inputs': evaluated.digest,
    },
    functools.partial(_serve, config, embedded, evaluated, seed),
  )


def check(config: ConfigDict):
  """Raises a ValueError if a policy is not evaluated or k is out of range."""
  missing = set(config.serve.policies) - set(config.evaluate.policies)
  if missing:
    raise ValueError(
      f'serve.policies {sorted(missing)} are not among evaluate.policies.'
    )
  if config.serve.policies and config.serve.k < 5:
    raise ValueError(f'serve.k={config.serve.k}; at least 5, for cmc@5.')
  index.make_index(config.serve.index, config.evaluate.distance)


def load(served: artifact.Artifact) -> pd.DataFrame:
  """Rows of policy, fraction, mAP@k, cmc@1, cmc@5, recall@k, rebalanced."""
  return pd.read_csv(served.directory / 'served.csv')


def _serve(config, embedded, evaluated, seed, directory):
  if not parallel.is_main():
    return
  query, items = gallery.open_splits(embedded)
  aligned = gallery.open_aligned(evaluated.directory)
  cutoffs = curve.cutoffs(len(items), config.evaluate.steps)
  by_id = np.argsort(items.id)
  frames = []
  with np.load(evaluated.directory / 'orders.npz') as orders:
    for policy in config.serve.policies:
      rows = by_id[np.searchsorted(items.id[by_id], orders[policy])]
      curves = index.sweep(
        index.make_index(config.serve.index, config.evaluate.distance),
        query.arrays['new'],
        aligned,
        items.arrays['new'],
        query.label,
        items.label,
        rows,
        cutoffs,
        k=config.serve.k,
        query_ids=query.id,
        gallery_ids=items.id,
      )
      fixed = {
        'seed': seed,
        'policy': policy,
        'fraction': cutoffs / len(items),
      }
      frames.append(pd.DataFrame(fixed | curves))
  partial = directory / 'served.partial'
  pd.concat(frames).to_csv(partial, index=False)
  partial.replace(directory / 'served.csv')
