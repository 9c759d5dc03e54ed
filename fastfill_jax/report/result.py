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
MARKS = {'new': '†', 'labels': '‡', 'query': '§'}

_ARRAYS = ('fractions', 'negative_flips', 'uncertainty', 'error')
_NESTED = ('curves', 'standard_error')
_OF_AREA = 'area_standard_error'


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
    groups: Curves as above of subgroups of the queries; may be empty.
    group_references: References as above of each subgroup.
  """

  seed: int
  alignment: str
  fractions: np.ndarray
  policies: tuple[str, ...]
  reads: Mapping[str, tuple[str, ...]]
  curves: Mapping[str, np.ndarray]
  standard_error: Mapping[str, np.ndarray]
  references: Mapping[str, Mapping[str, float]]
  negative_flips: np.ndarray
  uncertainty: np.ndarray | None
  error: np.ndarray
  area_standard_error: Mapping[str, np.ndarray]
  update: tuple[str, str] = ('old', 'new')
  needs: tuple[str, ...] = ()
  left_out: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  groups: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  group_references: Mapping[str, Mapping[str, Mapping[str, float]]] = (
    dataclasses.field(default_factory=dict)
  )

  def __post_init__(self):
    _check_names(self)
    _check_arrays(self)

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes result.npz, then result.json, whose presence means 'finished'.

    Args:
      directory: Where to; made if it is not there.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {
      name: getattr(self, name)
      for name in _ARRAYS
      if getattr(self, name) is not None
    }
    for name in (*_NESTED, _OF_AREA):
      for metric in METRICS:
        arrays[f'{name}/{metric}'] = getattr(self, name)[metric]
    # Numbered, since a group's name may hold any character.
    for i, curves in enumerate(self.groups.values()):
      for metric in METRICS:
        arrays[f'groups/{i}/{metric}'] = curves[metric]
    scalars = {
      'seed': int(self.seed),
      'alignment': self.alignment,
      'policies': list(self.policies),
      'reads': {name: list(self.reads[name]) for name in self.policies},
      'update': list(self.update),
      'needs': list(self.needs),
      'left_out': {k: list(v) for k, v in self.left_out.items()},
      'references': _floats(self.references),
      'groups': list(self.groups),
      'group_references': {
        name: _floats(references)
        for name, references in self.group_references.items()
      },
    }
    path = directory / 'result.json'
    path.unlink(missing_ok=True)
    part = directory / 'result.npz.part'
    with open(part, 'wb') as file:
      np.savez_compressed(file, **arrays)
    os.replace(part, directory / 'result.npz')
    artifact.write_text(path, json.dumps(scalars, indent=2) + '\n')

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> 'Result':
    """Reads what `save` wrote.

    Args:
      directory: Where `save` wrote to.

    Returns:
      The result, equal to the saved one to the last bit.

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
      groups = fields.pop('groups')
      for name in ('policies', 'update', 'needs'):
        fields[name] = tuple(fields[name])
      fields['left_out'] = {k: tuple(v) for k, v in fields['left_out'].items()}
      fields['reads'] = {k: tuple(v) for k, v in fields['reads'].items()}
      for name in _ARRAYS:
        fields[name] = arrays.get(name)
      for name in (*_NESTED, _OF_AREA):
        fields[name] = {m: arrays[f'{name}/{m}'] for m in METRICS}
      fields['groups'] = {
        group: {m: arrays[f'groups/{i}/{m}'] for m in METRICS}
        for i, group in enumerate(groups)
      }
      return cls(**fields)
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
      raise ValueError(
        f'The result in {directory} is damaged ({error}); delete the folder '
        'and evaluate again.'
      ) from error


def comparable(reads: Sequence[str]) -> bool:
  """Whether a policy reads neither labels, nor queries, nor new embeddings."""
  return not marks(reads)


def marks(reads: Sequence[str]) -> str:
  """The marks of what a policy should not read, empty if it is comparable."""
  return ''.join(mark for name, mark in MARKS.items() if name in reads)


def check(results: Sequence[Result]) -> None:
  """Checks that results may stand in one table.

  Args:
    results: All seeds and alignments, of one or several pairs of encoders.

  Raises:
    ValueError: None given, one given twice, or two that differ in fractions,
      in what a policy reads, in an alignment's policies, or in a seed's
      references of one pair of encoders.
  """
  if not results:
    raise ValueError('No results to report: expected at least one.')
  first, seen, of_seed, of_policy, of_alignment = results[0], set(), {}, {}, {}
  for one in results:
    name = f'alignment {one.alignment!r}, seed {one.seed}'
    if (one.seed, one.alignment) in seen:
      raise ValueError(f'Two results for {name}; expected one.')
    seen.add((one.seed, one.alignment))
    if not np.array_equal(one.fractions, first.fractions):
      raise ValueError(
        f'{name} has fractions {one.fractions}; the first result has '
        f'{first.fractions}.'
      )
    for policy in one.policies:
      reads = of_policy.setdefault(policy, set(one.reads[policy]))
      if reads != set(one.reads[policy]):
        raise ValueError(
          f'{policy!r} reads {one.reads[policy]} in {name}, but '
          f'{sorted(reads)} elsewhere.'
        )
    policies = of_alignment.setdefault(one.alignment, one.policies)
    if policies != one.policies:
      raise ValueError(
        f'{name} has policies {one.policies}; another seed has {policies}.'
      )
    references = of_seed.setdefault((one.seed, one.update), one.references)
    if _floats(references) != _floats(one.references):
      raise ValueError(
        f'{name} has references {_floats(one.references)}; another alignment '
        f'of this seed has {_floats(references)}. Are they of one old and one '
        'new encoder?'
      )


def _floats(references):
  return {
    pair: {metric: float(value) for metric, value in scores.items()}
    for pair, scores in references.items()
  }


def _check_names(one: Result) -> None:
  if len(set(one.policies)) != len(one.policies) or not one.policies:
    raise ValueError(f'policies={one.policies}: expected distinct names.')
  if missing := [p for p in one.policies if p not in one.reads]:
    raise ValueError(f'reads says nothing about {missing}.')
  sets = {'': one.references}
  for group in one.groups:
    sets[f' of group {group!r}'] = one.group_references.get(group, {})
  for where, references in sets.items():
    for pair in ('old/old', 'new/new'):
      if pair not in references:
        raise ValueError(f'references{where} lack {pair!r}.')
    for pair, scores in references.items():
      if set(scores) != set(METRICS):
        raise ValueError(
          f'references{where}[{pair!r}] has {sorted(scores)}; '
          f'expected {METRICS}.'
        )


def _check_arrays(one: Result) -> None:
  fractions = np.asarray(one.fractions)
  if (
    fractions.ndim != 1
    or fractions.size < 2
    or fractions[0] != 0
    or fractions[-1] != 1
    or np.any(np.diff(fractions) < 0)
  ):
    raise ValueError(f'fractions={fractions}: expected 0 rising to 1.')
  arrays = {'negative_flips': one.negative_flips}
  sets = {name: getattr(one, name) for name in _NESTED}
  sets |= {f'groups[{name!r}]': curves for name, curves in one.groups.items()}
  for name, curves in sets.items():
    if set(curves) != set(METRICS):
      raise ValueError(f'{name} has {sorted(curves)}; expected {METRICS}.')
    arrays |= {f'{name}[{metric!r}]': curves[metric] for metric in METRICS}
  shape = (len(one.policies), fractions.size)
  for metric in METRICS:
    if np.shape(one.area_standard_error[metric]) != shape[:1]:
      raise ValueError(
        f'area_standard_error[{metric!r}] has shape '
        f'{np.shape(one.area_standard_error[metric])}; expected {shape[:1]}.'
      )
  for name, values in arrays.items():
    if np.shape(values) != shape:
      raise ValueError(
        f'{name} has shape {np.shape(values)}; expected '
        f'[policy, cutoff] = {shape}.'
      )
    if not np.all(np.isfinite(values)):
      raise ValueError(f'{name} holds NaN or infinity.')
  if one.uncertainty is not None and (
    np.shape(one.uncertainty) != np.shape(one.error)
  ):
    raise ValueError(
      f'uncertainty has shape {np.shape(one.uncertainty)}; expected that of '
      f'error, {np.shape(one.error)}.'
    )
