"""What a cache's first layer tells: it depends on tokens and positions only, so it says which they were."""

from __future__ import annotations

from kvlab.doctor.case import Case, finding
from kvlab.doctor.names import UNCLEARED
from kvlab.doctor.report import Finding
from kvlab.doctor.sources import Source, moved, sources

Read = list[tuple[int, Source | None]]  # (column of the ids that a slot claims, where its entry comes from)


def in_first_layer(case: Case) -> Finding | None:
    """What is wrong with tokens, rows or positions; None: nothing."""
    own = case.kept[0]
    found = sources((own.keys, own.values), case.given[0], own.columns, case.tolerance(0))
    for row, of_row in enumerate(found):
        slots = own.columns[row].argsort().tolist()
        slots = [slot for slot in slots if own.columns[row, slot] >= 0]
        read: Read = [(int(own.columns[row, slot]), of_row[slot]) for slot in slots]
        if all(source == Source(row, column) for column, source in read):
            wrong = _missing(case, row, [column for column, _ in read])
        else:
            wrong = _wrong_row(row, read) or _elsewhere(case, row, slots, read)
        if wrong is not None:
            return wrong
    return None


def _wrong_row(row: int, read: Read) -> Finding | None:
    """Entries, or halves of entries, that are another row's."""
    known = [source for _, source in read if source is not None]
    others = {s.row for s in known} | {s.value_row for s in known if s.value_row is not None}
    others -= {row}
    if not others or len(known) < len(read):
        return None
    halves = any(s.value_row is not None for s in known)
    what = "keys or values" if halves else "entries"
    return finding(("rows-permuted",), f"row {row} holds {what} of row {' and '.join(map(str, others))}", 0)


def _elsewhere(case: Case, row: int, slots: list[int], read: Read) -> Finding | None:
    """Entries of this row's tokens that are not where they belong, or not as they are rotated there."""
    if bool(case.real[row].all()) and any(source is None for _, source in read):
        own = case.kept[0]
        held = own.keys[row][:, slots], own.values[row][:, slots]
        at = moved(
            case.reference, row, case.ids[row], held, [column for column, _ in read], case.tolerance(0)
        )
        read = [(column, source or at.get(i)) for i, (column, source) in enumerate(read)]
    known = [source for _, source in read]
    if None in known[: case.total]:
        return _behind_another(row, known) or _other_text(row, read)
    if len(read) > case.total:
        return _too_long(row, known[case.total :], case.total)
    columns = [source.column for source in known if source]
    off = {source.column: source.off for source in known if source and source.off}
    if off:
        return _turned(case, row, off)
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        return finding((), f"row {row} holds token {twice} of the ids more than once", twice)
    if columns != sorted(columns):
        return finding((), f"row {row} holds its tokens in another order: {columns[:8]}", columns[0])
    return _missing(case, row, columns)


def _behind_another(row: int, known: list[Source | None]) -> Finding | None:
    """The ids are there, all of them, behind something else."""
    start = next((i for i, source in enumerate(known) if source and source.column == 0), 0)
    if not start or any(s is None or (s.column, s.off) != (i, start) for i, s in enumerate(known[start:])):
        return None
    return finding(
        UNCLEARED, f"row {row} begins with {start} entries of another text, and these ids lie behind them", 0
    )


def _too_long(row: int, more: list[Source | None], total: int) -> Finding:
    """More entries than ids, and they begin with the ids."""
    again = [source.column for source in more if source]
    if len(again) == len(more):
        what = "all of the ids" if len(again) == total else f"token {', '.join(map(str, again))} of the ids"
        return finding(("cache-covers-prompt",), f"row {row} holds {what} once more behind them", total)
    says = f"row {row} holds these {total} tokens, and behind them {len(more)} more entries, of a longer text"
    return finding(("shared-prefix-in-place",), says, total)


def _turned(case: Case, row: int, off: dict[int, int]) -> Finding:
    """Keys at other positions than their tokens': stored so, or computed so."""
    first = min(off)
    places = ", ".join(f"of token {c} at position {c + by}" for c, by in sorted(off.items())[:3])
    says = f"the key {places}" + (", …" if len(off) > 3 else "")
    if _values_right(case, row):
        how = "rotated elsewhere"
        if all(by == column for column, by in off.items()):
            how = "rotated twice"
        if all(by == -column for column, by in off.items()):
            how = "not rotated"
        says += f": {how}; yet the last layer's values are right, so only what is stored is turned"
        return finding(("mixed-rotation",), says, first)
    steps = [off.get(column, 0) for column in range(first, max(off) + 1)]
    names: tuple[str, ...] = ()
    if set(steps) == {-first} or steps == [-column for column in range(first, max(off) + 1)]:
        names += ("positions-restart",)
    if set(steps) in ({1}, {-1}):
        names += ("offset-by-one",)
    if not names and len(set(steps)) == 1 and steps[0] < 0:
        names = ("positions-from-stored-length",)
    return finding(names, f"{says}, and later layers were computed with that", first)


def _values_right(case: Case, row: int) -> bool:
    """Whether the last layer's values are those of the right text: then only stored keys are wrong."""
    kept, (_, values) = case.kept[-1], case.given[-1]
    at = kept.columns[row]
    good = (at >= 0) & (at < case.total)
    gap = kept.values[row][:, good] - values[row][:, at[good]]
    return float(gap.abs().max()) <= case.tolerance(len(case.kept) - 1)[1]


def _other_text(row: int, read: Read) -> Finding:
    """Entries that no token of the ids gives. Another text may have some tokens in common with the ids."""
    first = next(column for column, source in read if source != Source(row, column))
    rest = [source for column, source in read if column >= first]
    foreign = rest.count(None)
    if 2 * foreign < len(rest):
        return finding(
            (), f"row {row} holds {foreign} of {len(read)} entries that no token of the ids gives", first
        )
    says = f"row {row} holds entries of another text"
    if first:
        says = f"row {row} holds these ids before token {first}, and from there on entries of another text"
    return finding(("another-prompts-cache",), says, first)


def _missing(case: Case, row: int, have: list[int]) -> Finding | None:
    """Tokens of the ids that no entry is of, where nothing else is wrong."""
    own = case.kept[0]
    due = case.real[row].nonzero().flatten().tolist()
    due = due[-(own.window - 1) :] if own.window else due
    gone = [column for column in due if column not in have]
    extra = [column for column in have if column >= case.total]
    if extra:
        return _too_long(row, [None] * len(extra), case.total)
    if not gone:
        return None
    says = f"row {row} holds no entry of token {', '.join(map(str, gone[:6]))}" + (", …" if gone[6:] else "")
    if gone == due[: len(gone)]:
        return finding(("capacity-becomes-window",), f"{says}: only the newest {len(have)} are left", gone[0])
    if gone == due[-len(gone) :]:
        says += ": they were never passed, or not stored"
    return finding(("entry-missing",), says, gone[0])
