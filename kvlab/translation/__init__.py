"""Number words between languages: a real translation task, small enough to train and ship a model for it."""

from kvlab.translation.languages import LANGUAGES, LARGEST, Language
from kvlab.translation.words import TranslationError, Words

__all__ = ["LANGUAGES", "LARGEST", "Language", "TranslationError", "Words"]
