"""The misuse gallery on the tiny model: what each misuse does, and that its fix undoes it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import kvlab
from kvlab.doctor.gallery import GALLERY, Damage, Misuse, damage, gradients, padding, ring, rounding
from kvlab.doctor.gallery.capacity import CAPACITY
from kvlab.doctor.gallery.elsewhere import seeded
from kvlab.doctor.gallery.scenes import decode, in_chunks, padded
from kvlab.doctor.gallery.stored_length import RECENT, SINKS
from kvlab.doctor.gallery.tape import PaddedStepper, Stepper
from kvlab.doctor.subject import Unable
from kvlab.model import Decoder

NEW = 12
# Largest |Δlogit| on the tiny model is at least this; measured: about twice as much.
FLOORS = {
    "positions-restart": 3.0,
    "whole-sequence-appended": 3.0,
    "whole-sequence-with-new-only-flag": 3.0,
    "offset-by-one": 2.5,
    "positions-from-stored-length": 3.0,
    "mask-new-tokens-only": 4.0,
    "mask-top-left": 4.0,
    "no-mask-in-chunk": 0.7,
    "own-entry-left-out": 1.2,
    "padding-without-mask": 2.0,
    "padding-without-positions": 3.0,
    "another-prompts-cache": 3.0,
    "cache-covers-prompt": 2.0,
    "static-not-reset": 3.0,
    "shared-prefix-in-place": 3.0,
    "static-overflow": 3.0,
    "capacity-becomes-window": 3.0,
    "crop-on-ring": 2.5,
    "dropout-on": 2.0,
    "layer-dropout": 4.0,
    "rows-permuted": 4.0,
    "mixed-rotation": 3.0,
}
HARMLESS = {"gradients-kept", "rounding"}  # the logits are right, or nearly


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(256, (1, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def found(tiny: Decoder, ids: Tensor) -> dict[str, Damage]:
    return {name: damage(misuse, tiny, ids, NEW) for name, misuse in GALLERY.items()}


def test_the_gallery_is_complete() -> None:
    assert set(GALLERY) == set(FLOORS) | HARMLESS
    assert len({id(misuse) for misuse in GALLERY.values()}) == len(GALLERY) == 24


def test_the_gallery_loads_no_other_library() -> None:
    code = "import sys; from kvlab.doctor.gallery import GALLERY; "
    code += "[misuse.elsewhere for misuse in GALLERY.values()]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"transformers", "x_transformers"} & set(loaded.split())


@pytest.mark.parametrize("misuse", GALLERY.values(), ids=lambda misuse: misuse.name)
def test_each_says_what_it_is(misuse: Misuse) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", misuse.name)
    for text in (misuse.symptom, misuse.why, misuse.fix):
        assert text.endswith(".") and len(text) < 330 and "  " not in text
    assert misuse.title and not misuse.title.endswith(".")
    assert misuse.wrong_code is not misuse.right_code


@pytest.mark.parametrize("name", FLOORS)
def test_the_damage_is_real_and_the_fix_undoes_it(found: dict[str, Damage], name: str) -> None:
    it = found[name]
    assert it.worst > FLOORS[name]
    assert float(it.kl.max()) > 0.02
    assert it.first_difference is not None
    assert it.wrong.tokens != it.right.tokens
    assert it.right_error is None or it.right_error < 1e-3
    assert len(it.error) == len(it.kl) == NEW == len(it.right.tokens)


def test_the_same_damage_every_time(found: dict[str, Damage], tiny: Decoder, ids: Tensor) -> None:
    """Dropout included; and nobody else's random numbers are used up."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for name in ("dropout-on", "layer-dropout"):
        again = damage(GALLERY[name], tiny, ids, NEW)
        assert torch.equal(again.error, found[name].error)
        assert again.wrong.tokens == found[name].wrong.tokens
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "prompt, new, says",
    [("cat", 3, "at least 4 tokens"), (torch.zeros(2, 8), 3, "one text"), ("a long prompt", 0, "at least 1")],
)
def test_what_cannot_be_run_is_refused(tiny: Decoder, prompt: str | Tensor, new: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        damage(GALLERY["offset-by-one"], tiny, prompt, new)


class TestPositions:
    def of(self, side, first: int = 1) -> list[int]:
        """Positions of the decoded tokens."""
        return [position for call in side.positions[first:] for position in call]

    def test_the_ladder_shows_where_tokens_were_put(self, found: dict[str, Damage]) -> None:
        true = list(range(24, 24 + NEW - 1))
        assert self.of(found["positions-restart"].right) == true
        assert self.of(found["positions-restart"].wrong) == [0] * len(true)
        assert self.of(found["offset-by-one"].wrong) == [p + 1 for p in true]
        assert self.of(found["whole-sequence-with-new-only-flag"].wrong) == [2 * p for p in true]
        assert self.of(found["positions-from-stored-length"].wrong) == [SINKS + RECENT] * len(true)
        assert self.of(found["positions-from-stored-length"].right) == true

    def test_a_whole_sequence_appended_grows_with_the_square(self, found: dict[str, Damage]) -> None:
        fed = [len(call) for call in found["whole-sequence-appended"].wrong.ids]
        assert fed == list(range(24, 24 + NEW))
        assert found["whole-sequence-appended"].wrong.maps[-1].shape[1] == sum(fed)

    def test_the_right_eviction_is_that_of_the_cache(self, tiny: Decoder, ids: Tensor) -> None:
        misuse = GALLERY["positions-from-stored-length"]
        cache = kvlab.Cache(tiny, eviction=kvlab.SinkRecent(SINKS, RECENT))
        said = [tiny(ids, cache)[0, -1]]
        for token in range(NEW - 1):
            said.append(tiny(torch.tensor([[token]]), cache)[0, -1])
        right = misuse.loop(tiny, ids, list(range(NEW)), right=True)
        assert (right - torch.stack(said)).abs().max() < 1e-3


class TestMasks:
    def test_the_maps_show_what_was_hidden(self, found: dict[str, Damage]) -> None:
        top_left = found["mask-top-left"].wrong.maps[-1]  # [1, slots]
        assert top_left[0, 0] == 1 and top_left[0, 1:].sum() == 0
        new_only = found["mask-new-tokens-only"].wrong.maps[-1]
        assert new_only[0, -1] == 1 and new_only[0, :-1].sum() == 0
        own = found["own-entry-left-out"]
        assert own.wrong.maps[-1][0, -1] == 0 < own.right.maps[-1][0, -1]

    def test_a_chunk_without_a_mask_sees_ahead(self, found: dict[str, Damage]) -> None:
        chunk, right = (
            side.maps[1] for side in (found["no-mask-in-chunk"].wrong, found["no-mask-in-chunk"].right)
        )
        assert chunk.shape == (12, 24)
        assert chunk[0, 13:].sum() > 0.01
        assert right[0, 13:].sum() == 0

    def test_one_token_at_a_time_needs_no_mask(self, tiny: Decoder, ids: Tensor) -> None:
        misuse = GALLERY["no-mask-in-chunk"]
        wrong = decode(misuse.wrong(tiny), ids, [7] * NEW)
        assert (wrong - decode(misuse.right(tiny), ids, [7] * NEW)).abs().max() < 1e-3


class TestPadding:
    def test_padding_is_attended_to_without_a_mask(self, found: dict[str, Damage]) -> None:
        it = found["padding-without-mask"]
        assert it.wrong.maps[-1][0, :8].sum() > 0.001
        assert it.right.maps[-1][0, :8].sum() == 0

    def test_rotary_positions_forgive_what_learned_ones_do_not(self, tiny: Decoder, ids: Tensor) -> None:
        given = [7] * NEW
        right = padded(PaddedStepper(tiny, padding.counted_by_token), ids, given)
        rotary = padded(PaddedStepper(tiny, padding.counted_by_column), ids, given)
        assert (rotary - right).abs().max() < 1e-3
        learned = GALLERY["padding-without-positions"]
        moved = learned.loop(tiny, ids, given) - learned.loop(tiny, ids, given, right=True)
        assert moved.abs().max() > 3

    def test_a_step_that_knows_no_padding_says_so(self, tiny: Decoder, ids: Tensor) -> None:
        mask = torch.ones_like(ids, dtype=torch.bool)
        step = GALLERY["offset-by-one"].right(tiny)
        step.step(ids, None, mask)
        mask[0, 0] = False
        with pytest.raises(Unable, match="padding"):
            step.step(ids, None, mask)


class TestStores:
    @pytest.mark.parametrize("name", ["static-overflow", "capacity-becomes-window"])
    def test_exact_up_to_the_capacity(self, tiny: Decoder, ids: Tensor, name: str) -> None:
        it = damage(GALLERY[name], tiny, ids[:, :10], 14)
        fits = CAPACITY - 10 + 1  # the prompt's own logits, and those of each token that still fits
        assert it.error[:fits].max() < 1e-3
        assert it.error[fits:].max() > 3

    def test_a_ring_is_exact_until_tokens_are_taken_back(self, tiny: Decoder, ids: Tensor) -> None:
        misuse = GALLERY["crop-on-ring"]
        for scene in (decode, in_chunks):
            assert (scene(misuse.wrong(tiny), ids, 9) - scene(misuse.right(tiny), ids, 9)).abs().max() < 1e-3
        assert ids.shape[1] > ring.WINDOW

    def test_a_window_hides_what_lies_before_it(self, tiny: Decoder, ids: Tensor) -> None:
        step = GALLERY["crop-on-ring"].right(tiny)
        layers = tiny.config.num_hidden_layers
        reach = layers * (ring.WINDOW - 1) + 1  # one window further down with each layer
        long = ids.repeat(1, 3)[:, : ring.SINKS + 2 + reach]
        changed = long.clone()
        changed[0, ring.SINKS : ring.SINKS + 2] += 1
        assert torch.equal(step.full(long)[0, -1], step.full(changed)[0, -1])
        changed[0, -reach] += 1
        assert not torch.equal(step.full(long)[0, -1], step.full(changed)[0, -1])


class TestCallers:
    @pytest.mark.parametrize("name", ["another-prompts-cache", "static-not-reset", "shared-prefix-in-place"])
    def test_the_first_text_is_right(self, tiny: Decoder, ids: Tensor, name: str) -> None:
        given = [7] * 5
        program, truth = GALLERY[name].wrong(tiny), tiny(torch.cat([ids, torch.tensor([given[:-1]])], 1))
        assert (program(ids, given) - truth[0, 23:]).abs().max() < 1e-3

    def test_every_text_is_right_where_it_is_mended(self, tiny: Decoder, ids: Tensor) -> None:
        given = [7] * 5
        for misuse in GALLERY.values():
            if misuse.who == "caller":
                program = misuse.right(tiny)
                for text in (ids, ids.flip(1), ids, ids[:, :9]):
                    truth = tiny(torch.cat([text, torch.tensor([given[:-1]])], 1))[0, text.shape[1] - 1 :]
                    assert (program(text, given) - truth).abs().max() < 1e-3

    def test_gradients_keep_the_whole_computation(self, tiny: Decoder, ids: Tensor) -> None:
        misuse = GALLERY["gradients-kept"]
        wrong, right = misuse.wrong(tiny), misuse.right(tiny)
        assert wrong(ids, 4).requires_grad and not right(ids, 4).requires_grad
        assert torch.equal(wrong(ids, 4), right(ids, 4))
        cache = kvlab.Cache(tiny)
        tiny(ids.repeat(1, 2), cache)
        assert gradients.bytes_kept(wrong, ids, 24) > 10 * cache.nbytes
        assert gradients.bytes_kept(right, ids, 24) == 0
        assert not any(weight.requires_grad for weight in tiny.parameters())


class TestTrainMode:
    @pytest.mark.parametrize("name", ["dropout-on", "layer-dropout"])
    def test_the_switch_decides(self, tiny: Decoder, ids: Tensor, name: str) -> None:
        given = [7] * 6
        left, right = GALLERY[name].wrong(tiny), GALLERY[name].right(tiny)
        truth = decode(right, ids, given)
        with seeded():
            first, second = decode(left, ids, given), decode(left, ids, given)
            assert (first - second).abs().max() > 0.5  # two equal runs differ
            left.train(False)
            assert (decode(left, ids, given) - truth).abs().max() < 1e-3
            right.train(True)
            assert (decode(right, ids, given) - truth).abs().max() > 0.5

    def test_skipped_layers_hold_fewer_tokens(self, tiny: Decoder, ids: Tensor) -> None:
        with seeded():
            _, cache = GALLERY["layer-dropout"].wrong(tiny).step(ids)
            for token in range(6):
                _, cache = GALLERY["layer-dropout"].wrong(tiny).step(torch.tensor([[token]]), cache)
        held = {0 if layer.keys is None else layer.keys.shape[2] for layer in cache.layers}
        assert len(held) > 1


class TestRounding:
    def test_the_twin_of_a_rounding_step_keeps_the_rounded_weights(self, tiny: Decoder, ids: Tensor) -> None:
        """Else the twin would be another model, and its distance would say nothing of the arithmetic."""
        half = GALLERY["rounding"].wrong(tiny)
        twin = half.to(torch.float64)
        pairs = list(zip(half.lm.parameters(), twin.lm.parameters(), strict=True))
        assert {(a.dtype, b.dtype) for a, b in pairs} == {(torch.bfloat16, torch.float64)}
        assert all(torch.equal(a.double(), b) for a, b in pairs)
        first, state = twin.step(ids[:, :5])
        second, _ = twin.step(ids[:, 5:], state)
        assert float((torch.cat([first, second], dim=1) - twin.full(ids)).abs().max()) < 1e-10

    def test_rounding_shrinks_with_the_precision_and_a_bug_does_not(self, tiny: Decoder, ids: Tensor) -> None:
        errors = rounding.cache_against_recompute(tiny, ids, (torch.bfloat16, torch.float32, torch.float64))
        assert errors["bfloat16"] > 1e-2 > 1e-4 > errors["float32"] > 1e-8 > errors["float64"]
        bug = GALLERY["offset-by-one"]
        given = [7] * 8
        precise = decode(bug.wrong(tiny).to(torch.float64), ids, given)
        assert precise.dtype == torch.float64
        assert (precise - decode(bug.right(tiny).to(torch.float64), ids, given)).abs().max() > 2
        mended = GALLERY["rounding"].wrong(tiny).to(torch.float64)
        truth = mended.full(torch.cat([ids, torch.tensor([given[:-1]])], dim=1))[0, 23:]
        assert (decode(mended, ids, given) - truth).abs().max() < 1e-9

    def test_the_false_alarm(self, found: dict[str, Damage]) -> None:
        assert 0.01 < found["rounding"].worst < 0.5
        assert found["rounding"].right_error < 1e-9


class TestSubjects:
    """What the doctor asks of a subject works on every mended step."""

    steps = [misuse for misuse in GALLERY.values() if misuse.who == "step" and misuse.exact]

    @pytest.mark.parametrize("misuse", steps, ids=lambda misuse: misuse.name)
    def test_crop_fork_reorder_and_reset(self, tiny: Decoder, ids: Tensor, misuse: Misuse) -> None:
        subject = misuse.right(tiny)
        full = subject.full(ids)
        close = 1e-3

        _, state = subject.step(ids[:, :20])
        twin = subject.fork(state)
        subject.step(ids[:, :5], twin)
        logits, state = subject.step(ids[:, 20:], state)
        assert (logits - full[:, 20:]).abs().max() < close

        state = subject.crop(state, 10)
        assert (subject.step(ids[:, 10:], state)[0] - full[:, 10:]).abs().max() < close

        _, state = subject.step(torch.cat([ids.flip(1), ids])[:, :20])
        state = subject.reorder(state, [1, 0])
        row = torch.cat([ids, ids.flip(1)])[:, 20:]
        assert (subject.step(row, state)[0][0] - full[0, 20:]).abs().max() < close
        assert (subject.step(ids, subject.reset(state))[0] - full).abs().max() < close

    def test_full_is_the_decoder_without_a_cache(self, tiny: Decoder, ids: Tensor) -> None:
        assert torch.equal(Stepper(tiny, padding.unmasked).full(ids), tiny(ids))
