"""Number words of three languages up to 99,999: how they are split, joined, and which sequences are numbers.

Every language is words in a row. German writes them together (zweiundvierzig); split into its words it shows
that two comes before forty.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 99_999


@dataclass(frozen=True)
class Language:
    """How one language spells the numbers from 0 to `LARGEST`."""

    code: str
    name: str
    example: str
    words: tuple[str, ...]
    number: re.Pattern[str]  # matches those numbers and nothing else, with one space between words
    between: Callable[[str, str], str]  # what is written between two words
    compound: bool = False  # words are written together

    def split(self, text: str) -> list[str]:
        """The words of a text; a part that is not a word of this language stays as it is."""
        words = re.sub(r"[-,\s]+", " ", text.lower()).split()
        return [part for word in words for part in (self._parts(word) if self.compound else [word])]

    def _parts(self, word: str) -> list[str]:
        longest_first = sorted(self.words, key=len, reverse=True)
        parts = re.findall("|".join(longest_first), word)
        return parts if "".join(parts) == word else [word]

    def join(self, words: list[str]) -> str:
        """The text of `words`."""
        text = "".join(words[:1])
        for before, word in zip(words, words[1:], strict=False):
            text += self.between(before, word) + word
        return text


def _one_of(*words: str) -> str:
    return "(?:" + "|".join(words) + ")"


def _english() -> Language:
    units = "one two three four five six seven eight nine".split()
    teens = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
    unit, ten = _one_of(*units), _one_of(*tens)
    small = _one_of(f"{ten}(?: {unit})?", *teens, *units)  # 1 to 99
    hundreds = f"{unit} hundred(?: and {small})?"
    number = f"zero|{hundreds}|{small}|{small} thousand(?: {hundreds}| and {small})?"

    def between(a: str, b: str) -> str:
        if a in tens and b in units:
            return "-"
        return ", " if a == "thousand" and b != "and" else " "

    words = ("zero", *units, *teens, *tens, "hundred", "thousand", "and")
    return Language("en", "English", "three hundred and forty-two", words, re.compile(number), between)


def _french() -> Language:
    units = "deux trois quatre cinq six sept huit neuf".split()
    teens = "dix onze douze treize quatorze quinze seize".split()
    tens = "vingt trente quarante cinquante".split()
    unit, teen = _one_of(*units), _one_of("dix (?:sept|huit|neuf)", *teens)  # 10 to 19
    to_sixty = _one_of(*tens, "soixante") + f"(?: et un| {unit})?"
    seventies = f"soixante (?:et onze|(?!onze){teen})"
    nineties = f"quatre vingt (?:un|{teen}|{unit})"
    from_two = _one_of(to_sixty, seventies, nineties, teen, unit)  # 2 to 99, without 80
    small = f"(?:un|quatre vingts|{from_two})"
    hundreds = f"(?:cent(?: {small})?|{unit} cent(?:s| {small}))"
    number = f"zéro|{hundreds}|{small}|(?:(?:{from_two}|quatre vingt) )?mille(?: {hundreds}| {small})?"

    def between(a: str, b: str) -> str:
        return " " if {a, b} & {"et", "cent", "cents", "mille"} else "-"

    words = ("zéro", "un", *units, *teens, *tens, "soixante", "vingts", "cent", "cents", "mille", "et")
    return Language("fr", "French", "trois cent quarante-deux", words, re.compile(number), between)


def _german() -> Language:
    units = "zwei drei vier fünf sechs sieben acht neun".split()
    teens = "zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn".split()
    tens = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
    unit = _one_of("ein", *units)
    tenner = f"(?:{unit} und )?" + _one_of(*tens)
    hundreds = f"{unit} hundert"
    small = _one_of("eins", tenner, *teens, *units)  # 1 to 99 at the end
    inner = _one_of("ein", tenner, *teens, *units)  # the same before tausend
    below = f"(?:{hundreds}(?: {small})?|{small})"
    number = f"null|{below}|{inner} tausend(?: {below})?"
    words = ("null", "ein", "eins", *units, *teens, *tens, "hundert", "tausend", "und")
    return Language(
        "de", "German", "dreihundertzweiundvierzig", words, re.compile(number), lambda a, b: "", compound=True
    )


LANGUAGES: dict[str, Language] = {one.code: one for one in (_english(), _french(), _german())}
