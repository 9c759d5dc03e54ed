"""A small upgrade: old, aligned and new embeddings of any id, and a plan.

All are functions of the id (and of how often its content changed), so that
any process can make them and check them.
"""

import json
import pathlib

import numpy as np

from fastfill_jax.stores import shards

OLD_DIM, NEW_DIM = 8, 6
ALIGNED, NEW = 'aligned:a1', 'new:n1'
_HIDDEN = 10
_rng = np.random.default_rng(7)
_TO_OLD = _rng.standard_normal((_HIDDEN, OLD_DIM))
_TO_NEW = _rng.standard_normal((_HIDDEN, NEW_DIM))
# What an alignment would have learnt.
_ALIGN = np.linalg.pinv(_TO_OLD) @ _TO_NEW


def _hidden(ids, change):
  rows = [
    np.random.default_rng([abs(hash_of(i)), change]).standard_normal(_HIDDEN)
    for i in np.asarray(ids).tolist()
  ]
  return np.array(rows).reshape(-1, _HIDDEN)


def hash_of(i) -> int:
  """A number of an id, the same in every process."""
  if isinstance(i, int):
    return i
  return int.from_bytes(str(i).encode()[:8], 'big')


def _unit(x):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def old(ids, change=0):
  return _unit(_hidden(ids, change) @ _TO_OLD)


def new(ids, change=0):
  return _unit(_hidden(ids, change) @ _TO_NEW)


def align(old_embeddings):
  """(aligned [m, new], score [m])."""
  aligned = _unit(np.asarray(old_embeddings) @ _ALIGN)
  return aligned, -np.abs(aligned).max(axis=1)


def write_plan(directory, ids, distance='cosine', forecast=True, seed=0):
  """A plan's folder for items with these ids."""
  directory = pathlib.Path(directory)
  ids = np.asarray(ids)
  aligned, _ = align(old(ids))
  order = np.random.default_rng(seed).permutation(len(ids))
  for name, array in (('id', ids), ('aligned', aligned), ('order', order)):
    shards.write(directory / name, array, shard_rows=700)
  plan = {
    'format': 1,
    'count': len(ids),
    'old_dim': OLD_DIM,
    'new_dim': NEW_DIM,
    'distance': distance,
    'policy': 'sigma',
    'alignment': ALIGNED.partition(':')[2],
    'encoder': NEW.partition(':')[2],
  }
  (directory / 'plan.json').write_text(json.dumps(plan))
  if forecast:
    (directory / 'forecast.csv').write_text(FORECAST)
  return directory


# The mixed gallery overtakes the old model at 25%.
FORECAST = """alignment,order,share,metric,value,low,high
l2+u,sigma,0,mAP,0.40,0.38,0.42
l2+u,sigma,0.5,mAP,0.60,0.58,0.62
l2+u,sigma,1,mAP,0.80,0.78,0.82
l2+u,random,0.5,mAP,0.5,0.5,0.5
l2,old/old,0,mAP,0.50,0.49,0.51
"""


def embedder(ids):
  """What --embedder names in the tests' processes."""
  return new(ids)


def aligner(old_embeddings):
  return align(old_embeddings)


def check_state(state, changes=None):
  """Every item's new embedding is what its tag says it is."""
  changes = changes or {}
  for i, (space, vector) in state.items():
    change = changes.get(i, 0)
    if space == ALIGNED:
      expected = align(old([i], change))[0][0]
    elif space == NEW:
      expected = new([i], change)[0]
    else:
      assert vector is None or space not in (None, 'stale'), (i, space)
      continue
    np.testing.assert_allclose(vector, expected, atol=1e-5, err_msg=str(i))
