"""The misuse gallery: ways to use a KV cache wrong, each beside its fix, each with its damage measured.

misuse = GALLERY["offset-by-one"]
misuse.symptom, misuse.why, misuse.fix        # in words
misuse.wrong_code, misuse.right_code          # in code: `lesson.source(misuse.wrong_code)`
damage(misuse, lm, "The capital of France is")  # in numbers, text and an attention map
"""

from kvlab.doctor.gallery import (
    callers,
    capacity,
    gradients,
    masks,
    offset_by_one,
    padding,
    positions_restart,
    ring,
    rotation,
    rounding,
    rows,
    stored_length,
    train_mode,
    whole_sequence,
)
from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.damage import Damage, damage

GALLERY: dict[str, Misuse] = {
    misuse.name: misuse
    for misuse in (
        positions_restart.MISUSE,
        whole_sequence.APPENDED,
        whole_sequence.FLAGGED,
        offset_by_one.MISUSE,
        stored_length.MISUSE,
        masks.NEW_ONLY,
        masks.TOP_LEFT,
        masks.NO_MASK,
        masks.OWN_ENTRY,
        padding.WITHOUT_MASK,
        padding.WITHOUT_POSITIONS,
        callers.ANOTHER_PROMPT,
        callers.COVERS_PROMPT,
        callers.NOT_RESET,
        callers.SHARED_PREFIX,
        capacity.OVERFLOW,
        capacity.BECOMES_WINDOW,
        ring.MISUSE,
        train_mode.DROPOUT,
        train_mode.LAYER_DROPOUT,
        rows.MISUSE,
        gradients.MISUSE,
        rotation.MISUSE,
        rounding.MISUSE,
    )
}

__all__ = ["GALLERY", "Damage", "Misuse", "damage"]
