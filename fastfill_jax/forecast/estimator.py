"""The forecast from Python, in scikit-learn's manner."""

from typing import Any

import numpy as np
import pandas as pd

from fastfill_jax.forecast import (
  commands,
  decision,
  fitting,
  holdings,
  orders,
  page,
  study,
  truths,
)


class Upgrade:
  """Fits alignments to pairs, forecasts the backfill, and puts it in order.

    upgrade = Upgrade().fit(old, new, label=None)
    aligned = upgrade.transform(gallery)
    uncertainty = upgrade.uncertainty(gallery)
    first = upgrade.order(gallery)
    print(upgrade.decide(len(gallery), share=0.2).says)

  Attributes after `fit`:
    forecast_: A `study.Forecast`.
    alignment_: The picked alignment's name.
    order_: The picked order's name.
    fitted_: The alignment, fitted to all pairs.
  """

  def __init__(
    self,
    methods: tuple[str, ...] = (),
    distance: str = 'auto',
    seed: int = 0,
    **recipe: Any,
  ):
    self.methods, self.distance, self.seed = methods, distance, seed
    self.recipe = recipe

  def fit(
    self,
    old: np.ndarray,
    new: np.ndarray,
    label: np.ndarray | None = None,
  ) -> 'Upgrade':
    """Fits to pairs, forecasts with half of them, and picks.

    Args:
      old: [pair, old embedding].
      new: [pair, new embedding].
      label: What relevant items share, [pair]; without it, agreement with the
        new model is forecast.
    """
    if len(old) != len(new):
      raise ValueError(f'{len(old)} old and {len(new)} new embeddings.')
    vectors = [
      holdings.Vectors(name, np.asarray(rows, np.float32))
      for name, rows in (('old', old), ('new', new))
    ]
    for held in vectors:
      holdings.check_finite(held)
    old, new = (held.rows for held in vectors)
    distance = self.distance
    if distance == 'auto':
      distance = holdings.guess_distance(old, new)
    sample = truths.Sample(
      old, new, new, old, np.arange(len(old)), label, label, distance=distance
    )
    methods = self.methods or commands.default_methods(
      old.shape[1], new.shape[1]
    )
    parts = study.split(sample, self.seed)
    fits = {
      method: study.fit(method, sample, parts, self.seed, **self.recipe)
      for method in methods
    }
    self.forecast_ = study.run(sample, parts, fits, seed=self.seed)
    self._finals = {method: held['final'] for method, held in fits.items()}
    return self._take(decision.pick(self.forecast_))

  def _take(self, curve):
    self.alignment_, self.order_ = self.forecast_.curves[curve]
    self.fitted_: fitting.Fitted = self._finals[self.alignment_]
    return self

  def transform(self, old: np.ndarray) -> np.ndarray:
    """Aligned float32 [row, new embedding]."""
    return self.fitted_.align(old)[0]

  def uncertainty(self, old: np.ndarray) -> np.ndarray:
    """What the picked order sorts by, the highest first, float32 [row]."""
    aligned, log_variance = self.fitted_.align(old)
    ids = np.arange(len(old))
    return orders.score(self.order_, ids, aligned, log_variance)

  def order(self, old: np.ndarray) -> np.ndarray:
    """Rows, first to be backfilled first, int [row]."""
    return np.argsort(-self.uncertainty(old), kind='stable')

  def decide(
    self, gallery: int, share: float | None = None
  ) -> decision.Decision:
    """The decision for a gallery of so many items and an affordable share.

    It may pick another alignment than the backfill's average did, which the
    other methods then use.
    """
    self._take(decision.pick(self.forecast_, share))
    return decision.decide(self.forecast_, gallery, share)

  def table(self, gallery: int) -> pd.DataFrame:
    """Every alignment, order, share and metric with its band."""
    return page.table(self.forecast_, gallery)
