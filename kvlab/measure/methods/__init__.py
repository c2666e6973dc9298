"""Every way to keep a cache that the course compares, under the name that `kvlab bench quality` knows.

A method is a line in one of these modules: its name, its family, the arguments of `kvlab.Cache` that make it
for a task (a budget may be a share of the prompt), and what it is.
"""

# In the order in which the bench takes them and prints them.
from kvlab.measure.methods import references  # noqa: I001
from kvlab.measure.methods import quantized
from kvlab.measure.methods import coded
from kvlab.measure.methods import evicted
from kvlab.measure.methods import selected
from kvlab.measure.methods import combined
from kvlab.measure.methods.registry import METHODS, Method, find_methods, method, share

__all__ = [
    "METHODS",
    "Method",
    "coded",
    "combined",
    "evicted",
    "find_methods",
    "method",
    "quantized",
    "references",
    "selected",
    "share",
]
