"""Training the selections that learn which entries matter: on the model's own attention, in minutes."""

from kvlab.learned.capture import Capture, capture, held_out_windows, training_windows
from kvlab.learned.evaluate import mass_by_layer
from kvlab.learned.train import Recipe, train

__all__ = [
    "Capture",
    "Recipe",
    "capture",
    "held_out_windows",
    "mass_by_layer",
    "train",
    "training_windows",
]
