"""Connections to Redis for the event loop, each made again for as long as it is open.

`RedisClient` carries small commands in large numbers, `Bulk` large bodies, `Subscriber` what others publish.
"""

from shared.redis.bulk import Bulk
from shared.redis.commands import RedisClient
from shared.redis.errors import Argument, RedisRefused, RedisUnavailable, Reply
from shared.redis.subscriber import Subscriber

__all__ = ["Argument", "Bulk", "RedisClient", "RedisRefused", "RedisUnavailable", "Reply", "Subscriber"]
