"""Registration of an op with the torch dispatcher: its definition, Triton launchers, fake kernels, vmap rules and gradients.

`Op` is an op without gradients, `DifferentiableOp` one with first derivatives. What an op accepts is in its schema (`_schemas.py`):

- an argument ``grad_mask``, always the last one: bit i is set where the gradient of tensor argument i is asked for. A forward op that
  has it may save less; a backward op returns an empty tensor, or anything, for the other gradients;
- optional numbers (``float?``), which are infinite here where there is none. Exported programs cannot store infinity, so compiled
  calls pass None instead;
- optional gradient arguments (``Tensor? g``) of a backward op: None where no gradient came (``allow_none_grads``), else zeros.

NumPy functions of the data side are registered by `_backend.register_host`.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as functorch_is_active
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import has_torch_function

from .. import _backend, _cuda
from .._library import LIB, NAMESPACE, NOT_LOADED, has_kernel, op
from ._autocast import without_autocast

Kernel = Callable[..., Any]
VmapRule = Callable[..., Any]  # of (info, dims, *args)
R = TypeVar("R")  # what a call returns


def fold_rows(kernel: OpOverload, *, shared: Sequence[str] = ()) -> VmapRule:
    """vmap rule of an op whose tensors have the rows in front: V batches of B rows are V * B rows.

    shared: names of tensors without rows, which every batch has to have in common. Row-keyed noise without ids is that of rows
    0, ..., B - 1 in every batch.
    """
    names = argument_names(kernel)
    keep = [names.index(name) for name in shared]

    def rule(info: Any, dims: Sequence[Any], *args: Any) -> Any:
        V = info.batch_size
        ts = [a if i in keep or not isinstance(a, Tensor) else batch_first(a, dims[i], V) for i, a in enumerate(args)]
        B = ts[0].shape[1]
        if "random" in names and args[names.index("random")] and args[names.index("row_ids")] is None:
            ts[names.index("row_ids")] = torch.arange(B, device=ts[0].device).expand(V, B)
        out = kernel(*(t if i in keep or not isinstance(t, Tensor) else t.flatten(0, 1) for i, t in enumerate(ts)))
        return unfold_rows(out, V, B)

    return rule


def unfold_rows(out: Any, V: int, B: int) -> Any:
    """[V * B, ...] -> [V, B, ...]; an empty tensor stands for a gradient that was not asked for, or that there is none of."""
    if isinstance(out, Tensor):
        return out.unflatten(0, (V, B)), 0
    return tuple(t.unflatten(0, (V, B)) if t.shape[0] == V * B else t.expand(V, *t.shape) for t in out), (0,) * len(out)


def loop_batches(kernel: OpOverload) -> VmapRule:
    """vmap rule of any op: one call per batch."""

    def select(a: Any, dim: Any, v: int) -> Any:
        if isinstance(a, list | tuple):
            return [select(x, d, v) for x, d in zip(a, dim, strict=True)] if dim is not None else a
        return a.select(dim, v) if dim is not None else a

    def rule(info: Any, dims: Sequence[Any], *args: Any) -> Any:
        calls = [kernel(*(select(a, d, v) for a, d in zip(args, dims, strict=True))) for v in range(info.batch_size)]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])

    return rule


def batch_first(t: Tensor, dim: int | None, V: int) -> Tensor:
    return t.movedim(dim, 0) if dim is not None else t.expand(V, *t.shape)


def argument_names(kernel: OpOverload) -> list[str]:
    return [a.name for a in kernel._schema.arguments]


def optional_numbers(kernel: OpOverload) -> list[int]:
    """Where the arguments ``float?`` are."""
    return [i for i, a in enumerate(kernel._schema.arguments) if str(a.type) == "Optional[float]"]


def is_backward(kernel: OpOverload) -> bool:
    return kernel._schema.name.endswith("_backward")


def empty_if(asked: int, t: Tensor) -> Tensor:
    """For fakes of backward ops: the shape of a gradient like t, empty where it is not asked for."""
    return t.new_empty(t.shape if asked else 0)


def grad_mask_of(*tensors: Any) -> int:
    """The grad_mask of a forward call."""
    if functorch_is_active():  # requires_grad speaks of one level only
        return (1 << len(tensors)) - 1
    if not torch.is_grad_enabled():
        return 0
    mask = 0
    for i, t in enumerate(tensors):
        if t is not None and t.requires_grad:
            mask |= 1 << i
    return mask


class Op(Generic[R]):
    """An op without gradients. reference and fake are functions of the schema's arguments; fake takes those it names, by name.

    ``ordkernels._triton.<module>`` holds the launcher, a function of the kernel's name, and so does ``ordkernels._cuda.<name>`` where
    there are CUDA C++ kernels. A module that cannot run every call also holds ``unavailable_reasons(*args)``, and for the backward op
    ``backward_unavailable_reasons(*args)``: such a call raises where that backend is forced, else runs on the other, or the reference.

    Args:
        name: of the public function; serves: of the dispatcher op, triton: of the module, where they have other names.
        cuda: are there CUDA C++ kernels?
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Kernel,
        fake: Kernel,
        vmap: Callable[[OpOverload], VmapRule] = loop_batches,
        serves: str = "",
        triton: str = "",
        cuda: bool = False,
    ) -> None:
        self.name, self.kernel_name = name, serves or name
        self.reference = without_autocast(reference)
        self.info = _backend.register(_backend.OpInfo(name, triton=triton or self.kernel_name, cuda=cuda, alias_of=serves or None))
        self.launchers: dict[tuple[str, str], tuple[Kernel, Kernel]] = {}
        self.op = op(self.kernel_name)
        self.optional_numbers = optional_numbers(self.op)
        self.native = has_kernel(self.kernel_name, "CPU")
        self._define(self.op, self.reference, self._launch, fake, vmap)

    def __call__(self, *args: Any) -> R:
        out: R = self._call_otherwise(args) if is_compiling() or _backend.OPEN_CONTEXTS else self.op(*args)
        return out

    def _call_otherwise(self, args: tuple[Any, ...]) -> Any:
        forced = _backend.check_forced(self.info)
        if forced == "reference":
            return self.reference(*args)
        if forced is not None:
            _backend.check_device(self.info, forced, args[0])
        if forced not in ("triton", "cuda"):
            return self.op(*self.storable(args) if is_compiling() else args)
        if is_compiling() and forced == "cuda":
            self._check_choice(forced, args)
            return self.op(*self.storable(args))
        return self.forced_kernel(forced)(*args)

    def has_kernel(self, t: Tensor) -> bool:
        """Whether a kernel would run a call on the tensor's device: modules ask, whose own layers are faster than the reference."""
        forced = _backend.forced_backend()
        if forced is not None:
            return forced != "reference" and not self.info.block_reasons[forced]
        return self.native if t.device.type == "cpu" else t.is_cuda and _backend.has_triton_module(self.info.triton)

    def storable(self, args: tuple[Any, ...]) -> list[Any]:
        """The arguments of a compiled call: None for infinite optional numbers."""
        return [None if i in self.optional_numbers and a == math.inf else a for i, a in enumerate(args)]

    def _launcher(self, backend: str, suffix: str = "") -> tuple[Kernel, Kernel]:
        """(launcher, reasons against a call) of the op, or with the suffix "_backward" of its backward op; imported at the first call."""
        found = self.launchers.get((backend, suffix))
        if found is None:
            module = importlib.import_module(f"ordkernels._{backend}.{self.info.triton if backend == 'triton' else self.kernel_name}")
            check: Kernel = getattr(module, f"{suffix[1:]}_unavailable_reasons" if suffix else "unavailable_reasons", _no_reasons)
            found = self.launchers[backend, suffix] = without_autocast(getattr(module, self.kernel_name + suffix)), check
        return found

    def forced_kernel(self, backend: str, suffix: str = "") -> Kernel:
        """The launcher without the dispatcher, which would resolve lazy views: a kernel reads the memory of a tensor."""
        kernel, check = self._launcher(backend, suffix)

        def run(*args: Any) -> Any:
            args = tuple(map(_resolve_lazy_views, args))
            if reasons := check(*args):
                raise _backend.backend_error(self.info, backend, reasons)
            return kernel(*args)

        return run

    def _choice(self, args: tuple[Any, ...], suffix: str = "") -> str:
        """What runs a call on CUDA tensors where no backend is forced: of CUDA C++ and Triton the one that is expected to be faster."""
        has_cuda = self.info.cuda and "ordkernels._cuda" not in NOT_LOADED and not self._launcher("cuda", suffix)[1](*args)
        if has_cuda and _cuda.prefers(self.kernel_name + suffix):
            return "cuda"
        triton = _backend.has_triton() and _backend.has_triton_module(self.info.triton)
        if triton and not self._launcher("triton", suffix)[1](*args):
            return "triton"
        return "cuda" if has_cuda else "reference"

    def _check_choice(self, forced: str, args: tuple[Any, ...]) -> None:
        """Compiled code and torch.func go through the dispatcher, whose key CUDA makes its own choice."""
        if _backend.emulating():
            raise _backend.backend_error(self.info, forced, ["its emulation serves plain calls, not torch.compile or torch.func"])
        if (choice := self._choice(args)) != forced:
            raise _backend.backend_error(self.info, forced, [f"in compiled code and torch.func {choice} runs this call"])

    def _launch(self, *args: Any) -> Any:
        """The CUDA key."""
        choice = self._choice(args)
        return self.reference(*args) if choice == "reference" else self._launcher(choice)[0](*args)

    @staticmethod
    def _define(kernel: OpOverload, reference: Kernel, launch: Kernel, fake: Kernel, vmap: Callable[[OpOverload], VmapRule]) -> None:
        name, arguments = kernel._schema.name.split("::")[1], argument_names(kernel)
        taken = fake.__code__
        named = set(arguments if taken.co_flags & 8 else taken.co_varnames[: taken.co_argcount + taken.co_kwonlyargcount])

        def fake_by_name(*args: Any) -> Any:
            return fake(**{name: a for name, a in zip(arguments, args, strict=False) if name in named})

        LIB.impl(name, _with_infinities(kernel, reference), "CompositeExplicitAutograd")
        LIB.impl(name, _with_infinities(kernel, launch), "CUDA")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake_by_name, lib=LIB)
        torch.library.register_vmap(kernel, vmap(kernel), lib=LIB)


def register_alias(name: str, serves: str) -> None:
    """A public function without a kernel of its own: another op's serves it."""
    _backend.register(_backend.OpInfo(name, triton=serves, alias_of=serves))


class DifferentiableOp(Op[R]):
    """An op of tensors (some may be None), then constants, that has a backward op. Four ways through autograd:

    1. eager: a plain `autograd.Function` over the op without autograd rule (half the cost of the others);
    2. compile, export, FX and tensor subclasses: the op itself, with `register_autograd`;
    3. `torch.func`: a `setup_context` Function with a generated vmap rule, since registered autograd is not supported there;
    4. `torch.func` inside `torch.compile`: the reference (Dynamo would differentiate through the Function's body).

    Forward mode and second derivatives raise. On a forced backend the Function holds that backend's forward and backward kernels.

    Args:
        tensors: how many arguments, from the first, are tensors.
        public: how many outputs, from the first, a call returns; the others are for the backward op.
        saved: of (inputs, outputs), the tensors that the backward op takes before the gradients of the public outputs.
        finalize_grads: of (saved, gradients, constants, grad_mask): turns what the backward op returns into gradients of the tensors,
            in plain torch.
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
        vmap: Callable[[OpOverload], VmapRule] = fold_rows,
        vmap_backward: Callable[[OpOverload], VmapRule] | None = None,
        finalize_grads: Callable[..., tuple[Any, ...]] | None = None,
        cuda: bool = False,
    ) -> None:
        super().__init__(name, reference=reference, fake=fake, vmap=vmap, cuda=cuda)
        self.reference_backward = without_autocast(reference_backward)
        self.tensors, self.public, self.saved, self.finalize_grads = tensors, public, saved, finalize_grads
        self.op_without_autograd = op(f"_{name}")
        self.op_backward, self.op_backward_without_autograd = op(f"{name}_backward"), op(f"_{name}_backward")
        self._define(self.op_without_autograd, self.reference, self._launch, fake, vmap)
        for kernel in (self.op_backward, self.op_backward_without_autograd):
            self._define(kernel, self.reference_backward, self._launch_backward, fake_backward, vmap_backward or vmap)
        self.single = len(self.op._schema.returns) == 1
        self.all_public = public == len(self.op._schema.returns)
        backward = self.op_backward._schema.arguments
        self.forward_takes_mask = argument_names(self.op)[-1] == "grad_mask"
        self.backward_takes_mask = backward[-1].name == "grad_mask"
        consts = len(self.op._schema.arguments) - tensors + (self.backward_takes_mask and not self.forward_takes_mask)
        grads = backward[len(backward) - consts - public : len(backward) - consts]
        self.allow_none_grads = all(isinstance(a.type, torch.OptionalType) for a in grads)
        self.kernels = self.op_without_autograd, self.op_backward_without_autograd
        self._register_autograd()
        self.eager, self.functional = _eager_function(self), _functional_function(self)

    def __call__(self, *args: Any) -> R:
        tensors = args[: self.tensors]
        if self.forward_takes_mask:
            args = (*args, grad_mask_of(*tensors))
        if (
            is_compiling()
            or _backend.OPEN_CONTEXTS
            or functorch_is_active()
            or forward_ad._current_level >= 0
            or has_torch_function(tensors)
        ):
            out = self._call_otherwise(args)
        elif torch.is_grad_enabled() and _any_requires_grad(tensors):
            out = self.eager.apply(self.kernels, *args)
        else:
            out = self.op_without_autograd(*args)
        public: R = out if self.all_public else out[0] if self.public == 1 else out[: self.public]
        return public

    def _call_otherwise(self, args: tuple[Any, ...]) -> Any:
        forced = _backend.check_forced(self.info)
        if forced == "reference":  # plain torch, differentiable any number of times
            return self.reference(*args)
        if forced is not None:
            _backend.check_device(self.info, forced, args[0])
        through_dispatcher = (
            functorch_is_active() or forward_ad._current_level >= 0 or is_compiling() or has_torch_function(args[: self.tensors])
        )
        if forced == "cuda" and through_dispatcher:
            self._check_choice(forced, args)
        if functorch_is_active() or forward_ad._current_level >= 0:
            if is_compiling():
                return self.reference(*args)
            return self.functional.apply(*args)  # forward mode raises here; the op alone would drop the tangent silently
        if is_compiling():
            return self.op(*self.storable(args))
        if has_torch_function(args[: self.tensors]):
            return self.op(*args)
        kernels: tuple[Kernel, Kernel] = self.kernels
        if forced in ("triton", "cuda"):
            kernels = self.forced_kernel(forced), self.forced_kernel(forced, "_backward")
        if torch.is_grad_enabled() and _any_requires_grad(args[: self.tensors]):
            return self.eager.apply(kernels, *args)
        return kernels[0](*args)

    def _launch_backward(self, *args: Any) -> Any:
        choice = self._choice(args, "_backward")
        return self.reference_backward(*args) if choice == "reference" else self._launcher(choice, "_backward")[0](*args)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*self.saved(inputs, (output,) if self.single else output))
        ctx.consts = inputs[self.tensors :]
        if self.allow_none_grads:
            ctx.set_materialize_grads(False)

    def gradients(self, kernel: Kernel, ctx: Any, grads: tuple[Any, ...], first: int = 0) -> tuple[Any, ...]:
        """One per argument of the Function, whose arguments from `first` on are the op's."""
        saved, consts = ctx.saved_tensors, ctx.consts
        before = (None,) * first
        if not self.backward_takes_mask:
            return (*before, *kernel(*saved, *grads, *consts), *(None,) * len(consts))
        asked, mask = ctx.needs_input_grad[first : first + self.tensors], 0
        for i, asks in enumerate(asked):
            mask |= asks << i
        constants = consts[:-1] if self.forward_takes_mask else consts
        out = kernel(*saved, *grads, *constants, mask)
        if self.finalize_grads is not None:
            out = self.finalize_grads(saved, out, consts, mask)
        elif isinstance(out, Tensor):
            out = (out,)
        found = [g if asks else None for g, asks in zip(out, asked, strict=False)]  # in the order of the op's first tensors
        return (*before, *found, *(None,) * (self.tensors + len(consts) - len(found)))

    def raise_double(self, ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"{self.name}: differentiated twice; its kernels have first derivatives only. "
            "For higher ones: with ordkernels.use_backend('reference')."
        )

    def _register_autograd(self) -> None:
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            return self.gradients(self.op_backward, ctx, grads[: self.public])

        torch.library.register_autograd(f"{NAMESPACE}::{self.name}", backward, setup_context=self.save, lib=LIB)
        # Without this one, second derivatives would be wrong after no more than a warning.
        torch.library.register_autograd(f"{NAMESPACE}::{self.name}_backward", self.raise_double, lib=LIB)


def _with_infinities(kernel: OpOverload, run: Kernel) -> Kernel:
    """``run``, of optional numbers that are infinite where there is none."""
    places = optional_numbers(kernel)

    def call(*args: Any) -> Any:
        numbers = list(args)
        for i in places:
            if numbers[i] is None:
                numbers[i] = math.inf
        return run(*numbers)

    return call if places else run


def _no_reasons(*_: Any) -> list[str]:
    return []


def _resolve_lazy_views(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.resolve_conj().resolve_neg()
    return [t.resolve_conj().resolve_neg() for t in argument] if isinstance(argument, list | tuple) else argument


def _any_requires_grad(tensors: tuple[Any, ...]) -> bool:
    for t in tensors:  # noqa: SIM110, any() takes twice as long
        if t is not None and t.requires_grad:
            return True
    return False


def _eager_function(op: DifferentiableOp[Any]) -> Any:
    """The autograd.Function of eager mode. Its first argument is the pair of kernels, forward and backward, to run."""

    class Marked(torch.autograd.Function):
        """Gradients that raise when they are differentiated again, whatever in the graph they came from."""

        @staticmethod
        def forward(ctx: Any, count: int, *tensors: Tensor) -> Any:
            return tuple(t.view_as(t) for t in tensors[:count])

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return op.raise_double(ctx)

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, kernels: tuple[Kernel, Kernel], *args: Any) -> Any:
            out = kernels[0](*args)
            op.save(ctx, args, out)
            ctx.kernel = kernels[1]
            return out if op.all_public else out[: op.public]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            if not torch.is_grad_enabled():
                return op.gradients(ctx.kernel, ctx, grads, first=1)
            # create_graph. Not `once_differentiable`: it takes the part through the saved tensors as zero, silently.
            with torch.no_grad():
                out = op.gradients(ctx.kernel, ctx, grads, first=1)
            roots = [t for t in (*ctx.saved_tensors, *grads) if t is not None and t.requires_grad]
            found = [t for t in out if t is not None]
            mark: Kernel = Marked.apply
            marked = iter(mark(len(found), *found, *roots))
            return tuple(None if t is None else next(marked) for t in out)

    Eager.__name__ = Eager.__qualname__ = op.name
    return Eager


def _functional_function(op: DifferentiableOp[Any]) -> Any:
    """The autograd.Function of torch.func."""

    class FunctionalBackward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return op.op_backward_without_autograd(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return op.raise_double(ctx)

    class Functional(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return op.op_without_autograd(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if not op.single:
                ctx.mark_non_differentiable(*output[op.public :])
            op.save(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            backward: Kernel = FunctionalBackward.apply
            return op.gradients(backward, ctx, grads[: op.public])

    Functional.__name__ = Functional.__qualname__ = op.name
    return Functional
