"""Fusion of a long-term interest with sessions: a denoiser that takes them in turn, and the filters that make its guidance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation import tensors as _checks
from .._validation.numbers import positive_sizes
from ..ops._weights import SessionWeights
from ..ops.mlp import mlp
from ._mlp import MLP, kernel_serves
from .denoisers import MLPDenoiser

__all__ = ["SessionDenoiser", "SessionFilters", "pad_sessions"]


class SessionDenoiser(nn.Module):
    r"""Estimates of x0 under the guidance of K sessions, taken in turn: each pass starts from the output of the one before.

    .. math:: x^{(0)} = x_t, \quad x^{(k)} = \mathrm{net}(x^{(k-1)}, t, g_k), \quad f(x_t, t, g) = x^{(K)}

    ``net`` is one ``MLPDenoiser``, the same for every pass and branch. A masked session is skipped, whatever it holds, NaN included,
    so f is x_t where a row has no session. The empty guidance is a learned vector in place of every g; all K passes are run.
    ``parallel=True`` (an ablation) gives every session x_t itself and averages their outputs.

    Parameters and ``state_dict`` keys: ``empty`` ``[C]``, then those of ``network``, an ``MLPDenoiser``.

    Args:
        width: D of x.
        cond_width: C of the guidance; None: D.
        hidden: of the network.
        time_width: of the network.
        dropout: of the network.
        parallel: every session acts on x_t itself, as above.

    Shapes: ``x [B, D]``, ``t`` a number, ``[]`` or ``[B]``; ``g [B, K, C]`` and ``mask [B, K]`` bool (None: all are present), or ragged,
    ``g [N, C]`` with ``offsets [B + 1]`` int64: row b has the sessions ``offsets[b] .. offsets[b + 1]``; ``empty [B]`` bool: these rows
    take the empty guidance -> ``[B, D]``.

    Raises:
        TypeError, ValueError: naming the argument.

    Source: iFusion, multi-session autoregressive reverse network.

    Example:
        >>> import torch
        >>> model = SessionDenoiser(64)
        >>> model(torch.randn(5, 64), 50, torch.randn(5, 4, 64), torch.rand(5, 4) < 0.7).shape
        torch.Size([5, 64])
        >>> un, cp, tf = model.branches(torch.randn(5, 64), 50, torch.randn(5, 4, 64), torch.randn(5, 4, 64))
    """

    def __init__(
        self,
        width: int,
        cond_width: int | None = None,
        hidden: int = 256,
        time_width: int = 64,
        *,
        dropout: float = 0.0,
        parallel: bool = False,
    ) -> None:
        super().__init__()
        cond_width = width if cond_width is None else cond_width
        self.width, self.cond_width, self.parallel = width, cond_width, parallel
        self.network = MLPDenoiser(width, cond_width, hidden, time_width, dropout=dropout)
        self.empty = nn.Parameter(torch.zeros(cond_width))

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        g: Tensor,
        mask: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        empty: Tensor | None = None,
    ) -> Tensor:
        t = self._check(x, t)
        g, mask = self._sessions("g", g, mask, offsets, x)
        return self._run(x[None], t, [self._project("empty", g, empty)], mask)[0]

    def branches(
        self,
        x: Tensor,
        t: Tensor | float,
        g_cp: Tensor,
        g_tf: Tensor,
        mask: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        empty_cp: Tensor | None = None,
        empty_tf: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """f without guidance, under g_cp and under g_tf, each ``[B, D]``: one call of the network per pass, on 3 B rows.

        ``empty_cp`` and ``empty_tf`` ``[B]`` bool: rows whose guidance is dropped from that branch.
        """
        t = self._check(x, t)
        g_cp, present = self._sessions("g_cp", g_cp, mask, offsets, x)
        g_tf, _ = self._sessions("g_tf", g_tf, mask, offsets, x)
        if g_tf.shape != g_cp.shape:
            raise ValueError(f"g_tf: expected the shape of g_cp, {list(g_cp.shape)}, got {list(g_tf.shape)}")
        un = self.network.condition(self.empty).expand(*g_cp.shape[:2], -1)  # [B, K, H]
        shifts = [un, self._project("empty_cp", g_cp, empty_cp), self._project("empty_tf", g_tf, empty_tf)]
        f_un, f_cp, f_tf = self._run(x.expand(3, *x.shape), t, shifts, present).unbind()
        return f_un, f_cp, f_tf

    def weights(self) -> SessionWeights:
        """All weights, as ``ops.fusion_chain`` takes them. Raises ``ValueError`` where the sessions are taken in parallel."""
        if self.parallel:
            raise ValueError("denoiser: expected sessions in turn, got parallel=True, which runs step by step with guided_posterior_step")
        return SessionWeights(self.network.weights(), self.empty)

    def _run(self, x: Tensor, t: Tensor, shifts: list[Tensor], mask: Tensor | None) -> Tensor:
        """x [R, B, D], shifts R times [B, K, H]: what each session adds to the hidden layer -> [R, B, D]."""
        net, K = self.network, shifts[0].shape[1]
        if not self.parallel and kernel_serves(x, net.input, net.output):
            return self._run_by_kernel(x, t, shifts, mask)
        w, time = net.input.weight[:, : self.width], net.time_bias(t)  # [H, D], [H] or [B, H]
        if self.parallel:
            return self._in_parallel(x, F.linear(x, w) + time, torch.stack(shifts), mask)
        for k in range(K):
            h = F.silu(F.linear(x, w) + (torch.stack([s[:, k] for s in shifts]) + time))
            y = net.output(F.dropout(h, net.dropout, net.training))
            x = y if mask is None else torch.where(mask[:, k, None], y, x)
        return x

    def _run_by_kernel(self, x: Tensor, t: Tensor, shifts: list[Tensor], mask: Tensor | None) -> Tensor:
        """The same on the rows alone that have a session, where the mask can be read; shifts by index, none is copied per pass."""
        net, (R, B, D) = self.network, x.shape
        K, each = shifts[0].shape[1], torch.arange(B, device=x.device)
        shared = [s.stride()[:2] == (0, 0) for s in shifts]  # the empty guidance, the same for all rows
        cond = torch.cat([s[:1, :1].flatten(0, 1) if same else s.flatten(0, 1) for s, same in zip(shifts, shared, strict=True)])
        first, at = 0, []  # of each branch and row: the rows of cond, for all K sessions
        for same in shared:
            at.append(torch.full((B, K), first, device=x.device) if same else first + each[:, None] * K + torch.arange(K, device=x.device))
            first += 1 if same else B * K
        index, time = torch.cat(at), net.time_bias(t).view(-1, net.hidden)  # [R B, K], [1 or B, H]
        time_index, x = each.repeat(R) if len(time) > 1 else None, x.reshape(R * B, D)
        some = mask is not None and _checks.can_read_values(mask)
        for k in range(K):
            rows = mask[:, k].repeat(R).nonzero()[:, 0] if mask is not None and some else None
            here = slice(None) if rows is None else rows
            y = mlp(
                x[here], net.input.weight[:, :D], None, net.output.weight, net.output.bias, cond=cond, cond_index=index[here, k], time=time,
                time_index=None if time_index is None else time_index[here], dropout=net.dropout if net.training else 0.0,
            )  # fmt: skip
            if rows is not None:
                x = x.index_copy(0, rows, y)
            elif mask is not None:
                x = torch.where(mask[:, k].repeat(R)[:, None], y, x)
            else:
                x = y
        return x.view(R, B, D)

    def _in_parallel(self, x: Tensor, start: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        """start [R, B, H], shift [R, B, K, H]; the output layer is linear, so the hidden units are averaged."""
        net = self.network
        h = F.dropout(F.silu(start[:, :, None] + shift), net.dropout, net.training)
        if mask is None:
            return net.output(h.mean(2)) if h.shape[2] else x
        h = torch.where(mask[..., None], h, 0.0).sum(2) / mask.sum(1).clamp(min=1)[:, None]
        return torch.where(mask.any(1)[:, None], net.output(h), x)

    def _project(self, name: str, g: Tensor, empty: Tensor | None) -> Tensor:
        """What the guidance adds to the hidden layer, [B, K, H]."""
        if empty is not None:
            _boolean_of(name, empty, (g.shape[0],), "[B]")
            g = torch.where(empty[:, None, None], self.empty, g)
        shift: Tensor = self.network.condition(g)
        return shift

    def _check(self, x: Tensor, t: Tensor | float) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.width:
            raise ValueError(f"x: expected [B, D] with D = {self.width}, got {list(x.shape)}")
        if not isinstance(t, Tensor):
            return torch.full((), t, device=x.device)
        if t.dim() and t.shape != x.shape[:1]:
            raise ValueError(f"t: expected [] or [B] = [{x.shape[0]}], got {list(t.shape)}")
        return t

    def _sessions(self, name: str, g: Tensor, mask: Tensor | None, offsets: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, K, C] with masked entries set to zero (a zero times NaN would reach the weights' gradients), and the mask."""
        B, C = x.shape[0], self.cond_width
        if offsets is not None:
            if mask is not None:
                raise ValueError("mask: expected None with offsets, got both")
            g, mask = pad_sessions(g, offsets)
            if g.shape[0] != B or g.shape[2] != C:
                raise ValueError(
                    f"{name}: expected [N, C] with C = {C} and offsets [B + 1] = [{B + 1}], got C = {g.shape[2]} and {g.shape[0] + 1}"
                )
            return g, mask
        if g.dim() != 3 or g.shape[0] != B or g.shape[2] != C:
            raise ValueError(f"{name}: expected [B, K, C] with B, C = {B}, {C}, got {list(g.shape)}")
        if mask is None:
            return g, None
        _boolean_of("mask", mask, g.shape[:2], "[B, K]")
        return torch.where(mask[..., None], g, 0.0), mask

    def extra_repr(self) -> str:
        return f"width={self.width}, cond_width={self.cond_width}" + (", parallel=True" if self.parallel else "")


class SessionFilters(nn.Module):
    r"""Two readings of every session's encoded items: its core preference and its transient fluctuation.

    .. math:: g_{cp} = \mathrm{MLP}\Big(\frac1n \sum_i e_i\Big), \qquad g_{tf} = \mathrm{MLP}'\Big(\sum_i a_i e_i\Big), \quad
              a = \mathrm{softmax}_i\, v^\top \tanh(W e_i + b)

    The core one is strongly regularised (dropout). A session without items is pooled to zeros; items that are masked count for nothing,
    whatever they hold. ``state_dict`` keys: ``core.{0,3}``, ``transient.{0,3}``, ``score.{0,2}``.

    Args:
        width: D of an item.
        out_width: of the guidance; None: D.
        hidden: units of both MLPs; None: 2 D.
        core_dropout: of the core MLP's hidden units, in training alone.
        transient_dropout: of the transient MLP's.

    Shapes: ragged, ``items [N, D]`` with ``offsets [M + 1]`` int64 for M sessions -> two of ``[M, out_width]``; or padded,
    ``items [B, K, S, D]`` with ``mask [B, K, S]`` bool (None: all are present) -> two of ``[B, K, out_width]``.

    Raises:
        TypeError, ValueError: naming the argument.

    Source: iFusion, eq. 9 and 10. Deviation from the paper: the form of the attention.

    Example:
        >>> import torch
        >>> core, transient = SessionFilters(64)(torch.randn(9, 64), offsets=torch.tensor([0, 4, 4, 9]))
        >>> core.shape, transient.shape
        (torch.Size([3, 64]), torch.Size([3, 64]))
    """

    def __init__(
        self,
        width: int,
        out_width: int | None = None,
        hidden: int | None = None,
        *,
        core_dropout: float = 0.3,
        transient_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        out = width if out_width is None else out_width
        hidden = 2 * width if hidden is None else hidden
        positive_sizes(width=width, out_width=out, hidden=hidden)
        self.width = width
        self.core, self.transient = (MLP(width, hidden, out, p) for p in (core_dropout, transient_dropout))
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, items: Tensor, mask: Tensor | None = None, *, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if offsets is not None:
            if mask is not None:
                raise ValueError("mask: expected None with offsets, got both")
            if items.dim() != 2 or items.shape[1] != self.width:
                raise ValueError(f"items: expected [N, D] with D = {self.width}, got {list(items.shape)}")
            _checks.offsets("offsets", offsets, items.shape[0])
            mean, focus = self._pool_ragged(items, offsets)
        else:
            if items.dim() != 4 or items.shape[3] != self.width:
                raise ValueError(f"items: expected [B, K, S, D] with D = {self.width}, or [N, D] with offsets, got {list(items.shape)}")
            if mask is not None:
                _boolean_of("mask", mask, items.shape[:3], "[B, K, S]")
            mean, focus = self._pool_padded(items, mask)
        return self.core(mean), self.transient(focus)

    def _pool_ragged(self, items: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Both pools from one sum over each session's items: [N, D] -> two of [M, D]."""
        M, counts = offsets.shape[0] - 1, offsets.diff()
        session = torch.repeat_interleave(torch.arange(M, device=items.device), counts, output_size=items.shape[0])
        score = self.score(items)  # [N, 1]
        with torch.no_grad():  # any constant of the session will do; with the largest, exp cannot overflow
            top = score.new_full((M, 1), -torch.inf).scatter_reduce_(0, session[:, None], score, "amax")
        weight = torch.exp(score - top[session])
        rows = torch.cat((items, weight * items, weight), dim=1)
        total = rows.new_zeros(M, rows.shape[1]).index_add(0, session, rows)
        mean, focus, norm = total.split((self.width, self.width, 1), dim=1)
        return mean / counts.clamp(min=1)[:, None], focus / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    def _pool_padded(self, items: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """[B, K, S, D] -> two of [B, K, D]."""
        if items.shape[2] == 0:
            return (items.sum(2),) * 2
        if mask is None:
            return items.mean(2), (torch.softmax(self.score(items), dim=2) * items).sum(2)
        present = mask[..., None]
        items = torch.where(present, items, 0.0)
        counts = present.sum(2)  # [B, K, 1]
        score = self.score(items).masked_fill(~present & (counts > 0)[:, :, None], -torch.inf)
        return items.sum(2) / counts.clamp(min=1), (torch.softmax(score, dim=2) * items).sum(2)

    def extra_repr(self) -> str:
        return f"width={self.width}"


def pad_sessions(sessions: Tensor, offsets: Tensor, K: int | None = None) -> tuple[Tensor, Tensor]:
    """Ragged sessions ``[N, C]`` with ``offsets [B + 1]`` -> ``[B, K, C]``, padded with zeros, and the mask ``[B, K]``.

    Args:
        sessions: as above.
        offsets: int64; row b has the sessions ``offsets[b] .. offsets[b + 1]``.
        K: None: the largest number of sessions (which waits for the device).

    Raises:
        ValueError: on a CPU, a row with more than K sessions; on a GPU the first K remain.

    Example:
        >>> import torch
        >>> pad_sessions(torch.ones(3, 1), torch.tensor([0, 1, 1, 3]))[1].tolist()
        [[True, False], [False, False], [True, True]]
    """
    if sessions.dim() != 2:
        raise ValueError(f"sessions: expected [N, C], got {list(sessions.shape)}")
    N = sessions.shape[0]
    _checks.offsets("offsets", offsets, N)
    counts = offsets.diff()
    most = K if K is not None else int(counts.max()) if counts.numel() else 0
    if K is not None and counts.numel() and _checks.can_read_values(counts) and int(counts.max()) > K:
        raise ValueError(f"K: expected at least the largest number of sessions, {int(counts.max())}, got {K}")
    position = torch.arange(most, device=offsets.device)
    mask = position < counts[:, None]
    if N == 0:
        return sessions.new_zeros(*mask.shape, sessions.shape[1]), mask
    index = torch.where(mask, offsets[:-1, None] + position, 0)
    return torch.where(mask[..., None], sessions[index], 0.0), mask


def _boolean_of(name: str, t: Tensor, shape: tuple[int, ...], form: str) -> None:
    _checks.boolean(name, t)
    _checks.shape(name, t, shape, form)
