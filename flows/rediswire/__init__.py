"""What rows look like in Redis, and how they get there and back; the format is documented in docs/redis.md."""
