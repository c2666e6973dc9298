"""The misuses that the doctor can name, and what it advises."""

from __future__ import annotations

FIXES: dict[str, str] = {
    "positions-restart": "Give new tokens the positions after those in the cache, not 0, 1, … again.",
    "whole-sequence-appended": "Pass only the tokens that the cache does not hold yet.",
    "whole-sequence-with-new-only-flag": "With the flag, pass the new tokens only; or pass all, without it.",
    "offset-by-one": "The first new token's position is the number of tokens seen before it.",
    "positions-from-stored-length": "Count the tokens seen, without padding, evicted ones included: not "
    "the entries stored.",
    "mask-new-tokens-only": "The mask must cover past and new tokens: [batch, past + new].",
    "mask-top-left": "Align the causal mask bottom-right, so that the last query sees every slot: "
    "tril(slots - queries).",
    "no-mask-in-chunk": "Several new tokens need a causal mask among themselves, also behind a cache.",
    "padding-without-mask": "Pass the padding mask with every call, over the whole cache.",
    "padding-without-positions": "Count positions over real tokens: (mask.cumsum(-1) - 1).clamp(min=0).",
    "another-prompts-cache": "Use a cache only for a prompt that begins with exactly its tokens.",
    "cache-covers-prompt": "Pass only what comes after the cached tokens; for the last one's logits, "
    "crop by one and pass that token.",
    "static-not-reset": "Call reset() before the next text, and let it empty counters, masks and slots.",
    "static-overflow": "Refuse tokens that do not fit before any layer writes, or allocate more.",
    "capacity-becomes-window": "Allocate room for prompt and new tokens; when full, refuse instead of "
    "dropping the oldest.",
    "shared-prefix-in-place": "Copy on fork: two texts must not write into the same storage.",
    "crop-on-ring": "A ring cannot go back behind what it overwrote: refuse, keep more, or compute again.",
    "own-entry-left-out": "Write the new token's key and value first, then attend, so that it sees itself.",
    "dropout-on": "Call model.eval().",
    "layer-dropout": "Call model.eval(): in train mode whole layers are left out by chance.",
    "rows-permuted": "Reorder the cache as the texts: row i goes on with what row rows[i] was.",
    "gradients-kept": "Generate under torch.no_grad() or torch.inference_mode().",
    "mixed-rotation": "Rotate each key once: cache rotated keys, or plain ones and rotate all on reading.",
    "rounding": "Nothing to mend: compare in float64, and judge a low precision by its own noise.",
}

# What only a look into a cache can find (`check(lm, cache, ids=…)`).
CONTENTS: dict[str, str] = {
    "entry-missing": "Pass each token once, in order, and free none that a later token may still see.",
}

# Seen from outside, without a model to recompute with, these differ in numbers only: attention reads all the
# right entries, each of them matters, and the result is still wrong.
WRONG_DISTANCE = (
    "positions-restart",
    "offset-by-one",
    "positions-from-stored-length",
    "mixed-rotation",
    "own-entry-left-out",
)

# The same, where the first single step is right and the second is not, however long the prompt: a key that
# was stored wrongly is read by later steps only, and a store as large as the prompt counts wrongly from then.
FROM_THE_SECOND_STEP = ("positions-from-stored-length", "mixed-rotation")

# The same, where a text is right up to some length, whatever the calls.
OUT_OF_SIGHT = ("capacity-becomes-window", "positions-from-stored-length")
WHEN_FULL = (*OUT_OF_SIGHT, "static-overflow")

# A state that is never cleared: the new text goes on behind the old, whether its memory was allocated once
# (and lacks a reset) or grew (and is another prompt's). Only a look at the store can tell.
UNCLEARED = ("static-not-reset", "another-prompts-cache")

# Classes whose members no outside probe can tell apart, and when.
CLASSES = {
    UNCLEARED: "always, where the store cannot be looked at",
    WRONG_DISTANCE: "without a model to recompute with",
    FROM_THE_SECOND_STEP: "without a model, where the first single step is right",
    WHEN_FULL: "without a model, where a text is right up to some length",
    OUT_OF_SIGHT: "without a model, where old tokens go out of sight",
}


def fix_of(names: tuple[str, ...]) -> str:
    """The advice for a name, or for each member of a class."""
    advice = FIXES | CONTENTS
    known = [name for name in names if name in advice]
    if len(known) == 1:
        return advice[known[0]]
    if not known:
        return "Compare step and full recompute layer by layer, from the first wrong token on."
    return " ".join(f"{name}: {advice[name]}" for name in known)
