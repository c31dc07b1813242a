"""How fast it is, beside something a reader knows. A benchmark is no test: nothing fails on a wall-clock time."""
