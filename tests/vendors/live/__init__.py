"""Stand-ins for vendors' live protocols: real WebSocket servers on loopback."""
