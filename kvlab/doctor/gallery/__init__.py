"""The misuse gallery: ways to use a KV cache wrong, each beside its fix, each with its damage measured.

misuse = GALLERY["offset-by-one"]
misuse.symptom, misuse.why, misuse.fix        # in words
misuse.wrong_code, misuse.right_code          # in code: `lesson.source(misuse.wrong_code)`
damage(misuse, lm, "The capital of France is")  # in numbers, text and an attention map
"""

from kvlab.doctor.gallery import masks, offset_by_one, positions_restart, whole_sequence
from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.damage import Damage, damage

GALLERY: dict[str, Misuse] = {
    misuse.name: misuse
    for misuse in (
        positions_restart.MISUSE,
        whole_sequence.APPENDED,
        offset_by_one.MISUSE,
        masks.TOP_LEFT,
    )
}

__all__ = ["GALLERY", "Damage", "Misuse", "damage"]
