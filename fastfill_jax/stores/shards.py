"""The arrays on disk that plans and stores are made of.

The only module here that knows where the package keeps them.
"""

from fastfill_jax.storage import arrays

ShardedArray = arrays.ShardedArray
write = arrays.write
write_shard, has_shard = arrays.write_shard, arrays.has_shard
