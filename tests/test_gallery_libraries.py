"""The gallery's misuses on transformers and x-transformers, on the versions in the lock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvlab.doctor.gallery import GALLERY, Misuse
from kvlab.doctor.gallery import in_transformers as hf
from kvlab.doctor.gallery import in_transformers_caches as caches
from kvlab.doctor.gallery import in_x_transformers as xt
from kvlab.doctor.gallery.elsewhere import Elsewhere
from kvlab.model import Decoder

# Largest |Δlogit| is at least this; measured: about twice as much. The models are small and random, with
# logits of standard deviation 1.6.
FLOORS = {
    ("positions-restart", "transformers"): 4.0,
    ("positions-restart", "x-transformers"): 2.0,
    ("whole-sequence-appended", "transformers"): 3.0,
    ("whole-sequence-with-new-only-flag", "x-transformers"): 0.8,
    ("offset-by-one", "transformers"): 2.5,
    ("positions-from-stored-length", "transformers"): 4.0,
    ("mask-new-tokens-only", "transformers"): 4.0,
    ("padding-without-mask", "transformers"): 1.2,
    ("padding-without-mask", "x-transformers"): 1.8,
    ("padding-without-positions", "transformers"): 2.0,
    ("another-prompts-cache", "transformers"): 3.5,
    ("cache-covers-prompt", "transformers"): 0.5,
    ("cache-covers-prompt", "x-transformers"): 0.15,
    ("static-not-reset", "transformers"): 3.5,
    ("shared-prefix-in-place", "transformers"): 3.0,
    ("capacity-becomes-window", "transformers"): 1.6,
    ("dropout-on", "transformers"): 2.5,
    ("dropout-on", "x-transformers"): 1.5,
    ("layer-dropout", "x-transformers"): 3.5,
    ("rows-permuted", "transformers"): 3.5,
    ("rounding", "transformers"): 0.05,
}
REFUSED = {
    ("static-overflow", "transformers"): "IndexError",
    ("crop-on-ring", "transformers"): "RuntimeError: `crop`",
}
CASES = [(misuse, library) for misuse in GALLERY.values() for library in misuse.elsewhere]


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(256, (1, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("misuse, library", CASES, ids=[f"{m.name}-{library}" for m, library in CASES])
def test_each_case(misuse: Misuse, library: str) -> None:
    case, found = misuse.elsewhere[library], misuse.elsewhere[library].compare()
    assert case.lossy == (found.right_error is None)
    assert case.lossy or found.right_error < 1e-4
    if (misuse.name, library) in REFUSED:
        assert found.error is None and found.raised.startswith(REFUSED[misuse.name, library])
    elif misuse.name == "gradients-kept":
        assert found.error < 1e-4
    else:
        assert found.error > FLOORS[misuse.name, library] and found.raised is None


def test_every_case_is_tried() -> None:
    assert {(misuse.name, library) for misuse, library in CASES} == {
        *FLOORS,
        *REFUSED,
        ("gradients-kept", "transformers"),
    }


class TestContracts:
    """x-transformers: who slices the input?"""

    EXACT = {
        "rotary": {"whole sequence", "last token only, flagged", "whole sequence, flagged"},
        "learned": {"whole sequence", "last token only, flagged"},
        "T5 bias": set(xt.WAYS),
        "none": set(xt.WAYS),
    }

    @pytest.mark.parametrize("positions", EXACT)
    def test_only_positions_break(self, positions: xt.Positions) -> None:
        errors = xt.contracts(positions)
        assert {way for way, error in errors.items() if error < 1e-4} == self.EXACT[positions]
        assert all(error < 1e-4 or error > 0.8 for error in errors.values())

    def test_two_tokens_need_their_age(self) -> None:
        """By default the wrapper keeps one token of those that are new, and says nothing."""
        found = Elsewhere(xt.two_tokens(1), xt.two_tokens(2), xt.random).compare()
        assert found.error > 0.6 and found.right_error < 1e-4

    def test_train_mode_alone_is_harmless(self) -> None:
        assert Elsewhere(xt.left_training, xt.WAYS["whole sequence"], xt.random).compare().error < 1e-4

    def test_a_cached_sequence_fed_again_is_refused_with_rotary_positions(self) -> None:
        found = Elsewhere(xt.fed_again, xt.fed_once, xt.random).compare()
        assert found.error is None and found.raised.startswith("RuntimeError")


class TestTransformers:
    def test_twin_is_the_same_model(self, tiny: Decoder, ids: Tensor) -> None:
        with torch.no_grad():
            assert (hf.twin(tiny)(ids).logits - tiny(ids)).abs().max() < 1e-4
        assert not any(weight.requires_grad for weight in tiny.parameters())

    def test_a_short_mask_shows_the_first_key_alone(self, tiny: Decoder, ids: Tensor) -> None:
        """transformers fills it up with zeros on the right: our mask-top-left, to the last digit."""
        new = [7, 8, 9]
        with torch.no_grad():
            short = hf.mask_of_new(hf.twin(tiny), ids, new)
        assert (short - GALLERY["mask-top-left"].loop(tiny, ids, new)).abs().max() < 1e-4
        assert (short - GALLERY["mask-new-tokens-only"].loop(tiny, ids, new)).abs().max() > 1

    @pytest.mark.parametrize("name", ["positions-restart", "whole-sequence-appended", "offset-by-one"])
    def test_the_same_mistake_does_the_same_here_and_there(
        self, tiny: Decoder, ids: Tensor, name: str
    ) -> None:
        new = [7, 8, 9]
        with torch.no_grad():
            there = GALLERY[name].elsewhere["transformers"].wrong(hf.twin(tiny), ids, new)
        assert (there - GALLERY[name].loop(tiny, ids, new)).abs().max() < 1e-3

    def test_rotary_positions_forgive_padding(self) -> None:
        found = Elsewhere(caches.without_positions, caches.told_both, hf.tiny).compare()
        assert found.error < 1e-4

    @torch.no_grad()
    def test_an_overflow_counts_on_until_the_reset(self, ids: Tensor) -> None:
        model = hf.tiny()
        cache = caches.static(model, 24)
        model(ids, past_key_values=cache)
        for failed in (1, 2, 3):
            with pytest.raises(IndexError):
                model(ids[:, :1], past_key_values=cache)
            assert int(cache.get_seq_length()) == 24 + failed
        cache.reset()
        assert (model(ids, past_key_values=cache).logits - model(ids).logits).abs().max() < 1e-4

    @torch.no_grad()
    def test_what_forward_swallows(self, ids: Tensor) -> None:
        """A `cache_position` of no sense changes nothing; `use_cache=False` does not stop a given cache."""
        model = hf.tiny()
        cache = caches.filled(model, ids[:, :-1])
        said = model(ids[:, -1:], past_key_values=cache, cache_position=torch.tensor([777]), use_cache=False)
        assert (said.logits[0, -1] - model(ids).logits[0, -1]).abs().max() < 1e-4
        assert cache.get_seq_length() == 24

    @torch.no_grad()
    def test_generate_wants_all_ids_or_a_mask_for_all(self, ids: Tensor) -> None:
        model = hf.tiny()
        truth = model(ids).logits[0, -1]
        mask = torch.ones_like(ids)

        def error(start: int, **told: Tensor) -> float:
            out = model.generate(
                ids[:, start:], past_key_values=caches.filled(model, ids[:, :start]), max_new_tokens=1,
                do_sample=False, output_logits=True, return_dict_in_generate=True, **told,
            )  # fmt: skip
            return float((out.logits[0] - truth).abs().max())

        assert error(20, attention_mask=mask) < 1e-4
        with pytest.raises(RuntimeError, match="reshape"):
            error(20)  # the cache is longer than what is passed
        assert error(4) > 0.5  # and where it is shorter, nothing is said

    @torch.no_grad()
    def test_gradients_stay_in_the_cache(self, ids: Tensor) -> None:
        model = hf.sliding()
        with torch.enable_grad():
            assert caches.filled(model, ids).layers[0].keys.requires_grad
        assert not caches.filled(model, ids).layers[0].keys.requires_grad


def test_torch_aligns_is_causal_top_left() -> None:
    q, k, v = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(out, v[:, :, :1])
