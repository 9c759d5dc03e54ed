"""What one alignment of one seed scored, and its two files on disk."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from fastfill_jax.storage import artifact

METRICS = ('mAP', 'cmc@1', 'cmc@5')
# Inputs that are not there when a gallery is backfilled blindly. A policy that
# reads one of them is no rival of those that read none.
MARKS = {'new': '†', 'labels': '‡', 'gains': '§'}

Curves = Mapping[str, np.ndarray]  # By metric.
References = Mapping[str, Mapping[str, float]]  # By pair and metric.

_ARRAYS = ('fractions', 'negative_flips', 'uncertainty', 'error')
_BY_METRIC = ('curves', 'standard_error', 'area_standard_error')


def _empty():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """One alignment of one seed, evaluated under every policy.

  All scores are shares in [0, 1], higher is better; `negative_flips` lower.

  Attributes:
    seed: Seed of encoders, alignment and random order.
    alignment: The alignment's name, such as 'fastfill'.
    fractions: Share of the gallery backfilled, [cutoff], from 0 to 1.
    policies: Names of the policies, in the order of the arrays' first axis.
    reads: The inputs each policy reads, such as {'sigma': ('log_variance',)}.
    curves: Score per metric of `METRICS`, [policy, cutoff].
    standard_error: Of each score, over queries, [policy, cutoff].
    area_standard_error: Of each score's mean over the cut-offs, [policy].
    references: Scores of 'old/old', 'new/new' and, where widths allow it,
      'new/old' (query model / gallery model), per metric, whatever the
      encoders' names.
    negative_flips: Share of queries whose nearest item was relevant under
      old/old and is not at this cutoff, [policy, cutoff].
    uncertainty: What the network predicts for each item, [gallery], or None.
    error: Squared distance of aligned to new embedding, [gallery].
    update: Names of the old and of the new encoder.
    needs: What the method reads beside the pairs, such as 'label'.
    left_out: What the policies that were asked for and not run lack, by name.
    gain_correlation: Spearman's, of each policy's order with the items' true
      gains; empty where these were not computed.
    gain_standard_error: Over queries, of each policy's mAP area less that of
      the random order; empty where there is none.
    groups: Curves as above of subgroups of the queries; may be empty.
    group_references: References as above of each subgroup.

  Raises:
    ValueError: If an array has another shape, or a curve is not finite.
  """

  seed: int
  alignment: str
  fractions: np.ndarray
  policies: tuple[str, ...]
  reads: Mapping[str, tuple[str, ...]]
  curves: Curves
  standard_error: Curves
  area_standard_error: Curves
  references: References
  negative_flips: np.ndarray
  uncertainty: np.ndarray | None
  error: np.ndarray
  update: tuple[str, str] = ('old', 'new')
  needs: tuple[str, ...] = ()
  left_out: Mapping[str, tuple[str, ...]] = _empty()
  gain_correlation: Mapping[str, float] = _empty()
  gain_standard_error: Mapping[str, float] = _empty()
  groups: Mapping[str, Curves] = _empty()
  group_references: Mapping[str, References] = _empty()

  def __post_init__(self):
    shape = len(self.policies), len(self.fractions)
    sets = {'curves': self.curves, 'standard_error': self.standard_error}
    sets |= {f'groups[{name!r}]': x for name, x in self.groups.items()}
    arrays = {
      f'{name}[{metric!r}]': curves[metric]
      for name, curves in sets.items()
      for metric in METRICS
    }
    for name, x in (arrays | {'negative_flips': self.negative_flips}).items():
      if np.shape(x) != shape or not np.isfinite(x).all():
        raise ValueError(
          f'{name} must be finite and [policy, cutoff] = {shape}; it is '
          f'{np.shape(x)}: {x}.'
        )

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes result.npz, then result.json, whose presence means 'finished'."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fields = vars(self).copy()
    arrays = {name: fields.pop(name) for name in _ARRAYS}
    if self.uncertainty is None:
      del arrays['uncertainty']
    nested = {name: fields.pop(name) for name in _BY_METRIC}
    # Numbered, since a group's name may hold any character.
    groups = enumerate(self.groups.values())
    nested |= {f'groups/{i}': curves for i, curves in groups}
    for name, values in nested.items():
      arrays |= {f'{name}/{metric}': values[metric] for metric in METRICS}
    fields['groups'] = list(self.groups)
    path = directory / 'result.json'
    path.unlink(missing_ok=True)
    part = directory / 'result.npz.part'
    with open(part, 'wb') as file:
      np.savez_compressed(file, **arrays)
    os.replace(part, directory / 'result.npz')
    artifact.write_text(path, json.dumps(fields, indent=2) + '\n')

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> 'Result':
    """Reads what `save` wrote, equal to the last bit.

    Raises:
      FileNotFoundError: The result was never finished.
      ValueError: One of the two files is damaged.
    """
    directory = pathlib.Path(directory)
    text = (directory / 'result.json').read_text('utf-8')
    try:
      fields = json.loads(text)
      # Opened here: NumPy leaves a damaged file open.
      with open(directory / 'result.npz', 'rb') as file, np.load(file) as data:
        arrays = dict(data)
      for name in ('policies', 'update', 'needs'):
        fields[name] = tuple(fields[name])
      for name in ('left_out', 'reads'):
        fields[name] = {k: tuple(v) for k, v in fields[name].items()}
      fields |= {name: arrays.get(name) for name in _ARRAYS}
      for name in _BY_METRIC:
        fields[name] = {m: arrays[f'{name}/{m}'] for m in METRICS}
      fields['groups'] = {
        group: {m: arrays[f'groups/{i}/{m}'] for m in METRICS}
        for i, group in enumerate(fields['groups'])
      }
      return cls(**fields)
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
      raise ValueError(
        f'The result in {directory} is damaged ({error}); delete the folder '
        'and evaluate again.'
      ) from error


def marks(reads: Sequence[str]) -> str:
  """The marks of what a policy should not read, empty if it is comparable."""
  return ''.join(mark for name, mark in MARKS.items() if name in reads)


def check(results: Sequence[Result]) -> None:
  """Checks that results, of all seeds and alignments, may stand in one table.

  Raises:
    ValueError: None given, one given twice, or two that differ in fractions,
      in an alignment's policies, or in a seed's references of one update.
  """
  if not results:
    raise ValueError('No results to report: expected at least one.')
  seen = {}
  for one in results:
    name = f'alignment {one.alignment!r}, seed {one.seed}'
    if seen.setdefault(name, one) is not one:
      raise ValueError(f'Two results for {name}; expected one.')
    for what, of, value in (
      ('fractions', '', one.fractions.tolist()),
      ('policies', one.alignment, one.policies),
      ('references', (one.seed, one.update), one.references),
    ):
      other = seen.setdefault((what, of), value)
      if other != value:
        raise ValueError(
          f'{name} has {what} {value}, another result {other}: are they of one '
          'run?'
        )
