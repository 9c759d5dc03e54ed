"""Methods by name: what each row of a table is a variant of.

A method is a file here and a line in `METHODS`. A config's row names one and
changes some of its fields:

  {'method': 'fastfill', 'error': {'l2': 10.0, 'disc': 1.0}}
  {'method': 'ridge', 'penalty': 0.1}
"""

import dataclasses
from typing import Any

from fastfill_jax import choices
from fastfill_jax.methods import (
  closed_forms,
  drift_adapter,
  fastfill,
  fct,
  info_nce,
  lambda_orthogonality,
  method,
  metric_compatible,
  mixed,
  mixfill,
)

METHODS: dict[str, method.Method] = {
  'identity': closed_forms.IDENTITY,
  'procrustes': closed_forms.PROCRUSTES,
  'ridge': closed_forms.RIDGE,
  'fct': fct.METHOD,
  'fastfill': fastfill.METHOD,
  'info_nce': info_nce.METHOD,
  'mixed': mixed.METHOD,
  'mixfill': mixfill.METHOD,
  'metric_compatible': metric_compatible.METHOD,
  'orthogonal': lambda_orthogonality.STRICT,
  'lambda_orthogonality': lambda_orthogonality.RELAXED,
  'low_rank': drift_adapter.LOW_RANK,
  'residual': drift_adapter.RESIDUAL,
}


def make(name: str, **changes: Any) -> method.Method:
  """The method of this name, some of its fields changed.

  Raises:
    ValueError: If the name, a field or the value of one is unknown.
  """
  choices.check('method', name, METHODS)
  base = METHODS[name]
  fields = {field.name for field in dataclasses.fields(base)}
  fields -= {'source', 'module', 'network', 'solve'}
  choices.check_keys(f'method {name!r}', changes, sorted(fields))
  return dataclasses.replace(base, **changes)
