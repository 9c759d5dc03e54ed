"""Stage 'align': fits one row of the table, by the row's method.

FastFill, arXiv 2303.04766, section 4; from the arrays of the stage 'embed'.
"""

import pathlib
from typing import Any

from fastfill_jax import methods, parallel
from fastfill_jax.methods import classifiers, method
from fastfill_jax.storage import artifact, splits


def align(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  definition: dict[str, Any],
  recipe: dict[str, Any],
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  seed: int,
):
  """Fits a method to the training split's embeddings, by `config.align`.

  Raises:
    ValueError: If the method reads what is not there.
  """
  chosen = methods.make(**definition)
  pairs = splits.Pairs(embedded)
  check_reads(chosen, pairs, embedded[new])
  roles = {'old': old, 'new': new}
  roles |= {'side': 'side'} if 'side' in chosen.reads else {}
  roles |= {'label': 'label'} if 'label' in pairs else {}
  views = [
    {role: view[name] for role, name in roles.items()}
    for view in pairs.arrays(tuple(roles.values()))
  ]
  classifier = classifiers.load(embedded[new])
  chosen.fit(directory, how, views, classifier, recipe, seed)


def check_reads(
  chosen: method.Method, pairs: splits.Pairs, new: artifact.Artifact
):
  """Raises a ValueError if a method reads what is not there."""
  there = {name for name in ('side', 'label') if name in pairs}
  if classifiers.load(new) is not None:
    there.add('classifier')
  missing = [name for name in chosen.reads if name not in there]
  if missing:
    raise ValueError(
      f'The method reads {", ".join(missing)}, which {new.name} does not have.'
    )


def load(definition: dict[str, Any], fitted: artifact.Artifact) -> method.Maps:
  """The fitted maps of a row."""
  return methods.make(**definition).load(fitted.directory)
