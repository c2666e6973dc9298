"""07.1: the bytes of a cache, from the shape of a model."""

import math

from kvlab.lesson.exercise import Draw, Exercise
from kvlab.model import Config

EXERCISE = Exercise(
    "07.1",
    "What a cache costs",
    function="cache_bytes",
    stub="""
def cache_bytes(config, tokens, batch, bits):
    # config: .num_hidden_layers, .hidden_size, .head_dim,
    #   .num_attention_heads, .num_key_value_heads, ...
    # bits: of one number. Return the bytes of keys and values.
    ...
""",
    rtol=1e-9,
    hint="Which tensors does one layer keep, and of which shape? How many layers are there?",
)


@EXERCISE.inputs
def inputs(draw: Draw):
    kv_heads, head_dim = draw.integer(2, 4), draw.one_of([16, 32, 64])
    heads = kv_heads * draw.integer(3, 5)  # never twice: that would make up for a 2 left out
    config = Config(
        name="fresh",
        vocab_size=1000,
        hidden_size=heads * head_dim + 16,  # as in Gemma, not heads · head_dim
        intermediate_size=512,
        num_hidden_layers=draw.integer(3, 9),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
    )
    return config, draw.integer(100, 999), draw.integer(2, 9), draw.one_of([4, 8, 16, 32])


@EXERCISE.alternative
def alternative(config, tokens, batch, bits):
    shape = (batch, config.num_key_value_heads, tokens, config.head_dim)
    streams = 2 * config.num_hidden_layers
    return sum(math.prod(shape) * bits / 8 for _stream in range(streams))


def formula(config, tokens, batch, bits, streams=2, layers=True, heads="num_key_value_heads", over=8):
    numbers = streams * tokens * batch * getattr(config, heads) * config.head_dim
    return numbers * (config.num_hidden_layers if layers else 1) * bits / over


def wrong(message, change=lambda *given: given, **how):
    EXERCISE.mistake(message)(lambda *given: formula(*change(*given), **how))


wrong("You counted query heads: keys and values exist for the KV heads only.", heads="num_attention_heads")
wrong("You counted the keys without the values (or the values alone): a token leaves both.", streams=1)
wrong("Two things: only the KV heads have keys and values, and a token leaves both of them.",
      streams=1, heads="num_attention_heads")  # fmt: skip
wrong("That is one layer: every layer keeps its own keys and values.", layers=False)
wrong("You took bits for bytes: 8 bits are a byte.", over=1)
wrong("These are numbers of 8 bits in 1: divide the bits by 8, and only once.", over=64)
wrong("`bits // 8` makes 4 bits 0 bytes: multiply first.", lambda c, t, b, bits: (c, t, b, bits // 8 * 8))
wrong("The batch is missing: every sequence has a cache of its own.", lambda c, t, _, bits: (c, t, 1, bits))
wrong("The tokens are missing: that is what one token costs.", lambda c, _, b, bits: (c, 1, b, bits))


@EXERCISE.mistake(
    "hidden_size is the width of a token's row, not of its keys: those are kv_heads · head_dim."
)
def hidden(config, tokens, batch, bits):
    return 2 * config.num_hidden_layers * config.hidden_size * tokens * batch * bits / 8
