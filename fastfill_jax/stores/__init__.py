"""Stores of embeddings that are backfilled while they serve.

A store is named by a URL:

  arrays:DIR               folders of shards, DIR/id and DIR/old, on disk
  postgresql://HOST/NAME   PostgreSQL with pgvector; passwords come from
                           PGPASSWORD, ~/.pgpass or a service file
  qdrant:http://HOST:6333  Qdrant, its key from QDRANT_API_KEY; qdrant:DIR is
                           the client's local mode
  lancedb:DIR              LanceDB, or lancedb:s3://...
  env:VARIABLE             any of them, read from the environment
"""

import os

from fastfill_jax.stores import base, urls

Description = base.Description
Items = base.Items
Names = base.Names
Store = base.Store
STALE = base.STALE
masked = urls.masked


def open_store(url: str, names: Names) -> Store:
  """Opens a store by its URL.

  Raises:
    ValueError: If the URL is none of those above, holds a password, or there
      is nothing of that name.
    ImportError: If the store's client is not installed.
  """
  if url.startswith('env:'):
    variable = url.removeprefix('env:')
    url = os.environ.get(variable, '')
    if not url:
      raise ValueError(f'The environment has no {variable}.')
  elif urls.has_password(url):
    raise ValueError(
      f'{masked(url)} holds a password, which every user of the machine can '
      'read: leave it to PGPASSWORD, ~/.pgpass or QDRANT_API_KEY, or put the '
      'URL into a variable and name that, env:VARIABLE.'
    )
  scheme, _, rest = url.partition(':')
  if scheme == 'arrays':
    from fastfill_jax.stores import arrays

    return arrays.ArraysStore(rest, names)
  if scheme in ('postgresql', 'postgres'):
    from fastfill_jax.stores import postgres

    return postgres.PostgresStore(url, names)
  if scheme == 'qdrant':
    from fastfill_jax.stores import qdrant

    return qdrant.QdrantStore(rest, names)
  if scheme == 'lancedb':
    from fastfill_jax.stores import lance

    return lance.LanceStore(rest, names)
  raise ValueError(
    f'{masked(url)!r} names no store; known: arrays:DIR, '
    'postgresql://HOST/NAME, qdrant:URL, lancedb:DIR, env:VARIABLE.'
  )
