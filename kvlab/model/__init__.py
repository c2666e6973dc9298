"""The decoder that all lessons look into."""

from kvlab.model.config import Config, RopeScaling, TranslatorConfig
from kvlab.model.decoder import Decoder

__all__ = ["Config", "Decoder", "RopeScaling", "TranslatorConfig"]
