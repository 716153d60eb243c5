"""The gateway: who may ask, whose turn is next, and the bytes in between."""
