"""Which misuse exists on which library, and what is particular about it there."""

from functools import partial

from kvlab.doctor.gallery import in_transformers as hf
from kvlab.doctor.gallery import in_transformers_caches as caches
from kvlab.doctor.gallery import in_x_transformers as xt
from kvlab.doctor.gallery.elsewhere import Elsewhere

TRANSFORMERS = {
    "positions-restart": Elsewhere(hf.restart, hf.new_only, hf.tiny),
    "whole-sequence-appended": Elsewhere(hf.whole, hf.new_only, hf.tiny, "`forward` never slices its input."),
    "offset-by-one": Elsewhere(hf.one_off, hf.new_only, hf.tiny),
    "positions-from-stored-length": Elsewhere(
        hf.evicted_by_length,
        hf.evicted_by_count,
        hf.tiny,
        "Without `position_ids` the position is the length of the cache, whatever was taken out of it.",
        lossy=True,
    ),
    "mask-new-tokens-only": Elsewhere(
        hf.mask_of_new,
        hf.mask_of_all,
        hf.tiny,
        "A mask that is too short is filled up with zeros on its right: the one query sees the first key and "
        "nothing else, exactly as under mask-top-left.",
    ),
    "padding-without-mask": Elsewhere(caches.unmasked, caches.told_both, hf.tiny),
    "padding-without-positions": Elsewhere(
        caches.without_positions,
        caches.told_both,
        hf.learned,
        "GPT-2's positions are learned. On a Llama the same omission does nothing.",
    ),
    "another-prompts-cache": Elsewhere(
        caches.of_another,
        caches.all_but_last,
        hf.tiny,
        "`generate` passes the ids behind the length of the cache and compares nothing.",
    ),
    "cache-covers-prompt": Elsewhere(
        caches.covering,
        caches.all_but_last,
        hf.tiny,
        "`generate` finds nothing left to pass, and passes the whole prompt once more.",
    ),
    "static-not-reset": Elsewhere(caches.not_reset, caches.reset, hf.tiny),
    "static-overflow": Elsewhere(
        caches.too_small,
        caches.large_enough,
        hf.tiny,
        "Refused, but late: the length has been counted on by then, and only `reset()` mends it.",
    ),
    "capacity-becomes-window": Elsewhere(
        caches.too_small,
        caches.large_enough,
        hf.sliding,
        "In a layer with a window, a capacity below it silently becomes the window.",
    ),
    "shared-prefix-in-place": Elsewhere(caches.shared, caches.copied, hf.tiny),
    "crop-on-ring": Elsewhere(
        caches.crop,
        caches.crop_recorded,
        partial(hf.sliding, 8),
        "Refused, unless the cache was told to keep what a crop may need.",
    ),
    "dropout-on": Elsewhere(hf.left_training, hf.new_only, hf.dropping),
    "rows-permuted": Elsewhere(caches.rows_moved, caches.cache_moved, hf.tiny),
    "gradients-kept": Elsewhere(hf.with_gradients, hf.new_only, hf.sliding, "The logits are right."),
    "rounding": Elsewhere(hf.in_bfloat16, hf.new_only, hf.tiny),
}

X_TRANSFORMERS = {
    "positions-restart": Elsewhere(
        xt.WAYS["last token only"],
        xt.WAYS["whole sequence"],
        xt.random,
        "By default the wrapper wants the whole sequence. Of the last token alone it makes one position, 0, "
        "and rotates all cached keys by it too: every token lies at the same place. With T5 bias, or no "
        "positions, the same loop is exact: the context was never lost.",
    ),
    "whole-sequence-with-new-only-flag": Elsewhere(
        xt.WAYS["whole sequence, flagged"],
        xt.WAYS["last token only, flagged"],
        partial(xt.random, "learned"),
        "With rotary positions the same loop is exact: keys are rotated anew, and only distances count.",
    ),
    "padding-without-mask": Elsewhere(xt.padded(told=False), xt.padded(told=True), xt.random),
    "cache-covers-prompt": Elsewhere(
        xt.fed_again,
        xt.fed_once,
        partial(xt.random, "learned"),
        "Silent with learned positions; with rotary ones the shapes do not fit and it raises.",
    ),
    "dropout-on": Elsewhere(
        xt.left_training,
        xt.WAYS["whole sequence"],
        partial(xt.random, attn_dropout=0.1, ff_dropout=0.1),
        "`train()` alone changes nothing where the model has no dropout.",
    ),
    "layer-dropout": Elsewhere(
        xt.left_training,
        xt.WAYS["whole sequence"],
        partial(xt.random, layer_dropout=0.3),
        "The caches are a list without names: after a skipped layer, the others take the wrong ones.",
    ),
}

ELSEWHERE: dict[str, dict[str, Elsewhere]] = {}
for library, cases in (("transformers", TRANSFORMERS), ("x-transformers", X_TRANSFORMERS)):
    for name, case in cases.items():
        ELSEWHERE.setdefault(name, {})[library] = case
