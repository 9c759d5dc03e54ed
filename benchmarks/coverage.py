"""Does a 90% band hold the truth 85 to 95% of the time?

  python -m benchmarks.coverage --splits=200 --embeddings=DIR

Draws small samples from a population, forecasts a gallery that is several
times larger, and measures that gallery under the alignment that the forecast
hands out, with queries of its own. Populations are made up, or the test images
of DIR/gallery/{old,new,label}.npy.
"""

import argparse
import time

import numpy as np

from benchmarks import table
from fastfill_jax.forecast import study, truths

_SHARES = np.array([0, 0.1, 0.2, 0.5, 1.0])


class MadeUp:
  """Clustered latents that two models see, linearly and with noise."""

  def __init__(self, classes: int = 100, dim: int = 32):
    rng = np.random.default_rng(7)
    self._centres = rng.standard_normal((classes, dim))
    self._models = [
      (rng.standard_normal((dim, width)) / 5, noise)
      for width, noise in ((48, 0.4), (64, 0.2))
    ]

  def latents(self, size, rng):
    label = rng.integers(0, len(self._centres), size)
    spread = rng.standard_normal((size, self._centres.shape[1]))
    return self._centres[label] + 1.2 * spread, label

  def embed(self, latents, rng):
    """Returns old and new embeddings of unit length."""
    embedded = []
    for kernel, noise in self._models:
      rows = np.tanh(latents @ kernel)
      rows += noise * rng.standard_normal(rows.shape)
      rows /= np.linalg.norm(rows, axis=1, keepdims=True)
      embedded.append(rows.astype(np.float32))
    return embedded

  def items(self, size, queries, labelled, rng):
    """A sample whose items are the queries."""
    latents, label = self.latents(size, rng)
    return _of_items(*self.embed(latents, rng), label, queries, labelled)

  def judged(self, size, queries, noise, rng):
    """A sample of queries with two relevant items each, of grades 2 and 1."""
    wanted, _ = self.latents(queries, rng)
    near = [wanted + x * rng.standard_normal(wanted.shape) for x in noise]
    rest, _ = self.latents(size - 2 * queries, rng)
    old, new = self.embed(np.concatenate([*near, rest]), rng)
    query_old, query_new = self.embed(wanted, rng)
    number = np.arange(queries)
    return truths.Sample(
      old,
      new,
      query_new,
      query_old,
      np.full(queries, -1),
      relevant=np.stack([np.tile(number, 2), np.arange(2 * queries)]),
      grade=np.repeat([2, 1], queries),
      distance='cosine',
    )


def _of_items(old, new, label, queries, labelled):
  mine = slice(0, queries)
  return truths.Sample(
    old,
    new,
    new[mine],
    old[mine],
    np.arange(len(old))[mine],
    label if labelled else None,
    label[mine] if labelled else None,
    distance='cosine',
  )


def populations(directory: str, pairs: int, size: int, queries: int):
  """{(data, truth): a function of a generator -> (sample, gallery)}."""
  made_up = MadeUp()
  draws = {
    ('made up', truth): lambda rng, labelled=labelled: (
      made_up.items(pairs, pairs, labelled, rng),
      made_up.items(size, queries, labelled, rng),
    )
    for truth, labelled in (('labels', True), ('agreement', False))
  }
  for data, noise in (('easy', (0.8, 1.0)), ('made up', (1.3, 1.5))):
    draws[data, 'judgements'] = lambda rng, noise=noise: (
      made_up.judged(pairs, pairs // 4, noise, rng),
      made_up.judged(size, pairs // 4 * 2, noise, rng),
    )
  if directory:
    old, new, label = (
      np.load(f'{directory}/gallery/{name}.npy')
      for name in ('old', 'new', 'label')
    )
    old, new = old.astype(np.float32), new.astype(np.float32)

    def draw(rng, labelled):
      rows = rng.permutation(len(old))
      return [
        _of_items(old[some], new[some], label[some], most, labelled)
        for some, most in (
          (rows[:pairs], pairs),
          (rows[pairs : pairs + size], queries),
        )
      ]

    for truth, labelled in (('labels', True), ('agreement', False)):
      draws['CIFAR-100', truth] = lambda rng, labelled=labelled: draw(
        rng, labelled
      )
  return draws


def one(sample, gallery, methods, seed):
  """Whether each band holds what it should [kind, curve, metric, share]."""
  parts = study.split(sample, seed)
  fits = {method: study.fit(method, sample, parts, seed) for method in methods}
  forecast = study.run(sample, parts, fits, _SHARES, seed)
  finals = {method: held['final'] for method, held in fits.items()}
  truth = study.Gallery(gallery, forecast.curves[1:], finals).measure(_SHARES)
  held, error = [], []
  for over_old in (False, True):
    band = forecast.bands(len(gallery.old), over_old=over_old)
    if over_old:
      truth = truth - truth[:1]
    # Agreement of everything is 1, give or take its rounding.
    slack = 1e-6
    held.append((band.low - slack <= truth) & (truth <= band.high + slack))
    error.append(band.value - truth)
  return np.stack(held), np.stack(error), band.high - band.low, forecast


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--splits', type=int, default=200)
  parser.add_argument('--embeddings', default='', help='a folder; see above')
  parser.add_argument('--pairs', type=int, default=1000)
  parser.add_argument('--gallery', type=int, default=5000)
  parser.add_argument('--queries', type=int, default=2000)
  parser.add_argument('--methods', default='procrustes,ridge')
  parser.add_argument('--only', default='', help='a truth')
  parser.add_argument('--out', default='runs/coverage.csv')
  args = parser.parse_args()
  rows = []
  for (data, truth), draw in populations(
    args.embeddings, args.pairs, args.gallery, args.queries
  ).items():
    if args.only not in ('', truth):
      continue
    start, results = time.time(), []
    for seed in range(args.splits):
      sample, gallery = draw(np.random.default_rng(seed))
      results.append(one(sample, gallery, args.methods.split(','), seed))
    held = np.mean([result[0] for result in results], axis=0)
    error = np.mean([result[1] for result in results], axis=0)
    width = np.mean([result[2] for result in results], axis=0)
    for i, metric in enumerate(results[0][3].metrics):
      row = {'data': data, 'truth': truth, 'metric': metric}
      row['old/old'] = held[0, 0, i].mean()
      for j, share in enumerate(_SHARES):
        row[f'{share:.0%}'] = held[0, 1:, i, j].mean()
      row['over old/old'] = held[1, 1:, i].mean()
      row['bias'] = error[0, :, i].mean()
      row['width'] = width[1:, i].mean()
      rows.append(row | {'splits': args.splits})
      print(
        {k: v if isinstance(v, str) else round(v, 3) for k, v in row.items()}
      )
    print(f'{time.time() - start:.0f} s', flush=True)
  table.write(args.out, rows)


if __name__ == '__main__':
  main()
