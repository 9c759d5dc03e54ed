"""Qdrant: a second named vector beside the old one, a tag in the payload.

Qdrant writes a vector and a payload by two operations, sent in one request:
first the vector, where the tag still is the expected one, then the tag. A
crash between them leaves a new vector that is still tagged as aligned, which
is merely embedded again. Searches see parts of a batch.

A vector's name is in the application's queries, `using=`, and cannot be
changed. The cut-over writes the name to be used into the collection's
metadata, under 'fastfill_serving'; the application reads it or is told.
"""

import os

import numpy as np
import qdrant_client
from qdrant_client import models

from fastfill_jax.stores import base

_PIECE = 1_000
_ATTEMPTS = 5
_DISTANCES = {'l2': models.Distance.EUCLID, 'cosine': models.Distance.COSINE}
_SERVING = 'fastfill_serving'


class QdrantStore(base.Store):
  """A collection, of a server (1.18 or later) or in the client's local mode.

  Args:
    location: 'http://HOST:6333', a folder, or ':memory:'.
    names: The collection, its vector (any name if it has only the one without
      a name) and the payload's key of a revision.
    client: A client to use instead.

  Raises:
    ValueError: If the collection or the vector is not there.
  """

  def __init__(self, location: str, names: base.Names, client=None):
    super().__init__(names)
    if client is None and location.startswith(('http://', 'https://')):
      client = qdrant_client.QdrantClient(
        url=location, api_key=os.environ.get('QDRANT_API_KEY'), timeout=60
      )
    elif client is None and location == ':memory:':
      client = qdrant_client.QdrantClient(location)
    elif client is None:
      client = qdrant_client.QdrantClient(path=location)
    self._client = client
    self._remote = location.startswith('http')
    if not client.collection_exists(names.table):
      raise ValueError(f'There is no collection {names.table}.')
    vectors = self._vectors()
    if not {names.field, ''} & set(vectors):
      raise ValueError(
        f'{names.table} has no vector {names.field!r}; it has '
        f'{", ".join(vectors)}.'
      )

  def _config(self):
    return self._client.get_collection(self.names.table).config

  def _vectors(self) -> dict:
    """{name: parameters}; the vector without a name is ''."""
    vectors = self._config().params.vectors
    return vectors if isinstance(vectors, dict) else {'': vectors}

  def _old(self, vectors):
    return self.names.field if self.names.field in vectors else ''

  def describe(self):
    vectors, config = self._vectors(), self._config()
    old, new = vectors.get(self._old(vectors)), vectors.get(self.names.new)
    metadata = config.metadata or {}
    return base.Description(
      store='Qdrant' if self._remote else 'Qdrant, local mode',
      old_dim=old and old.size,
      new_dim=new and new.size,
      serving='new' if metadata.get(_SERVING) == self.names.new else 'old',
      index='hnsw' if self._remote else None,
      warnings=(
        'Qdrant has no triggers: who changes an item must upsert it whole, '
        f'which takes its {self.names.space} away.',
        'Qdrant shows parts of a batch to searches.',
      ),
    )

  def prepare(self, dim, distance, dry_run=False):
    base.choose_distance(distance)
    there = self._vectors().get(self.names.new)
    if there is not None:
      if (there.size, there.distance) != (dim, _DISTANCES[distance]):
        raise ValueError(
          f'{self.names.new} is {there.size} wide by {there.distance.value}, '
          f'the plan {dim} by {distance}.'
        )
      return []
    if not dry_run:
      self._client.create_vector_name(
        self.names.table,
        self.names.new,
        models.DenseVectorNameConfig(
          dense=models.DenseVectorConfig(
            size=dim, distance=_DISTANCES[distance]
          )
        ),
      )
      if self._remote:
        self._client.create_payload_index(
          self.names.table,
          self.names.space,
          models.PayloadSchemaType.KEYWORD,
        )
    return [
      f'add vector {self.names.new} of {dim} by {distance}',
      f'index payload {self.names.space}',
    ]

  def scan(self):
    offset, more = None, True
    while more:
      points, offset = self._client.scroll(
        self.names.table,
        limit=_PIECE,
        offset=offset,
        with_payload=[self.names.space],
      )
      more = offset is not None
      if points:
        yield (
          base.check_ids([p.id for p in points]),
          base.objects([p.payload.get(self.names.space) for p in points]),
        )

  def read(self, ids, field='new'):
    ids, vectors = base.check_ids(ids), self._vectors()
    names = {'old': self._old(vectors), 'new': self.names.new, None: None}
    name = names[field]
    keys = [self.names.space]
    keys += [self.names.revision] if self.names.revision else []
    points = []
    if len(ids):
      points = self._client.retrieve(
        self.names.table,
        ids.tolist(),
        with_payload=keys,
        with_vectors=[name] if name else name == '',
      )
    array = None
    if name in vectors:
      array = np.full((len(points), vectors[name].size), np.nan, np.float32)
      for place, point in enumerate(points):
        vector = point.vector
        if isinstance(vector, dict):
          vector = vector.get(name)
        if vector is not None:
          array[place] = vector
    revisions = [None] * len(points)
    if self.names.revision:
      values = [p.payload.get(self.names.revision) for p in points]
      revisions = [None if v is None else str(v) for v in values]
    return base.Items(
      base.check_ids([p.id for p in points]),
      base.objects([p.payload.get(self.names.space) for p in points]),
      base.objects(revisions),
      array,
    )

  def search(self, query, k, distance, exact=False):
    # Local mode is always exact.
    params = models.SearchParams(exact=exact) if self._remote else None
    answers = self._client.query_batch_points(
      self.names.table,
      [
        models.QueryRequest(
          query=vector.tolist(),
          using=self.names.new,
          limit=k,
          params=params,
        )
        for vector in np.asarray(query, np.float32)
      ],
    )
    ids = np.array([[p.id for p in a.points] for a in answers])
    score = np.array([[p.score for p in a.points] for a in answers], float)
    return ids, 1 - score if distance == 'cosine' else score**2

  def cut_over(self):
    if self.names.new not in self._vectors():
      raise ValueError(f'There is no new vector to serve: {self.names.new}.')
    self._serve(self.names.new)

  def roll_back(self):
    vectors = self._vectors()
    if self._old(vectors) not in vectors:
      raise ValueError('The old vector is gone.')
    self._serve(self._old(vectors))

  def _serve(self, name):
    metadata = self._config().metadata or {}
    self._client.update_collection(
      self.names.table, metadata={**metadata, _SERVING: name}
    )

  def clean_up(self):
    vectors = self._vectors()
    serving = self.describe().serving
    unused = self._old(vectors) if serving == 'new' else self.names.new
    if unused in vectors:
      self._client.delete_vector_name(self.names.table, unused)
    self._client.delete_payload(
      self.names.table, [self.names.space], models.Filter()
    )

  def close(self):
    self._client.close()

  def _write(self, ids, vectors, space, only_if, revisions):
    vector_of = dict(zip(ids.tolist(), vectors.tolist(), strict=True))
    revision_of = {}
    if revisions is not None and self.names.revision:
      revision_of = dict(zip(ids.tolist(), revisions.tolist(), strict=True))
    landed = np.zeros(len(ids), bool)
    for _ in range(_ATTEMPTS):
      # An update of a point that is gone fails, after the others were written.
      items = self.read(ids, None)
      expected = items.ids[items.spaces == only_if]
      if not len(expected):
        break
      try:
        self._update(expected.tolist(), vector_of, space, only_if, revision_of)
      except (qdrant_client.http.exceptions.UnexpectedResponse, KeyError) as e:
        if getattr(e, 'status_code', 404) != 404:
          raise
        continue
      after = self.read(expected, None)
      landed |= np.isin(ids, after.ids[after.spaces == space])
      break
    else:
      raise ValueError(f'Points of {self.names.table} keep disappearing.')
    return ids[landed]

  def _update(self, ids, vector_of, space, only_if, revision_of):
    key = self.names.space
    expected = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    if only_if is not None:
      match = models.MatchValue(value=only_if)
      expected = models.FieldCondition(key=key, match=match)
    unchanged = None
    if revision_of:
      unchanged = [self._is_revision(i, revision_of[i]) for i in ids]
    matching = {'should': unchanged} if unchanged else {}
    among = models.HasIdCondition(has_id=ids)
    self._client.batch_update_points(
      self.names.table,
      [
        models.UpdateVectorsOperation(
          update_vectors=models.UpdateVectors(
            points=[
              models.PointVectors(id=i, vector={self.names.new: vector_of[i]})
              for i in ids
            ],
            update_filter=models.Filter(must=[expected], **matching),
          )
        ),
        models.SetPayloadOperation(
          set_payload=models.SetPayload(
            payload={key: space},
            filter=models.Filter(must=[expected, among], **matching),
          )
        ),
      ],
    )

  def _is_revision(self, i, revision):
    key = self.names.revision
    same = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    if revision is not None:
      value = int(revision) if revision.lstrip('-').isdigit() else revision
      match = models.MatchValue(value=value)
      same = models.FieldCondition(key=key, match=match)
    return models.Filter(must=[models.HasIdCondition(has_id=[i]), same])
