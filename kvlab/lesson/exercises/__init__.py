"""One file an exercise: `eNN_M.py` holds EXERCISE, its inputs, another solution, and the mistakes to name."""
