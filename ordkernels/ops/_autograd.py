"""One op, four ways through autograd, built from its forward, backward and fake functions.

1. eager: a plain `autograd.Function` over the op's twin (half the cost of the others);
2. compile, export, FX and tensor subclasses: the op itself, with `register_autograd`;
3. `torch.func`: a `setup_context` Function with a generated vmap rule, which registered autograd is refused by;
4. `torch.func` inside `torch.compile`: the reference (Dynamo would differentiate through the Function's body).

Forward mode and second derivatives raise. On a forced backend the Function holds that backend's pair of kernels.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as functorch_is_active
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import has_torch_function

from .. import _backend
from .._library import LIB, NAMESPACE, op

Kernel = Callable[..., Any]


def fold_rows(kernel: Kernel) -> Kernel:
    """vmap rule of an op whose tensors all have the rows in front: one call on V * B rows."""

    def rule(info: Any, dims: Sequence[int | None], *args: Any) -> Any:
        V = info.batch_size
        folded = [_front(a, d, V).flatten(0, 1) if isinstance(a, Tensor) else a for a, d in zip(args, dims, strict=True)]
        out = kernel(*folded)
        if isinstance(out, Tensor):
            return out.unflatten(0, (V, -1)), 0
        return tuple(t.unflatten(0, (V, -1)) for t in out), (0,) * len(out)

    return rule


def _front(t: Tensor, dim: int | None, V: int) -> Tensor:
    return t.movedim(dim, 0) if dim is not None else t.expand(V, *t.shape)


def _any_requires_grad(tensors: tuple[Any, ...]) -> bool:
    for t in tensors:  # noqa: SIM110, any() takes twice as long
        if t is not None and t.requires_grad:
            return True
    return False


class DifferentiableOp:
    """`name` of the schema; functions of the schema's arguments: tensors first (some may be None), then constants.

    saved(inputs, outputs) gives the tensors that the backward op takes before the gradients of the `public` first outputs.
    lazy: the backward op also gets, last, a mask of the tensors whose gradients are wanted (bit i = tensor i), and None for
    gradients that did not come; what it returns for the others is dropped. finish(saved, gradients, constants, mask) turns what
    the backward op returns into gradients of the tensors, in plain torch.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: int,
        public: int,
        reference: Kernel,
        reference_backward: Kernel,
        fake: Kernel,
        fake_backward: Kernel,
        saved: Callable[[tuple[Any, ...], tuple[Tensor, ...]], tuple[Tensor, ...]],
        vmap: Callable[[Kernel], Kernel] = fold_rows,
        vmap_backward: Callable[[Kernel], Kernel] | None = None,
        lazy: bool = False,
        finish: Callable[..., tuple[Any, ...]] | None = None,
        triton: str | None = None,
        cuda: bool = False,
    ) -> None:
        self.name, self.tensors, self.public, self.saved = name, tensors, public, saved
        self.lazy, self.finish = lazy, finish
        self.reference = reference
        self.info = _backend.register(_backend.OpInfo(name, triton=triton, cuda=cuda))
        self.op, self.raw = op(name), op(f"_{name}")
        self.single = len(self.op._schema.returns) == 1
        self.all_public = public == len(self.op._schema.returns)
        self.op_backward, self.raw_backward = op(f"{name}_backward"), op(f"_{name}_backward")
        for prefix in ("", "_"):
            for suffix, plain, shape in (("", reference, fake), ("_backward", reference_backward, fake_backward)):
                LIB.impl(prefix + name + suffix, plain, "CompositeExplicitAutograd")
                if triton is not None:
                    LIB.impl(prefix + name + suffix, self._on_cuda(suffix), "CUDA")
                torch.library.register_fake(f"{NAMESPACE}::{prefix}{name}{suffix}", shape, lib=LIB)
        for kernel, rule in (
            (self.op, vmap),
            (self.raw, vmap),
            (self.op_backward, vmap_backward or vmap),
            (self.raw_backward, vmap_backward or vmap),
        ):
            torch.library.register_vmap(kernel, rule(kernel), lib=LIB)
        self.pair = self.raw, self.raw_backward
        self._register_autograd()
        self.eager, self.functional = self._eager_function(), self._functional_function()

    def __call__(self, *args: Any) -> Any:
        tensors = args[: self.tensors]
        if (
            is_compiling()
            or _backend.OPEN_CONTEXTS
            or functorch_is_active()
            or forward_ad._current_level >= 0
            or has_torch_function(tensors)
        ):
            out = self._otherwise(args)
        elif torch.is_grad_enabled() and _any_requires_grad(tensors):
            out = self.eager.apply(self.pair, *args)
        else:
            out = self.raw(*args)
        if self.all_public:
            return out
        return out[0] if self.public == 1 else out[: self.public]

    def _otherwise(self, args: tuple[Any, ...]) -> Any:
        forced = _backend.check_forced(self.info)
        if forced == "reference":  # plain torch, differentiable any number of times
            return self.reference(*args)
        if forced is not None:
            _backend.check_device(self.info, forced, args[0])
        if functorch_is_active() or forward_ad._current_level >= 0:
            if is_compiling():
                return self.reference(*args)
            return self.functional.apply(*args)  # forward mode raises here; the op alone would drop the tangent without a word
        if is_compiling() or has_torch_function(args[: self.tensors]):
            return self.op(*args)
        pair = self.triton_kernels() if forced == "triton" else self.pair
        if torch.is_grad_enabled() and _any_requires_grad(args[: self.tensors]):
            return self.eager.apply(pair, *args)
        return pair[0](*args)

    def triton_kernels(self) -> tuple[Kernel, Kernel]:
        module = importlib.import_module(f"ordkernels._triton.{self.info.triton}")
        return getattr(module, self.name), getattr(module, f"{self.name}_backward")

    def _on_cuda(self, suffix: str) -> Kernel:
        """The CUDA key: Triton, imported at the first call."""

        def launch(*args: Any) -> Any:
            return self.triton_kernels()[suffix == "_backward"](*args)

        return launch

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*self.saved(inputs, (output,) if self.single else output))
        ctx.consts = inputs[self.tensors :]
        if self.lazy:
            ctx.set_materialize_grads(False)

    def _gradients(self, kernel: Kernel, ctx: Any, grads: tuple[Any, ...], first: int = 0) -> tuple[Any, ...]:
        """One per argument of the Function; its arguments from `first` on are the op's."""
        saved, consts = ctx.saved_tensors, ctx.consts
        ahead = (None,) * first
        if not self.lazy:
            return (*ahead, *kernel(*saved, *grads, *consts), *(None,) * len(consts))
        wanted, mask = ctx.needs_input_grad[first : first + self.tensors], 0
        for i, want in enumerate(wanted):
            mask |= want << i
        out = kernel(*saved, *grads, *consts, mask)
        if self.finish is not None:
            out = self.finish(saved, out, consts, mask)
        elif isinstance(out, Tensor):
            out = (out,)
        kept = [g if want else None for g, want in zip(out, wanted, strict=False)]  # in the order of the op's first tensors
        return (*ahead, *kept, *(None,) * (self.tensors + len(consts) - len(kept)))

    def _no_double(self, ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"{self.name}: differentiated twice; its kernels have first derivatives only. "
            "For higher ones: with ordkernels.use_backend('reference')."
        )

    def _register_autograd(self) -> None:
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            return self._gradients(self.op_backward, ctx, grads[: self.public])

        torch.library.register_autograd(f"{NAMESPACE}::{self.name}", backward, setup_context=self._save, lib=LIB)
        # Without this one, second derivatives would be wrong after no more than a warning.
        torch.library.register_autograd(f"{NAMESPACE}::{self.name}_backward", self._no_double, lib=LIB)

    def _eager_function(self) -> Any:
        this = self

        class Marked(torch.autograd.Function):
            """Gradients that raise when they are differentiated again, whatever in the graph they came from."""

            @staticmethod
            def forward(ctx: Any, count: int, *tensors: Tensor) -> Any:
                return tuple(t.view_as(t) for t in tensors[:count])

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return this._no_double(ctx)

        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, pair: tuple[Kernel, Kernel], *args: Any) -> Any:
                out = pair[0](*args)
                this._save(ctx, args, out)
                ctx.kernel = pair[1]
                return out if this.all_public else out[: this.public]

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                if not torch.is_grad_enabled():
                    return this._gradients(ctx.kernel, ctx, grads, first=1)
                # create_graph. Not `once_differentiable`: it lets the share of the saved tensors pass as zero, without a word.
                with torch.no_grad():
                    out = this._gradients(ctx.kernel, ctx, grads, first=1)
                roots = [t for t in (*ctx.saved_tensors, *grads) if t is not None and t.requires_grad]
                got = [t for t in out if t is not None]
                marked = iter(Marked.apply(len(got), *got, *roots))
                return tuple(None if t is None else next(marked) for t in out)

        Eager.__name__ = Eager.__qualname__ = this.name
        return Eager

    def _functional_function(self) -> Any:
        this = self

        class FunctionalBackward(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*args: Any) -> Any:
                return this.raw_backward(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return this._no_double(ctx)

        class Functional(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*args: Any) -> Any:
                return this.raw(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                if not this.single:
                    ctx.mark_non_differentiable(*output[this.public :])
                this._save(ctx, inputs, output)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                return this._gradients(FunctionalBackward.apply, ctx, grads[: this.public])

        Functional.__name__ = Functional.__qualname__ = this.name
        return Functional
