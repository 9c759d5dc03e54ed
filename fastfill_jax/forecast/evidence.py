"""From files to what a forecast is judged on, checked before any fit."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from fastfill_jax.forecast import holdings, truths


@dataclasses.dataclass(frozen=True)
class Sources:
  """Where everything lies; '' is not there.

  Attributes:
    old: Old embeddings of the pairs, or of the whole gallery if there are ids.
    new: New embeddings of the pairs.
    old_ids: Ids of `old`, if not in the same file; all `_ids` likewise.
    labels: Of the pairs, row by row of `new`.
    queries: New embeddings of queries; without them the pairs are queries.
    queries_old: Their old embeddings, for the line old/old.
    queries_labels: Of the queries.
    qrels: Judgements: TREC's four columns, or BEIR's three with a header.
    distance: 'l2', 'cosine' or 'auto': cosine where all is of unit length.
  """

  old: str
  new: str
  old_ids: str = ''
  new_ids: str = ''
  labels: str = ''
  queries: str = ''
  queries_ids: str = ''
  queries_old: str = ''
  queries_labels: str = ''
  qrels: str = ''
  distance: str = 'auto'

  def absolute(self) -> 'Sources':
    """The same, wherever it is read from."""
    return dataclasses.replace(
      self,
      **{
        field.name: str(pathlib.Path(value).absolute())
        for field in dataclasses.fields(self)
        if field.name != 'distance' and (value := getattr(self, field.name))
      },
    )


@dataclasses.dataclass(frozen=True)
class Evidence:
  """All pairs and queries.

  Attributes:
    sample: Of all pairs.
    gallery: Rows of `old`.
    notes: What a reader of the plan should know about them.
  """

  sample: truths.Sample
  gallery: int
  notes: tuple[str, ...]


def gather(sources: Sources) -> Evidence:
  """Reads, joins and checks everything.

  Raises:
    ValueError: Naming the file, and the row where there is one.
  """
  old = holdings.read(sources.old, sources.old_ids)
  new = holdings.read(sources.new, sources.new_ids)
  rows = _pair(old, new)
  ids = new.id if new.id is not None else old.id
  queries = None
  if sources.queries:
    queries = holdings.read(sources.queries, sources.queries_ids)
    _same_width('new', new, queries)
  arrays = {'old': _load(old.rows, rows), 'new': _load(new.rows)}
  arrays |= _queries(sources, queries, old, arrays)
  arrays |= _labels(sources, old, new, rows, queries)
  notes = []
  if sources.qrels:
    if queries is None or queries.id is None or ids is None:
      raise ValueError(
        f'{sources.qrels} judges by ids: give queries with ids, and pairs with '
        'ids.'
      )
    held = read_qrels(sources.qrels, queries.id, np.asarray(ids[:]))
    arrays |= {'relevant': held[0], 'grade': held[1]}
    notes.append(held[2])
  sample = truths.Sample(**arrays, distance=_distance(sources, arrays, notes))
  return Evidence(sample, len(old), tuple(notes))


def _load(rows, some=slice(None)):
  return np.ascontiguousarray(rows[some], np.float32)


def _pair(old, new):
  """Rows of `old` that the rows of `new` belong to."""
  if old.id is not None and new.id is not None:
    wanted = np.asarray(new.id[:])
    rows = holdings.find(old.id, wanted)
    missing = np.flatnonzero(rows < 0)
    if missing.size:
      raise ValueError(
        f'{new.name(int(missing[0]))} is not in {old.path}, nor are '
        f'{missing.size - 1} others.'
      )
    return rows
  if len(old) != len(new):
    raise ValueError(
      f'{old.path} has {len(old)} rows, {new.path} {len(new)}: without ids of '
      'both, row i of one belongs to row i of the other.'
    )
  return slice(None)


def _same_width(what, one, other):
  if one.rows.shape[1] != other.rows.shape[1]:
    raise ValueError(
      f'{other.path} has {other.rows.shape[1]} columns, the {what} embeddings '
      f'in {one.path} {one.rows.shape[1]}.'
    )


def _queries(sources, queries, old, arrays):
  """Queries and which items they are."""
  if queries is None:
    size = len(arrays['new'])
    return {
      'query_new': arrays['new'],
      'query_old': arrays['old'],
      'query_item': np.arange(size),
    }
  query_old = None
  if sources.queries_old:
    held = holdings.read(sources.queries_old)
    _same_width('old', old, held)
    if len(held) != len(queries):
      raise ValueError(
        f'{held.path} has {len(held)} rows, {queries.path} {len(queries)}: the '
        'same queries in the same order are needed.'
      )
    query_old = _load(held.rows)
  # A query is never taken for an item, even if it has an item's id.
  return {
    'query_new': _load(queries.rows),
    'query_old': query_old,
    'query_item': np.full(len(queries), -1),
  }


def _labels(sources, old, new, rows, queries):
  """Labels of items and queries, if there are any."""
  of_items = _label(sources.labels, new)
  if of_items is None and old.label is not None:
    of_items = np.asarray(old.label[rows])
  if sources.qrels or of_items is None:
    return {}
  if queries is None:
    return {'item_label': of_items, 'query_label': of_items}
  of_queries = _label(sources.queries_labels, queries)
  if of_queries is None:
    raise ValueError(
      f'{new.path} has labels and {queries.path} has none: give both, or '
      'neither.'
    )
  return {'item_label': of_items, 'query_label': of_queries}


def _label(path, vectors):
  if not path:
    return None if vectors.label is None else np.asarray(vectors.label[:])
  labels = np.asarray(holdings.column(path, 'label')[:])
  if len(labels) != len(vectors):
    raise ValueError(
      f'{path} has {len(labels)} labels, {vectors.path} {len(vectors)} rows.'
    )
  return labels


def _distance(sources, arrays, notes):
  if sources.distance in ('l2', 'cosine'):
    return sources.distance
  if sources.distance != 'auto':
    raise ValueError(
      f'distance={sources.distance!r}; choose of auto, l2 and cosine.'
    )
  guess = holdings.guess_distance(
    arrays['old'], arrays['new'], arrays['query_new']
  )
  why = 'all' if guess == 'cosine' else 'not all'
  notes.append(f'Distance: {guess}, as {why} embeddings are of unit length.')
  return guess


def read_qrels(
  path: str, query_ids: Any, item_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
  """Reads judgements of grade 1 and more.

  Args:
    path: Lines of `query 0 item grade` (TREC), or `query item grade` separated
      by tabs under a header (BEIR).
    query_ids: [query].
    item_ids: [item].

  Returns:
    Pairs of a query and an item, int [2, pair]; their grades [pair]; and what
    was not used.

  Raises:
    ValueError: Naming the line that is wrong.
  """
  numbers = [
    {str(name): row for row, name in enumerate(np.asarray(ids[:]).tolist())}
    for ids in (query_ids, item_ids)
  ]
  grades, unknown = {}, [0, 0]
  for line, (query, item, grade) in _lines(path):
    if grade < 1:
      continue
    pair = numbers[0].get(query), numbers[1].get(item)
    for side in (0, 1):
      unknown[side] += pair[side] is None
    if None in pair:
      continue
    if pair in grades:
      raise ValueError(f'{path}:{line}: {query} and {item} are judged twice.')
    grades[pair] = grade
  if not grades:
    raise ValueError(
      f'{path} judges no pair relevant of which both ids are there: '
      f'{unknown[0]} lines name unknown queries, {unknown[1]} items without '
      'both embeddings.'
    )
  pairs = np.array(list(grades), np.int64).T
  note = (
    f'{len(grades)} judgements of {len(np.unique(pairs[0]))} queries; left out '
    f'were {unknown[0]} of unknown queries and {unknown[1]} of items without '
    'both embeddings.'
  )
  return pairs, np.array(list(grades.values())), note


def _lines(path):
  """Yields (line number, (query, item, grade))."""
  if not pathlib.Path(path).exists():
    raise ValueError(f'{path} is not there; has it moved?')
  with open(path, encoding='utf-8') as file:
    for line, text in enumerate(file, 1):
      fields = text.split('\t') if '\t' in text else text.split()
      fields = [field.strip() for field in fields]
      if not any(fields) or (line == 1 and fields[0] == 'query-id'):
        continue
      if len(fields) == 4:
        del fields[1]
      try:
        query, item, grade = fields
        yield line, (query, item, int(float(grade)))
      except ValueError:
        raise ValueError(
          f'{path}:{line}: {text.strip()!r} is neither `query 0 item grade` '
          'nor `query item grade`.'
        ) from None
