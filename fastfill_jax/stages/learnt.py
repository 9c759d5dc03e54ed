"""What backfilling an item would gain, learnt on training items.

Ours. Of training items all is there: labels, new embeddings, and what their old
ones are aligned to. So their exact gains (`curve.gain`) are regressed on where
each of them stands in the orders of the policies that read no more than is
known before any backfilling; the gallery's are predicted from the same orders.
"""

from typing import Any

import numpy as np
from sklearn import ensemble

from fastfill_jax import policies
from fastfill_jax.curve import gain
from fastfill_jax.methods import method
from fastfill_jax.stages import gallery
from fastfill_jax.storage import artifact, splits

_ITEMS = 4_000  # At most; their gains take the square of it in time.
_ORDERS = (
  'sigma',
  'entropy',
  'margin',
  'least_confidence',
  'class_mean_predicted',
  'prototype',
  'neighbour_entropy',
)


def readable(
  names: list[str],
  maps: method.Maps,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  aligned: Any,
  log_variance: Any,
  *,
  fuse: float,
  distance: str,
  seed: int,
) -> dict[str, Any]:
  """`gallery.readable`, and the gains that a policy of `names` reads.

  Arguments as there and of `predicted_gains`.
  """
  available = gallery.readable(
    embedded, new, aligned, log_variance, seed, maps.new_dim
  )
  if 'learnt_gain' in names:
    available['predicted_gains'] = predicted_gains(
      *(maps, embedded, old, new, available),
      fuse=fuse,
      distance=distance,
      seed=seed,
    )
  return available


def predicted_gains(
  maps: method.Maps,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  available: dict[str, Any],
  *,
  fuse: float,
  distance: str,
  seed: int,
) -> np.ndarray | None:
  """Each gallery item's gain, float64 [gallery]; all processes call it.

  None where training items have no labels, or no policy's order is there.

  Args:
    maps: Of the alignment.
    embedded: The results that hold the training pairs.
    old: Name of the old embeddings.
    new: Name of the new ones.
    available: What policies may read of the gallery (`gallery.readable`).
    fuse: Share of the aligned embedding that a backfilled item keeps.
    distance: 'l2' or 'cosine'.
    seed: Of the random states that gains are taken in.
  """
  pairs, places = splits.Pairs(embedded), _places(available)
  if 'label' not in pairs or not places.size:
    return None
  names = [x for x in (old, new, 'label', 'side') if x in pairs]
  view = pairs.arrays(names)[0]
  size = len(view[old])
  some = np.unique(np.linspace(0, size - 1, min(_ITEMS, size // 2)).astype(int))
  rows = {name: array[some] for name, array in view.items()}
  aligned, log_variance = maps.align(rows[old], rows.get('side'))
  asked = gallery.become(maps, rows[new], None, 0)
  stored = gallery.become(maps, rows[new], aligned, fuse)
  labels = rows['label'].astype(np.int64)
  gains = gain.marginal(
    *(asked, aligned, stored, labels, labels, some, some),
    distance=distance,
    seed=seed,
    all_processes=True,
  )
  # Neighbours are looked for among the other training items: no item of a
  # gallery finds itself.
  others = np.setdiff1d(np.arange(size), some)
  known = gallery.readable(
    embedded, new, aligned, log_variance, seed, maps.new_dim, others
  )
  model = ensemble.HistGradientBoostingRegressor(
    learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=50, random_state=0
  )
  model.fit(_places(known), gains)
  return model.predict(places)


def _places(available: dict[str, Any]) -> np.ndarray:
  """Where every item stands in the orders, [item, order] in [0, 1)."""
  orders, _ = policies.make_orders(_ORDERS, available)
  places = [np.argsort(order) / len(order) for order in orders.values()]
  return np.transpose(places)
