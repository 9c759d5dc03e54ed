"""Would more pairs change the answer?

Alignments fitted to an eighth, a quarter, a half and all of the fitting pairs,
judged on the same sample. What a doubling still changes, beside the width of
the forecast's band, says whether to embed another batch.
"""

import dataclasses

import numpy as np
import pandas as pd

from fastfill_jax.forecast import fitting, study, truths

_PARTS = (8, 4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Learning:
  """The first metric by the number of fitting pairs.

  Attributes:
    pairs: [size].
    values: [size, curve, share]; the curves of the forecast.
  """

  pairs: np.ndarray
  values: np.ndarray


def measure(
  sample: truths.Sample,
  parts: study.Split,
  fits: dict[str, dict[str, fitting.Fitted]],
  forecast: study.Forecast,
  seed: int = 0,
  **recipe,
) -> Learning:
  """Fits to ever more of the fitting pairs; what was fitted is used again."""
  judge = sample.take(parts.queries, parts.items)
  names, pairs, values = forecast.curves[1:], [], []
  for part in _PARTS:
    rows = parts.fit[: len(parts.fit) // part]
    name = {1: 'judged', 2: 'half0', 4: 'quarter'}.get(part)
    fitted = {
      method: held[name]
      if name
      else fitting.fit(
        method, sample.old[rows], sample.new[rows], seed=seed, **recipe
      )
      for method, held in fits.items()
    }
    gallery = study.Gallery(judge, names, fitted)
    pairs.append(len(rows))
    values.append(gallery.measure(forecast.shares)[:, 0])
  return Learning(np.array(pairs), np.stack(values))


def says(
  learning: Learning, forecast: study.Forecast, curve: int, gallery: int
) -> str:
  """The answer for a curve, in a sentence or two."""
  band = forecast.bands(gallery)
  width = float(band.high[curve, 0, 0] - band.low[curve, 0, 0]) / 2
  # What is left to learn falls like 1 / pairs.
  before, now = learning.values[-2, curve, 0], learning.values[-1, curve, 0]
  doubling = (now - before) / 2 * forecast.fit_pairs / forecast.pairs
  best = [1 + int(np.argmax(x[1:].mean(axis=1))) for x in learning.values]
  steady = best[-1] == best[-2]
  answer = 'no' if abs(doubling) < width / 2 and steady else 'yes'
  kept = 'stay the same' if steady else 'changed with the last doubling'
  return (
    f'Would twice the pairs change the answer? {answer}: nothing backfilled, '
    f'they are expected to add {100 * doubling:.1f} points, beside a band of '
    f'{100 * width:.1f} to either side, which they would narrow to '
    f'{100 * width / 2**0.5:.1f}; the best alignment and order {kept}.'
  )


def table(learning: Learning, forecast: study.Forecast) -> pd.DataFrame:
  """A row for each alignment, order, number of pairs and share."""
  rows = [
    (*forecast.curves[curve], pairs, share, learning.values[i, curve, j])
    for i, pairs in enumerate(learning.pairs)
    for curve in range(1, len(forecast.curves))
    for j, share in enumerate(forecast.shares)
  ]
  columns = 'alignment', 'order', 'pairs', 'share', forecast.metrics[0]
  return pd.DataFrame(rows, columns=columns)
