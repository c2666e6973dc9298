"""The translator's tokenizer: one id for every number word, and a start token for each target language."""

from __future__ import annotations

from collections.abc import Sequence

from kvlab.translation.languages import LANGUAGES, LARGEST, Language

END = "<end>"


class TranslationError(ValueError):
    """A text or a language that the translator was not trained on; the message names what it knows."""


class Words:
    """Texts to ids and back, for the languages that one translator knows.

    Raises:
        TranslationError: a language that kvlab has no words of, or fewer than two.
    """

    def __init__(self, codes: Sequence[str]):
        unknown = [code for code in codes if code not in LANGUAGES]
        if unknown or len(set(codes)) < 2:
            raise TranslationError(
                f"choose two or more of {_all(LANGUAGES)}, not {', '.join(map(repr, codes)) or 'none'}."
            )
        self.languages: dict[str, Language] = {code: LANGUAGES[code] for code in dict.fromkeys(codes)}
        known = {word for language in self.languages.values() for word in language.words}
        self.words = (END, *(f"<{code}>" for code in self.languages), *sorted(known))
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @property
    def end(self) -> int:
        return self.ids[END]

    def start(self, to: str) -> int:
        """The id that asks the decoder for language `to`.

        Raises:
            TranslationError: it was not trained on that language.
        """
        if to not in self.languages:
            raise TranslationError(f"the translator does not know {to!r}; it knows {_all(self.languages)}.")
        return self.ids[f"<{to}>"]

    def encode(self, text: str, to: str | None = None) -> list[int]:
        """The ids of a number in words, in any language but `to`; hyphens and commas may be left out.

        Raises:
            TranslationError: not a number that was trained on, or one of language `to` only.
        """
        return [self.ids[word] for word in self.source(text, to)]

    def source(self, text: str, to: str | None = None) -> list[str]:
        """The words of `text`, refused as in `encode`."""
        found = self.reads_as(text)
        if not found:
            raise TranslationError(self._why_not(text))
        if to is not None and list(found) == [to]:
            raise TranslationError(f"{text!r} is {self.languages[to].name} already; choose another `to`.")
        return found[next(code for code in found if code != to)]

    def reads_as(self, text: str) -> dict[str, list[str]]:
        """The words of `text` in each language in which it is a number from 0 to `LARGEST`."""
        split = {code: language.split(text) for code, language in self.languages.items()}
        return {code: w for code, w in split.items() if self.languages[code].number.fullmatch(" ".join(w))}

    def _why_not(self, text: str) -> str:
        languages = self.languages.values()
        likely = max(languages, key=lambda one: sum(word in one.words for word in one.split(text)))
        strange = [word for word in likely.split(text) if word not in likely.words]
        what = f"{strange[0]!r} is no word of" if strange else f"{text!r} is no number for"
        return (
            f"{what} the translator; it knows the numbers from 0 to {LARGEST:,} in words of "
            f"{_all(self.languages)}, written as in {likely.example!r}."
        )

    def decode(self, ids: Sequence[int], language: str) -> str:
        """The text that `ids` spell in `language`, up to the first end token."""
        ids = list(ids)
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        return self.languages[language].join([self.words[i] for i in ids])


def _all(languages: dict[str, Language]) -> str:
    return ", ".join(f"{code!r} ({language.name})" for code, language in languages.items())
