"""Training on files, with NumPy and torch: ``records -> shards (memory-mapped) -> global shuffle -> batches``."""

from .loader import ShardLoader, shard_batches
from .record import Layout
from .settings import Shards, check_store, describe_store
from .shuffle import Shuffle
from .store import ShardStore, finish, is_done, read_notes, verify, write_shard

__all__ = [
    "Layout",
    "ShardLoader",
    "ShardStore",
    "Shards",
    "Shuffle",
    "check_store",
    "describe_store",
    "finish",
    "is_done",
    "read_notes",
    "shard_batches",
    "verify",
    "write_shard",
]
