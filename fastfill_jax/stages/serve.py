"""Stage 'serve': what a live ScaNN index returns while it is backfilled.

The exact curves rank the whole gallery; an index that serves returns k items,
approximately. Here it is built once on the aligned gallery and upserted in a
policy's order, with its recall beside every figure.
"""

import pathlib

import numpy as np
import pandas as pd

from fastfill_jax import curve, index, parallel
from fastfill_jax.storage import arrays, artifact, splits


def check(policies: tuple[str, ...], kind: str, k: int, distance: str):
  """Raises a ValueError if the index is unknown or k is out of range."""
  if policies and k < 5:
    raise ValueError(f'serve.k={k}; at least 5, for cmc@5.')
  index.make_index(kind, distance)


def serve(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  evaluated: artifact.Artifact,
  embedded: dict[str, artifact.Artifact],
  new: str,
  policies: list[str],
  kind: str,
  k: int,
  steps: int,
  distance: str,
  seed: int,
):
  """Writes served.csv: policy, fraction, mAP@k, cmc@1, cmc@5, recall@k, ....

  Of the row `evaluated`, in its orders by `policies`: those that it does not
  have are left out. The index, see `index.make_index`, returns k neighbours.
  """
  del how
  if not parallel.is_main():
    return
  query, items = splits.evaluated(embedded)
  backfilled, asked = (
    arrays.ShardedArray(evaluated.directory / name)
    if (evaluated.directory / name).exists()
    else split[new]
    for name, split in (('backfilled', items), ('query', query))
  )
  ids = items.column('id')
  cutoffs, by_id = curve.cutoffs(len(items), steps), np.argsort(ids)
  frames = [pd.DataFrame(columns=['seed', 'policy', 'fraction'])]
  with np.load(evaluated.directory / 'orders.npz') as orders:
    for policy in [x for x in policies if x in orders]:
      curves = index.served_curve(
        index.make_index(kind, distance),
        asked,
        arrays.ShardedArray(evaluated.directory / 'aligned'),
        backfilled,
        query.column('label'),
        items.column('label'),
        by_id[np.searchsorted(ids[by_id], orders[policy])],
        cutoffs,
        k=k,
        query_ids=query.column('id'),
        gallery_ids=ids,
      )
      fixed = {'seed': seed, 'policy': policy, 'fraction': cutoffs / len(items)}
      frames.append(pd.DataFrame(fixed | curves))
  text = pd.concat(frames[1:] or frames).to_csv(index=False)
  artifact.write_text(directory / 'served.csv', text)
