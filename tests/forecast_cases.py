"""Made-up pairs for the forecast's tests."""

import numpy as np

from fastfill_jax.forecast import truths


def pairs(size=240, seed=0, dims=(6, 8), classes=12):
  """Old and new embeddings of unit length, and labels."""
  rng = np.random.default_rng(seed)
  centres = rng.standard_normal((classes, 5))
  label = rng.integers(0, classes, size)
  latent = centres[label] + 0.5 * rng.standard_normal((size, 5))
  embedded = []
  for dim in dims:
    rows = latent @ rng.standard_normal((5, dim))
    rows += 0.3 * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedded.append(rows.astype(np.float32))
  return *embedded, label


def sample(size=240, *, labelled=True, **arguments):
  """A sample whose items are its queries."""
  old, new, label = pairs(size, **arguments)
  label = label if labelled else None
  return truths.Sample(
    old, new, new, old, np.arange(size), label, label, distance='cosine'
  )


def judged(size=240, queries=60, seed=0):
  """Queries with two relevant items each, of grades 2 and 1."""
  old, new, _ = pairs(size, seed)
  rng = np.random.default_rng(seed + 1)
  near = np.arange(queries)
  return truths.Sample(
    old,
    new,
    new[near] + 0.1 * rng.standard_normal((queries, new.shape[1])),
    old[near] + 0.1 * rng.standard_normal((queries, old.shape[1])),
    np.full(queries, -1),
    relevant=np.stack([np.tile(near, 2), np.r_[near, near + queries]]),
    grade=np.repeat([2, 1], queries),
  )
