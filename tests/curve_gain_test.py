import numpy as np
import pytest
from sklearn import metrics

from fastfill_jax.curve import gain


def _precision(scores, relevant):
  return metrics.average_precision_score(relevant, scores)


def test_one_query_by_scoring_every_item_in_both_states():
  generator = np.random.default_rng(0)
  for _ in range(20):
    aligned, new = generator.normal(size=(2, 30))
    relevant = generator.random(30) < 0.3
    relevant[3] = True
    backfilled = generator.random(30) < 0.5
    expected = []
    for item in range(30):
      scores = np.where(backfilled, new, aligned)
      both = []
      for state in (new, aligned):
        scores[item] = state[item]
        both.append(_precision(scores, relevant))
      expected.append(both[0] - both[1])
    got = gain.of_query(aligned, new, relevant, backfilled)
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize('distance', ['l2', 'cosine'])
def test_an_item_that_was_far_off_gains_and_one_that_was_right_loses(distance):
  generator = np.random.default_rng(1)
  labels = np.repeat(np.arange(5), 40)
  means = 3 * generator.normal(size=(5, 8))
  new = means[labels] + generator.normal(size=(200, 8))
  aligned = new + 0.1 * generator.normal(size=new.shape)
  aligned[7] = means[labels[7] - 1]  # In the wrong class
  new[50] = means[labels[50] - 1]  # Better left alone
  ids = np.arange(200)
  gains = gain.marginal(
    *(new, aligned, new, labels, labels, ids, ids), distance=distance, seed=0
  )
  assert np.argmax(gains) == 7
  assert np.argmin(gains) == 50
  assert gains[50] < 0
