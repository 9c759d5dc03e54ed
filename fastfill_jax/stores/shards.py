"""The arrays on disk that plans and stores are made of.

The only module here that knows where the package keeps them.
"""

from fastfill_jax import embeddings

ShardedArray = embeddings.ShardedArray
write = embeddings.write
