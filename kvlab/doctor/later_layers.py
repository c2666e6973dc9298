"""What a cache's later layers tell, where the first is right: what each token saw when it was computed."""

from __future__ import annotations

from kvlab.doctor.case import Case, finding
from kvlab.doctor.report import Finding
from kvlab.doctor.schedule import Schedule
from kvlab.doctor.sheet import laid_out
from kvlab.doctor.sources import sources
from kvlab.doctor.theories import MASKS, Theory


def in_later_layers(case: Case) -> Finding | None:
    """What is wrong from some layer on; None: nothing."""
    for layer, given in enumerate(case.given):
        wrong = case.wrong_columns(layer, given)
        if not wrong:
            continue
        for theory in MASKS:
            if any(_gives(case, theory, sizes, layer) for sizes in _cuts(case.total, wrong[0])):
                says = f"tokens and positions are right, but when they were computed: {theory.says}"
                return finding((theory.name,), says, wrong[0], layer)
        says = (
            f"all is right before layer {layer}, and from token {wrong[0]} on that layer is not: it was "
            "written over, or computed with something else in view"
        )
        return _wrong_row(case, layer) or finding((), says, wrong[0], layer)
    return None


def _cuts(total: int, first: int) -> list[tuple[int, ...]]:
    """In which calls the ids may have been passed, where token `first` is the first wrong one."""
    cuts = [(total,), (1,) * total]
    for start in sorted({first, first + 1} - {0}):
        if start < total:
            cuts += [(start, total - start), (start, *(1,) * (total - start))]
    return cuts


def _gives(case: Case, theory: Theory, sizes: tuple[int, ...], layer: int) -> bool:
    """Whether a theory's recompute leaves just these entries."""
    if not bool(case.real.all()):
        return False
    sheet = laid_out(theory.lay, Schedule(case.ids, sizes))
    entries = case.reference.entries(sheet.tokens, sheet.positions, sheet.visible())
    return not any(case.wrong_columns(i, entries[i]) for i in range(layer, len(entries)))


def _wrong_row(case: Case, layer: int) -> Finding | None:
    """One layer whose rows are others'."""
    kept = case.kept[layer]
    found = sources((kept.keys, kept.values), case.given[layer], kept.columns, case.tolerance(layer))
    for row, slots in enumerate(found):
        known = [source for source, at in zip(slots, kept.columns[row], strict=True) if at >= 0]
        others = {s.row for s in known if s} | {s.value_row for s in known if s and s.value_row is not None}
        if None not in known and others - {row}:
            says = (
                f"in layer {layer}, row {row} holds entries of row {' and '.join(map(str, others - {row}))}"
            )
            return finding(("rows-permuted",), says, 0, layer)
    return None
