"""FastFill in JAX: upgrade the embedding model behind a retrieval service."""

__version__ = '0.1.0'
