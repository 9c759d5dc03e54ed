"""Two sets of embeddings that are there already: no encoder is trained or run.

  python -m fastfill_jax.main --config=configs/embeddings.py \
    --config.embed.source=DIR

DIR holds train/{old,new}.npy, gallery/{old,new,label}.npy and what else
fastfill_jax/stages/external.py names; with backfill/old.npy the stored gallery
is aligned and put in order. `:classifier` adds FastFill's loss, for those who
have the new model's classifier as DIR/classifier.npy; `:rivals` sets other
methods beside it, and `:rivals_of_pairs` those that read neither classifier
nor labels.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config, or with 'classifier' one that uses the new classifier."""
  c = base.get_config()
  c.name = 'embeddings'
  c.embed.source = 'embeddings'
  # One learnt on training items, and the head-room of them all.
  c.evaluate.policies += ('learnt_gain', 'gain')
  # The identity needs embeddings of one width, the others the classifier.
  kept = ('procrustes', 'ridge', 'l2 (FCT)', 'l2+u')
  for name in set(c.alignments) - set(kept):
    del c.alignments[name]
  c.main_alignment = 'l2+u'
  return base.finish(
    c,
    form,
    _debug,
    classifier=_add_classifier,
    rivals=_rivals,
    rivals_of_pairs=_rivals_of_pairs,
  )


def _debug(c):
  c.embed.source = ''
  return base.shrink(c)


def _add_classifier(c):
  c.alignments[base.FASTFILL] = base.row('fastfill')
  c.alignments['mixfill (ours)'] = base.row('mixfill')
  c.main_alignment = base.FASTFILL
  return c


def _rivals(c):
  c.name = 'embeddings_rivals'
  return base.add_rivals(_add_classifier(c))


def _rivals_of_pairs(c):
  c.name = 'embeddings_rivals'
  return base.add_rivals(c, labels=False)
