"""Qdrant's own engine behind what a QdrantStore asks of a client.

There is no server in a wheel, but its engine is: one shard, in this process.
Requests are made of the client's own models and translated one by one; what
an update does to a point is then Qdrant's doing, not that of the client's
local mode.
"""

import types

import numpy as np
import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http import exceptions

_DISTANCES = {
  models.Distance.COSINE: edge.Distance.Cosine,
  models.Distance.EUCLID: edge.Distance.Euclid,
}


class EdgeClient:
  """A collection 'items' with one named vector.

  Args:
    directory: An empty folder.
    name: The vector's.
    size: Its width.
  """

  def __init__(self, directory, name: str, size: int):
    parameters = edge.EdgeVectorParams(size, edge.Distance.Cosine)
    config = edge.EdgeConfig(vectors={name: parameters})
    self._shard = edge.EdgeShard.create(str(directory), config)
    self._vectors = {
      name: models.VectorParams(size=size, distance=models.Distance.COSINE)
    }
    self._metadata = {}

  def collection_exists(self, table):
    return table == 'items'

  def get_collection(self, table):
    del table
    return types.SimpleNamespace(
      config=types.SimpleNamespace(
        params=types.SimpleNamespace(vectors=self._vectors),
        metadata=self._metadata,
      )
    )

  def update_collection(self, table, metadata):
    del table
    self._metadata = metadata

  def create_vector_name(self, table, name, config):
    del table
    size, distance = config.dense.size, config.dense.distance
    self._update('create_dense_vector', name, size, _DISTANCES[distance])
    self._vectors[name] = models.VectorParams(size=size, distance=distance)

  def create_payload_index(self, table, key, kind):
    del table, kind
    keyword = edge.PayloadSchemaType.Keyword
    self._update('create_field_index', key, keyword)

  def delete_vector_name(self, table, name):
    del table
    self._update('delete_vector_name', name)
    del self._vectors[name]

  def delete_payload(self, table, keys, selector):
    del table
    self._update('delete_payload_by_filter', _filter(selector), keys)

  def delete(self, table, ids):
    del table
    self._update('delete_points', ids)

  def set_payload(self, table, payload, ids):
    del table
    self._update('set_payload', ids, payload)

  def upsert(self, table, points):
    del table
    points = [edge.Point(p.id, p.vector, p.payload) for p in points]
    self._update('upsert_points', points)

  def batch_update_points(self, table, operations):
    del table
    for operation in operations:
      if isinstance(operation, models.UpdateVectorsOperation):
        update = operation.update_vectors
        points = [edge.PointVectors(p.id, p.vector) for p in update.points]
        self._update('update_vectors', points, _filter(update.update_filter))
      else:
        update = operation.set_payload
        self._update(
          'set_payload_by_filter', _filter(update.filter), update.payload
        )

  def _update(self, name, *args):
    try:
      self._shard.update(getattr(edge.UpdateOperation, name)(*args))
    except Exception as error:
      if 'No point with id' not in str(error):
        raise
      # As the server answers.
      raise exceptions.UnexpectedResponse(404, '', str(error), None) from error

  def scroll(self, table, limit, offset, with_payload):
    del table
    points, offset = self._shard.scroll(
      edge.ScrollRequest(offset, limit, with_payload=with_payload)
    )
    return [_record(p) for p in points], offset

  def retrieve(self, table, ids, with_payload, with_vectors):
    del table
    points = self._shard.retrieve(
      ids, with_payload=with_payload, with_vector=with_vectors
    )
    return [_record(p) for p in points]

  def query_batch_points(self, table, requests):
    del table
    return [
      types.SimpleNamespace(
        points=self._shard.query(
          edge.QueryRequest(
            request.limit,
            query=edge.Query.Nearest(
              np.asarray(request.query).tolist(), using=request.using
            ),
            params=edge.SearchParams(
              exact=bool(request.params and request.params.exact)
            ),
          )
        )
      )
      for request in requests
    ]

  def optimize(self):
    self._shard.optimize()

  def close(self):
    self._shard.close()


def _record(point):
  # The client's ids are integers and strings.
  i = point.id if isinstance(point.id, int) else str(point.id)
  return models.Record(id=i, payload=point.payload or {}, vector=point.vector)


def _filter(condition):
  """The client's conditions as the engine's."""
  if condition is None:
    return None
  if isinstance(condition, models.Filter):
    return edge.Filter(
      must=[_filter(c) for c in condition.must or ()] or None,
      should=[_filter(c) for c in condition.should or ()] or None,
    )
  if isinstance(condition, models.HasIdCondition):
    return edge.HasIdCondition(set(condition.has_id))
  if isinstance(condition, models.IsEmptyCondition):
    return edge.IsEmptyCondition(condition.is_empty.key)
  return edge.FieldCondition(
    condition.key, edge.MatchValue(condition.match.value)
  )
