"""One file a lesson: `qNN.py` holds QUIZ, the list of its three items."""
