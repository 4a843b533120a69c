"""The bench that tests, the demo and the benchmarks stand on: real servers, and a proxy that counts and breaks things.

Nothing here needs pytest but its own tests, and nothing here imports `casstore` or `pathapi`: a fixture planted or a
request counted by the code under test would prove nothing.
"""
