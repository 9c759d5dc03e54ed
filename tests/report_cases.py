"""Made-up results for the tests of the report."""

import numpy as np

from fastfill_jax import report
from fastfill_jax.report import result

READS = {
  'random': ('key', 'aligned'),
  'sigma': ('log_variance',),
  'class_mean': ('aligned', 'labels'),
  'distance': ('aligned', 'new'),
}


WRITTEN = {
  'title': '',
  'settings': {},
  'versions': {},
  'published': {},
  'training': {},
  'main': 'fastfill',
  'stale': {},
  'sequence': (),
}


def scores(value):
  """One value for every metric."""
  return dict.fromkeys(result.METRICS, value)


def make(curves, /, seed=0, alignment='fastfill', **changes):
  """A result with given mAP curves; CMC is the same, errors 0.01."""
  values = np.array(list(curves.values()), np.float64)
  fields = {
    'area_standard_error': scores(np.full(len(values), 0.01)),
    'seed': seed,
    'alignment': alignment,
    'fractions': np.linspace(0, 1, values.shape[1]),
    'policies': tuple(curves),
    'reads': {policy: READS[policy] for policy in curves},
    'curves': scores(values),
    'standard_error': scores(np.full_like(values, 0.01)),
    'references': {'old/old': scores(0.1), 'new/new': scores(values[0, -1])},
    'negative_flips': np.zeros_like(values),
    'uncertainty': np.array([0.1, 0.4, 0.2]),
    'error': np.array([1.0, 3.0, 2.0]),
  }
  return report.Result(**fields | changes)


def many(seeds=2, alignments=('fct', 'fastfill')):
  """Results with everything in them."""
  results = []
  for seed in range(seeds):
    rng = np.random.default_rng(seed)
    end = 0.8 + 0.1 * rng.random()
    references = {
      'old/old': scores(0.3),
      'new/old': scores(0.05),
      'new/new': scores(end),
    }
    for alignment in alignments:
      curves = {}
      predicts = alignment == 'fastfill'
      for policy in READS:
        if policy == 'sigma' and not predicts:
          continue
        curve = np.sort(rng.uniform(0.4, end, 22))
        curve[-1] = end
        curves[policy] = curve
      rare = {m: np.stack([*curves.values()]) - 0.1 for m in result.METRICS}
      often = {m: np.stack([*curves.values()]) + 0.1 for m in result.METRICS}
      results.append(
        make(
          curves,
          seed,
          alignment,
          references=references,
          uncertainty=rng.normal(size=50) if predicts else None,
          error=rng.gamma(2, size=50),
          groups={'often': often, 'rare/cut': rare},
          group_references={
            'often': references,
            'rare/cut': references | {'old/old': scores(0.1)},
          },
        )
      )
  return results
