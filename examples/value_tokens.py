"""A number as a sequence of value tokens, as GR predicts it; NumPy alone.

python examples/value_tokens.py
"""

import numpy as np

from ordkernels.vocabulary import ValueVocabulary

seconds = np.random.default_rng(0).exponential(30, 10_000).round(3)
vocabulary = ValueVocabulary.fit(seconds, unit=0.001)  # works in milliseconds
tokens, lengths, residual = vocabulary.encode(seconds)  # [N, 19]: largest value first, then end and padding
decoded = vocabulary.decode(tokens)

print(f"{vocabulary.size} tokens, {lengths.mean():.1f} a number")
print(f"{seconds[0]:.3f} s -> {tokens[0, : lengths[0]].tolist()} -> {decoded[0]:.3f} s")
print(f"largest relative error {np.abs(decoded - seconds).max() / seconds.max():.1e}")
