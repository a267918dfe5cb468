"""Argument checks of the public functions. Every message names the argument, what was expected and what came.

``numbers`` and ``arrays`` need no torch; ``tensors`` does.
"""
