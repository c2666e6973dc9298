"""Where a selection meets attention: bring the layer's index up to date, then read what is chosen."""

from __future__ import annotations

import torch

from kvlab.model.selected import Question, Read, attend_selected
from kvlab.model.sparse_prefill import attend_prompt
from kvlab.selection.base import Selection
from kvlab.stores.base import Layer, Step, View


def attend_chosen(selection: Selection, asked: Question, layer: Layer) -> Read | None:
    """Attention over what a selection chooses, for one token or for a prompt; None: it reads everything."""
    indexed = update_index(asked.view, layer, asked.step)
    attend = attend_selected if asked.step.tokens == 1 else attend_prompt
    read = attend(selection, asked)
    if read is not None:
        read.bytes_read += indexed
    return read


def update_index(view: View, layer: Layer, step: Step) -> int:
    """Summarise the pages that are whole now; bytes of earlier entries that had to be read for it."""
    index = view.index = layer.index
    if index is None:
        return 0
    filled = layer.filled(view, step)
    start, stop = index.covered, filled // index.page * index.page
    keys, positions = view.keys.exact(), view.positions[:, :, start:]
    if keys is not None:
        keys = keys[:, :, start:]
    elif stop > start:
        rows = torch.arange(start, stop, device=positions.device)
        keys = view.keys.gather(rows.expand(len(positions), view.heads, -1))[0]
    else:
        keys = step.ledger.new_zeros(0, 0, 0, 0)
    index.update(keys, positions, filled)
    old = max(0, min(stop, filled - step.tokens) - start)
    return old * keys[:, :, :1].numel() * keys.element_size()
