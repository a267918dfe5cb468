"""Triton's interpreter, faster where it is slowest."""

from typing import Any

import numpy as np

__all__ = ["vectorize_xor"]


def vectorize_xor() -> None:
    """Let NumPy reduce by xor, which the interpreter does number by number in Python: most of the time of a sort."""
    from triton.language import standard
    from triton.runtime.interpreter import ReduceOps

    original = ReduceOps.apply_impl

    def apply_impl(self: Any, input: Any) -> Any:
        if self.combine_fn != standard._xor_combine:
            return original(self, input)
        data = np.bitwise_xor.reduce(input[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(data, input[0].dtype)

    ReduceOps.apply_impl = apply_impl
