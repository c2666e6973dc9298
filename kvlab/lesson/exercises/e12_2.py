"""12.2: honest bytes of a stream of keys that are quantized channel by channel."""

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("12.2", "Honest bytes", function="stored_bytes", stub="""
def stored_bytes(tokens, channels, bits, group, residual, sink):
    # keys of one head, by channel: blocks of `group` tokens, each with
    #   one fp16 scale and one fp16 minimum a channel
    # exact in float32: the first `sink` tokens, the newest `residual`,
    #   and what does not fill a block
    # return the bytes of everything that reading back needs
    ...
""", hint="Count tokens first: sinks, then whole blocks of what may be sealed, then the rest.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    group, residual, sink = draw.one_of([8, 16, 32]), draw.one_of([8, 20, 32]), draw.one_of([3, 4])
    tokens = sink + residual + group * draw.integer(2, 5) + draw.integer(1, group - 1)
    return tokens, draw.one_of([32, 64]), draw.one_of([2, 3, 4]), group, residual, sink


def count(
    residual_exact=True,
    sink_exact=True,
    partial="exact",
    scales=2,
    exact=4,
    share="channels",
    code=None,
    unit=1,
):
    """Right, but for what is given otherwise."""

    def stored_bytes(tokens, channels, bits, group, residual, sink):
        sink = sink if sink_exact else 0
        free = tokens - sink - (residual if residual_exact else 0)
        blocks = -(-free // group) if partial == "padded" else free // group
        rest = tokens - sink - (free if partial == "sealed" else min(free, blocks * group))
        sealed = free if partial == "sealed" else blocks * group
        codes = sealed * channels * (code or bits) / 8
        groups = {"channels": blocks * channels, "tokens": sealed, "blocks": blocks}[share]
        kept = sink + (residual if partial == "lost" else rest)
        return unit * (codes + 2 * scales * groups + exact * channels * kept)

    return stored_bytes


@EXERCISE.alternative
def alternative(tokens, channels, bits, group, residual, sink):
    block = channels * (group * bits // 8 + 4)
    total, left = sink * channels * 4, tokens - sink
    while left - group >= residual:
        total, left = total + block, left - group
    return total + left * channels * 4


def wrong(message, **how):
    EXERCISE.mistake(message)(count(**how))


wrong("Codes only: without the scales and minima nobody can read them back.", scales=0)
wrong("You count bits: eight of them are a byte.", unit=8)
wrong("fp16 is 2 bytes: a scale and a minimum are 4 together.", scales=4)
wrong("You count scales but no minima: each group has both, 2 bytes each.", scales=1)
wrong("The newest `residual` tokens are exact: 4 bytes a number.", residual_exact=False)
wrong("The first `sink` tokens are exact, too.", sink_exact=False)
wrong("A block is sealed when it is full: tokens that do not fill one stay exact.", partial="sealed")
wrong("What does not fill a block is left out: it stays exact.", partial="lost")
wrong("You left the exact tokens out: they take 4 bytes a number.", exact=0)
wrong("You pad the last block: what does not fill one stays exact instead.", partial="padded")
wrong("The exact entries are float32 in this model: 4 bytes a number, not 2.", exact=2)
wrong("One scale a token: by channel it is one for each channel of each block.", share="tokens")
wrong("One scale a block: by channel each block has one for each of its channels.", share="blocks")
wrong("A whole byte for each code: packed, codes of `bits` bits take bits/8 bytes.", code=8)
