"""Keep what the newest token attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.eviction.base import Columns
from kvlab.eviction.scored import Scored

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class TOVA(Scored):
    """A layer keeps the `budget` entries to which the last query, over all its heads, pays most attention.

    Token Omission Via Attention, in "Transformers are Multi-State RNNs" (Oren et al., 2024). All heads of
    a layer keep the same tokens. Nothing is remembered: what one query ignores is gone. The newest token
    always stays, which the paper does not demand.

    Raises:
        ValueError: if `budget` is less than 1.
    """

    needs = "mass"

    def __init__(self, budget: int = 512):
        super().__init__(budget)

    def watches(self, view: View, step: Step) -> int:
        return 1

    def scores(self, view: View, step: Step, columns: Columns) -> Tensor:
        assert view.mass is not None  # it watches a query
        return view.mass.sum(dim=1, keepdim=True)  # [batch, 1, slots]
