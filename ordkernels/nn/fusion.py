"""Fusion of a long-term interest with sessions: a denoiser that takes them in turn, and the filters that make its guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation import tensors as _checks
from .._validation.numbers import positive_sizes
from ..ops._weights import SessionWeights
from ..ops.mlp import mlp
from ._mlp import MLP, kernel_serves
from ._packing import in_whole_blocks
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
        return GuidedSessions(self, [g], mask)(x[None], t, [(0, self._dropped("empty", empty, x))])[0]

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
        dropped = self._dropped("empty_cp", empty_cp, x), self._dropped("empty_tf", empty_tf, x)
        guided = GuidedSessions(self, [g_cp, g_tf], present)
        f_un, f_cp, f_tf = guided(x.expand(3, *x.shape), t, [(None, None), (0, dropped[0]), (1, dropped[1])]).unbind()
        return f_un, f_cp, f_tf

    def conditioned(self, g_cp: Tensor, g_tf: Tensor, mask: Tensor | None, T: int) -> GuidedSessions:
        """The same for many calls under one guidance, at whole timesteps up to T: guidance and timesteps are projected once."""
        g_cp, present = self._sessions("g_cp", g_cp, mask, None, g_cp)
        g_tf, _ = self._sessions("g_tf", g_tf, mask, None, g_cp)
        return GuidedSessions(self, [g_cp, g_tf], present, T)

    def weights(self) -> SessionWeights:
        """All weights, as ``ops.fusion_chain`` takes them. Raises ``ValueError`` where the sessions are taken in parallel."""
        if self.parallel:
            raise ValueError("denoiser: expected sessions in turn, got parallel=True, which runs step by step with guided_posterior_step")
        return SessionWeights(self.network.weights(), self.empty)

    def _dropped(self, name: str, empty: Tensor | None, x: Tensor) -> Tensor | None:
        if empty is not None:
            _boolean_of(name, empty, x.shape[:1], "[B]")
        return empty

    def _check(self, x: Tensor, t: Tensor | float) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.width:
            raise ValueError(f"x: expected [B, D] with D = {self.width}, got {list(x.shape)}")
        if not isinstance(t, Tensor):
            return torch.full((), t, device=x.device)
        if t.dim() and t.shape != x.shape[:1]:
            raise ValueError(f"t: expected [] or [B] = [{x.shape[0]}], got {list(t.shape)}")
        return t

    def _sessions(self, name: str, g: Tensor, mask: Tensor | None, offsets: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, K, C] and the mask."""
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
        return g, mask

    def extra_repr(self) -> str:
        return f"width={self.width}, cond_width={self.cond_width}" + (", parallel=True" if self.parallel else "")


Passes = tuple[Tensor | None, list[tuple[int, Tensor]]]
Branch = tuple[int | None, Tensor | None]  # which guidance, None for the empty one; rows [B] that have the empty one in its place


class GuidedSessions:
    """A ``SessionDenoiser`` under the guidance of a batch's sessions, which is projected to its hidden layer once for all calls.

    ``guided(x [R, B, D], t, branches) -> [R, B, D]``: branch r has guidance ``branches[r][0]``, None being the empty one, which the rows
    ``branches[r][1]`` (``[B]`` bool, or None) have in its place. ``t`` is ``[]``, ``[B]`` or ``[R, B]``; ``sessions`` are those that
    guide, neighbours of one another. Where a kernel serves the network and the mask can be read, only sessions that exist are projected
    and run.

    Args:
        denoiser: the module; whether it drops units is asked at each call.
        guidance: of each kind ``[B, K, C]``.
        mask: ``[B, K]`` bool; None: all sessions exist.
        T: the last timestep, where all calls are at whole ones, so that each is projected once; None: at any.
    """

    def __init__(self, denoiser: SessionDenoiser, guidance: Sequence[Tensor], mask: Tensor | None, T: int | None = None) -> None:
        net = denoiser.network
        self.denoiser, self.mask, self.shape = denoiser, mask, guidance[0].shape[:2]
        self.by_kernel = not denoiser.parallel and kernel_serves(guidance[0], net.input, net.output)
        self.counted = mask is not None and self.by_kernel and _checks.can_read_values(mask)
        if mask is not None and not self.counted:  # a zero times NaN would reach the weights' gradients
            guidance = [torch.where(mask[..., None], g, 0.0) for g in guidance]
        if not self.by_kernel:
            self.empty = net.condition(denoiser.empty)  # what each adds to the hidden layer: [H], [B, K, H]
            self.shifts = [net.condition(g) for g in guidance]
            return
        self.times = None if T is None else net.time_bias(torch.arange(T + 1, device=guidance[0].device))
        self.guidance = torch.cat((*(g.flatten(0, 1) for g in guidance), denoiser.empty[None]))  # [kinds B K + 1, C]
        self.kinds = len(guidance)
        self.passes: dict[tuple[int, int], Passes] = {}  # by the first session and the last

    def __call__(self, x: Tensor, t: Tensor, branches: Sequence[Branch], sessions: slice = slice(None)) -> Tensor:
        run = self._by_kernel if self.by_kernel else self._by_layers
        return run(x, t, branches, sessions, None if self.mask is None else self.mask[:, sessions])

    def estimates(
        self, x: Tensor, t: int, gamma_cp: float, gamma_tf: float, sessions: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``SessionDenoiser.branches`` for ``x [B, D]``; a branch that both gammas give no weight is another one instead."""
        kinds = [None] * (gamma_cp + gamma_tf != 1) + [0] * (gamma_cp != 0) + [1] * (gamma_tf != 0)
        t_now = torch.full((), t, device=x.device)
        found = self(x.expand(len(kinds), *x.shape), t_now, [(kind, None) for kind in kinds], sessions).unbind()
        of = dict(zip(kinds, found, strict=True))
        return of.get(None, found[0]), of.get(0, found[0]), of.get(1, found[0])

    def _by_layers(self, x: Tensor, t: Tensor, branches: Sequence[Branch], sessions: slice, mask: Tensor | None) -> Tensor:
        net, D = self.denoiser.network, x.shape[2]
        shifts = [(self.empty.expand_as(self.shifts[0]) if kind is None else self.shifts[kind])[:, sessions] for kind, _ in branches]
        shifts = [s if d is None else torch.where(d[:, None, None], self.empty, s) for s, (_, d) in zip(shifts, branches, strict=True)]
        w, time = net.input.weight[:, :D], net.time_bias(t)  # [H, D]; [H], [B, H] or [R, B, H]
        if self.denoiser.parallel:
            return self._in_parallel(x, F.linear(x, w) + time, torch.stack(shifts), mask)
        for k in range(shifts[0].shape[1]):
            h = F.silu(F.linear(x, w) + (torch.stack([s[:, k] for s in shifts]) + time))
            y = net.output(F.dropout(h, net.dropout, net.training))
            x = y if mask is None else torch.where(mask[:, k, None], y, x)
        return x

    def _in_parallel(self, x: Tensor, start: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        """start [R, B, H], shift [R, B, K, H]; the output layer is linear, so the hidden units are averaged."""
        net = self.denoiser.network
        h = F.dropout(F.silu(start[:, :, None] + shift), net.dropout, net.training)
        if mask is None:
            return net.output(h.mean(2)) if h.shape[2] else x
        h = torch.where(mask[..., None], h, 0.0).sum(2) / mask.sum(1).clamp(min=1)[:, None]
        return torch.where(mask.any(1)[:, None], net.output(h), x)

    def _by_kernel(self, x: Tensor, t: Tensor, branches: Sequence[Branch], sessions: slice, mask: Tensor | None) -> Tensor:
        net, (R, B, D) = self.denoiser.network, x.shape
        order, tables = self._passes(sessions)
        times, time_index = self._times(t, R)
        none = torch.zeros(B, dtype=torch.bool, device=x.device)
        empty = torch.stack([~none if kind is None else none if d is None else d for kind, d in branches], dim=1)  # [B, R]
        kinds, x = torch.tensor([kind or 0 for kind, _ in branches], device=x.device), x.transpose(0, 1)
        if order is not None:
            x, empty, time_index = x.index_select(0, order), empty[order], None if time_index is None else time_index[order]
        x, w, p = x.reshape(B * R, D), net.input.weight[:, :D], net.dropout if net.training else 0.0
        done: list[Tensor] = []  # of rows that have no further session
        for k, (n, table) in enumerate(tables):
            if n * R < len(x):
                x, rest = x.split((n * R, len(x) - n * R))
                done.append(rest)
            index = torch.where(empty[:n], n * self.kinds, n * kinds + torch.arange(n, device=x.device)[:, None])
            y = mlp(
                x, w, None, net.output.weight, net.output.bias, cond=table, cond_index=index.flatten(),
                time=times, time_index=None if time_index is None else time_index[:n].flatten(), dropout=p,
            )  # fmt: skip
            x = y if mask is None or self.counted else torch.where(mask[:, k].repeat_interleave(R)[:, None], y, x)
        out = torch.cat((x, *reversed(done))).view(B, R, D)
        return (out if order is None else out.index_select(0, order.argsort())).transpose(0, 1)

    def _passes(self, sessions: slice) -> Passes:
        """The order of rows, those with more sessions first, and of each pass how many of them take part, and the guidance of these rows
        as the hidden layer sees it: of each kind ``[n, H]``, then the empty one. So a pass reads its own rows alone."""
        (B, K), (begin, end, _) = self.shape, sessions.indices(self.shape[1])
        if (begin, end) not in self.passes:
            device = self.guidance.device
            order, rows, slots = None, torch.arange(B, device=device), torch.arange(begin, end, device=device).expand(B, -1)
            sizes = [B] * (end - begin)
            if self.counted:
                assert self.mask is not None
                mask = self.mask[:, begin:end]
                counts = mask.sum(1)
                rows = order = counts.argsort(descending=True, stable=True)
                sizes = (counts[:, None] > torch.arange(end - begin)).sum(0).tolist()
                slots = begin + mask.long().argsort(dim=1, descending=True, stable=True)[order]  # the k-th session of each row
            places = [rows[:n] * K + slots[:n, k] for k, n in enumerate(sizes)]
            last = rows.new_full((1,), self.kinds * B * K)
            chosen = [t for at in places for t in (*(at + kind * B * K for kind in range(self.kinds)), last)]
            if not chosen:
                return order, []
            found = self.denoiser.network.condition(self.guidance.index_select(0, torch.cat(chosen)))
            tables = found.split([self.kinds * n + 1 for n in sizes])
            self.passes[begin, end] = order, list(zip(sizes, tables, strict=True))
        return self.passes[begin, end]

    def _times(self, t: Tensor, R: int) -> tuple[Tensor, Tensor | None]:
        """What timesteps add to the hidden layer, and which of these each row has, ``[B, R]``; None: there is one."""
        if self.times is not None:
            return (self.times, t.long().expand(R, -1).T) if t.dim() else (self.times.index_select(0, t.long().view(1)), None)
        times, B = self.denoiser.network.time_bias(t), self.shape[0]
        if not t.dim():
            return times[None], None
        return times.flatten(0, -2), torch.arange(t.numel(), device=t.device).view(t.shape).expand(R, B).T


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
        score = self._scores(items, session, counts)  # [N, 1]
        with torch.no_grad():  # any constant of the session will do; with the largest, exp cannot overflow
            top = score.new_full((M, 1), -torch.inf).scatter_reduce_(0, session[:, None], score, "amax")
        weight = torch.exp(score - top[session])
        rows = torch.cat((items, weight * items, weight), dim=1)
        total = rows.new_zeros(M, rows.shape[1]).index_add(0, session, rows)
        mean, focus, norm = total.split((self.width, self.width, 1), dim=1)
        return mean / counts.clamp(min=1)[:, None], focus / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    def _scores(self, items: Tensor, session: Tensor, counts: Tensor) -> Tensor:
        """``[N, 1]``, of items that are among others of their session; 0 of those alone, as any score would do."""
        if not _checks.can_read_values(items):
            return self.score(items)  # type: ignore[no-any-return]
        where = counts.gt(1)[session].nonzero()[:, 0]
        return items.new_zeros(items.shape[0], 1).index_copy(0, where, in_whole_blocks(self.score, items[where]))

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
