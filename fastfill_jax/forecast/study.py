"""The forecast of every alignment and order at every share of the backfill.

The pairs are split once. One half fits, the other judges and is never fitted
to; what to recommend is picked on the fitting half alone, by two fits to
halves of it that judge each other's pairs. The same two fits say how much a
fit depends on its pairs. What is handed out is fitted to all pairs.
"""

import dataclasses
import pathlib

import numpy as np

from fastfill_jax.forecast import bands, fitting, orders, truths

SHARES = (
  np.array([0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95, 100]) / 100
)
OLD = ('', 'old/old')
FITS = ('quarter', 'half0', 'half1', 'judged', 'final')  # of every method
_QUERIES = 2_000  # Judged by at most: their error is then about a point.
_DRAWS = 10  # Pairs of halves of the judging sample.


@dataclasses.dataclass(frozen=True)
class Split:
  """Which pairs fit and which judge.

  Attributes:
    fit: Pairs [fit].
    halves: Of `fit`, one after the other makes up the whole.
    items: Pairs that judge.
    queries: Queries that judge them.
  """

  fit: np.ndarray
  halves: list[np.ndarray]
  items: np.ndarray
  queries: np.ndarray


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What was measured, before a gallery's size is known.

  Attributes:
    curves: (alignment, order) of every curve; the first is old/old, of NaN if
      nothing is known about the old model.
    metrics: Names; the first one decides.
    shares: Of the backfill [share].
    whole: Of the judging sample [curve, metric, share].
    halves: Of halves of it [2 * draw, curve, metric, share].
    factors: From one doubling's change to the next one's, see `bands` [metric].
    refits: Of it, fitted to halves of the pairs, the same.
    quarter_fit: Of it, fitted to a quarter of them [curve, metric, share].
    picks: Of the fitting pairs, each half judging the other's fit, in its own
      metric [curve, share].
    items: Items in the judging sample.
    pairs: All pairs.
    fit_pairs: Those that `whole`'s alignments were fitted to.
  """

  curves: list[tuple[str, str]]
  metrics: tuple[str, ...]
  shares: np.ndarray
  whole: np.ndarray
  halves: np.ndarray
  factors: np.ndarray
  refits: np.ndarray
  quarter_fit: np.ndarray
  picks: np.ndarray
  items: int
  pairs: int
  fit_pairs: int

  def bands(self, gallery: int, *, over_old: bool = False) -> bands.Band:
    """The forecast for a gallery of so many items [curve, metric, share].

    Args:
      gallery: Items.
      over_old: Whether to forecast the difference to old/old instead; queries
        that are hard for both then cancel out.
    """
    estimate = bands.estimate(
      self.whole,
      self.halves,
      self.factors,
      self.refits,
      self.quarter_fit,
      doublings=np.log2(gallery / self.items),
      fit_doublings=np.log2(self.pairs / self.fit_pairs),
    )
    if over_old:
      return estimate.over(0).band()
    band = estimate.band()
    ends = (np.clip(x, 0, 1) for x in (band.value, band.low, band.high))
    return bands.Band(*ends)

  def save(self, path: pathlib.Path):
    held = dataclasses.asdict(self)
    np.savez_compressed(path, **{k: np.asarray(v) for k, v in held.items()})


def load(path: pathlib.Path) -> Forecast:
  """Reads what `Forecast.save` wrote."""
  with np.load(path) as held:
    arrays = dict(held)
  curves = [tuple(map(str, names)) for names in arrays.pop('curves')]
  metrics = tuple(map(str, arrays.pop('metrics')))
  counts = {name: int(arrays.pop(name)) for name in ('items', 'pairs')}
  counts['fit_pairs'] = int(arrays.pop('fit_pairs'))
  return Forecast(curves, metrics, **counts, **arrays)


def split(sample: truths.Sample, seed: int = 0) -> Split:
  """Splits the pairs in halves; judged items come with their queries.

  Raises:
    ValueError: If there are too few pairs to split.
  """
  rng = np.random.default_rng(seed)
  size = len(sample.old)
  if size < 40:
    raise ValueError(
      f'{size} pairs: 40 are needed to fit and judge anything, 2,000 to say '
      'much.'
    )
  first = np.full(size, len(sample.query_new))
  turn = rng.permutation(len(sample.query_new))
  if sample.relevant is not None:
    np.minimum.at(first, sample.relevant[1], turn[sample.relevant[0]])
  order = np.lexsort((rng.random(size), first))
  items, fit = np.sort(order[: size // 2]), rng.permutation(order[size // 2 :])
  judging = np.zeros(size + 1, bool)
  judging[items] = judging[-1] = True
  kept = judging[sample.query_item]
  if sample.relevant is not None:
    query, item = sample.relevant
    kept[query[~judging[item]]] = False
    kept &= np.isin(np.arange(len(kept)), query)
  queries = rng.permutation(np.flatnonzero(kept))[:_QUERIES]
  middle = len(fit) // 2
  return Split(fit, [fit[:middle], fit[middle:]], items, np.sort(queries))


def fit(
  method: str, sample: truths.Sample, parts: Split, seed: int = 0, **recipe
) -> dict[str, fitting.Fitted]:
  """Fits a method to all pairs, to the fitting ones and to parts of these."""
  rows = {
    'quarter': parts.fit[: len(parts.fit) // 4],
    'half0': parts.halves[0],
    'half1': parts.halves[1],
    'judged': parts.fit,
    'final': slice(None),
  }
  return {
    name: fitting.fit(
      method, sample.old[mine], sample.new[mine], seed=seed + i, **recipe
    )
    for i, (name, mine) in enumerate(rows.items())
  }


def run(
  sample: truths.Sample,
  parts: Split,
  fits: dict[str, dict[str, fitting.Fitted]],
  shares: np.ndarray = SHARES,
  seed: int = 0,
) -> Forecast:
  """Judges every alignment in every order.

  Args:
    sample: All pairs and queries.
    parts: Which of them fit and which judge.
    fits: {method: what `fit` returned}.
    shares: Of the backfill, from 0 to 1.
    seed: Of the halves.
  """
  judge = sample.take(parts.queries, parts.items)
  names = _names({method: held['judged'] for method, held in fits.items()})
  whole, *fewer = [
    Gallery(judge, names, {m: held[name] for m, held in fits.items()})
    for name in ('judged', 'half0', 'half1', 'quarter')
  ]
  rng = np.random.default_rng(seed)
  halves = [
    whole.measure(shares, *half)
    for _ in range(_DRAWS)
    for half in judge.halves(rng)
  ]
  return Forecast(
    curves=[OLD, *names],
    metrics=judge.metrics,
    shares=shares,
    whole=whole.measure(shares),
    halves=np.stack(halves),
    factors=judge.factors,
    refits=np.stack([gallery.measure(shares) for gallery in fewer[:2]]),
    quarter_fit=fewer[2].measure(shares),
    picks=_picks(sample, parts, names, fits, shares, rng),
    items=len(judge.old),
    pairs=len(sample.old),
    fit_pairs=len(parts.fit),
  )


def truth(
  sample: truths.Sample, fits: dict[str, fitting.Fitted]
) -> dict[tuple[str, str], np.ndarray]:
  """The first metric of a whole gallery, {curve: at `SHARES`}: no forecast."""
  names = _names(fits)
  values = Gallery(sample, names, fits).measure(SHARES)[:, 0]
  return dict(zip([OLD, *names], values, strict=True))


def _names(fits):
  """Every method in every order that it has."""
  return [
    (method, order)
    for method, fitted in fits.items()
    for order in orders.available(method, fitted.has_uncertainty)
  ]


class Gallery:
  """A sample, aligned and scored by every method."""

  def __init__(self, sample, names, fits: dict[str, fitting.Fitted]):
    self._sample, self._names, self._scores = sample, names, {}
    self._aligned = {}
    ids = np.arange(len(sample.old))
    for method, fitted in fits.items():
      aligned, log_variance = fitted.align(sample.old)
      self._aligned[method] = aligned
      for order in [order for name, order in names if name == method]:
        self._scores[method, order] = orders.score(
          order, ids, aligned, log_variance
        )

  def measure(
    self,
    shares: np.ndarray,
    queries: np.ndarray | slice = slice(None),
    items: np.ndarray | slice = slice(None),
  ) -> np.ndarray:
    """Metrics of old/old and of all curves [curve, metric, share]."""
    sample = self._sample
    if not isinstance(queries, slice):
      sample = sample.take(queries, items)
    old = truths.measure_old(sample)
    if old is None:
      old = np.full(len(sample.metrics), np.nan)
    values = [np.repeat(old[:, None], len(shares), axis=1)[None]]
    for method, aligned in self._aligned.items():
      scores = [
        self._scores[name][items] for name in self._names if name[0] == method
      ]
      order = np.argsort(-np.stack(scores), axis=1, kind='stable')
      values.append(truths.measure(sample, aligned[items], order, shares))
    return np.concatenate(values)


def _picks(sample, parts, names, fits, shares, rng):
  """The first metric of each half of the fitting pairs under the other's fit.

  Judgements never pick: the same queries' agreement with the new model does.
  """
  if sample.relevant is not None:
    sample = dataclasses.replace(sample, relevant=None, grade=None)
  values, growth = [], 0
  for half, other in (('half0', 1), ('half1', 0)):
    items = parts.halves[other]
    there = np.zeros(len(sample.old) + 1, bool)
    there[items] = there[-1] = True
    queries = rng.permutation(np.flatnonzero(there[sample.query_item]))
    judge = sample.take(np.sort(queries[:_QUERIES]), items)
    fitted = {method: held[half] for method, held in fits.items()}
    values.append(Gallery(judge, names, fitted).measure(shares)[:, 0])
    if half == 'half0':
      fewer = {method: held['quarter'] for method, held in fits.items()}
      before = Gallery(judge, names, fewer).measure(shares)[:, 0]
      growth = values[-1] - before
  # What is handed out is fitted to four times a half's pairs: two doublings,
  # which together are taken to bring what the last one has brought.
  return np.mean(values, axis=0) + growth
