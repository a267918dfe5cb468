"""Greedy decoding of value tokens: against a hand-written cache in torch, eager and compiled as one graph, and against no cache.

The baselines take the single memory token's shortcut too. "no end": no row ends before the last step, so every step is computed for every
row; "ends": four rows in nine end after one to four tokens; a graph that is compiled as a whole cannot stop early.
"""

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.nn import ValueDecoder

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, bool], ...]] = {  # B, do rows end?
    ("cpu", "tiny"): ((5, False), (5, True)),
    ("cpu", "quick"): ((128, False),),
    ("cpu", "full"): ((1, False), (128, False), (1024, False), (1024, True)),
    ("cuda", "tiny"): ((5, False), (5, True)),
    ("cuda", "quick"): ((1024, False),),
    ("cuda", "full"): ((1, False), (1024, False), (65536, False), (65536, True)),
}
d, HEADS, FFN, V, L, T = 64, 4, 256, 64, 2, 12
FASTER = {1: 8.0, 128: 3.0, 1024: 2.0}  # on a CPU, with one thread
PAD, SOS, EOS = 0, 1, 2


class Setup:
    """A decoder whose sequences differ from row to row: weights twice their usual size, so that the logits are spread out."""

    def __init__(self, B: int, ends: bool, device: str) -> None:
        torch.manual_seed(0)
        self.decoder: Any = ValueDecoder(V, d, HEADS, FFN, L, positions=T if ends else None).to(device).eval()
        with torch.no_grad():
            for name, p in self.decoder.named_parameters():
                if p.dim() > 1 and "tok_emb" not in name:
                    p.mul_(2)
            if self.decoder.position is not None:
                self.decoder.position.mul_(20)
            self.decoder.linear.bias[EOS] = 1.0 if ends else -1e4
        self.memory = (0.3 if ends else 2) * randn(B, d, device=device, seed=1)
        self.values = torch.cat((torch.zeros(3), torch.arange(V - 3.0, 0, -1))).to(device)

    def ours(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        result = ops.value_decode(memory, self.decoder, self.values.to(memory.dtype), max_tokens=T + 1)
        return result.value, result.tokens

    def constants(self, memory: Tensor) -> list[Tensor]:
        """What the one memory token adds in each layer."""
        return [layer.cross_out(layer.cross_value(memory)) for layer in self.decoder.layers]

    def embed(self, token: Tensor, i: int) -> Tensor:
        x, position = self.decoder.tok_emb(token), self.decoder.position
        return x if position is None else x + position[i]

    def norms(self, layer: Any, x: Tensor, added: Tensor, constant: Tensor) -> Tensor:
        return layer.norm2(layer.norm1(x + added) + constant)

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        return layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))

    def read_out(self, tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
        out = torch.stack(tokens, 1)
        return self.values[out].sum(1), out

    def cached(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values written in place, attention over the positions so far; stops when every row has ended."""
        B, dec, hd = memory.shape[0], self.decoder, d // HEADS
        constants = self.constants(memory)
        keys, vals = ([memory.new_empty(B, HEADS, T, hd) for _ in range(L)] for _ in range(2))
        token = torch.full((B,), SOS, device=memory.device)
        done = torch.zeros(B, dtype=torch.bool, device=memory.device)
        tokens: list[Tensor] = []
        for i in range(T):
            x = self.embed(token, i)
            for j, layer in enumerate(dec.layers):
                q, k, v = layer.qkv(x).view(B, 3, HEADS, hd).unbind(1)
                keys[j][:, :, i], vals[j][:, :, i] = k, v
                o = F.scaled_dot_product_attention(q[:, :, None], keys[j][:, :, : i + 1], vals[j][:, :, : i + 1])
                x = self.norms(layer, x, layer.attention_out(o.reshape(B, d)), constants[j])
                x = self.feed_forward(layer, x)
            token = dec.linear(x).argmax(-1).masked_fill(done, PAD)
            done = done | (token == EOS)
            tokens.append(token)
            if i % 4 == 3 and memory.device.type == "cpu" and bool(done.all()):
                break
        return self.read_out(tokens + [torch.full_like(token, PAD)] * (T - len(tokens)))

    def whole(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """All steps as one graph: the cache as lists, attention written out, so that everything but the products is fused."""
        B, dec, hd = memory.shape[0], self.decoder, d // HEADS
        constants = self.constants(memory)
        keys: list[list[Tensor]] = [[] for _ in range(L)]
        vals: list[list[Tensor]] = [[] for _ in range(L)]
        token = torch.full((B,), SOS, device=memory.device)
        done = torch.zeros(B, dtype=torch.bool, device=memory.device)
        tokens = []
        for i in range(T):
            x = self.embed(token, i)
            for j, layer in enumerate(dec.layers):
                q, k, v = layer.qkv(x).split(d, -1)
                keys[j].append(k.view(B, HEADS, hd))
                vals[j].append(v.view(B, HEADS, hd))
                k_all, v_all = torch.stack(keys[j], 2), torch.stack(vals[j], 2)  # [B, HEADS, i + 1, hd]
                s = (q.view(B, HEADS, 1, hd) * k_all).sum(-1) / math.sqrt(hd)
                o = (s.softmax(-1).unsqueeze(-1) * v_all).sum(2)
                x = self.norms(layer, x, layer.attention_out(o.reshape(B, d)), constants[j])
                x = self.feed_forward(layer, x)
            token = dec.linear(x).argmax(-1).masked_fill(done, PAD)
            done = done | (token == EOS)
            tokens.append(token)
        return self.read_out(tokens)

    def again(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """No cache: the whole prefix at every step."""
        B = memory.shape[0]
        tokens = torch.full((B, 1), SOS, device=memory.device)
        done = torch.zeros(B, dtype=torch.bool, device=memory.device)
        for _ in range(T):
            token = self.decoder(tokens, memory)[:, -1].argmax(-1).masked_fill(done, PAD)
            done = done | (token == EOS)
            tokens = torch.cat((tokens, token[:, None]), 1)
        return self.values[tokens[:, 1:]].sum(1), tokens[:, 1:]

    def ties(self, memory: Tensor, out: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> Tensor:
        """Rows whose first other token has, in fp64, the largest logit but for rounding: what follows it may differ by anything."""
        got, want = out[1], expected[1].long()
        tied = (got != want).any(1)
        rows = tied.nonzero()[:, 0]
        if len(rows):
            first = (got != want)[rows].int().argmax(1)
            inputs = torch.cat((torch.full_like(want[:, :1], SOS), want[:, :-1]), 1)[rows]
            with torch.no_grad(), ordkernels.use_backend("reference"):
                logits = copy.deepcopy(self.decoder).double()(inputs, memory[rows].double())[torch.arange(len(rows)), first]  # [rows, V]
            chosen = [logits.gather(1, t[rows, first, None])[:, 0] for t in (got, want)]
            tied[rows] = (chosen[1] - chosen[0]).abs() <= 1e-5 * logits.abs().amax(1)
        return tied


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, ends in SHAPES[device, size]:
        yield _case(B, ends, device)


def _case(B: int, ends: bool, device: str) -> Case:
    setup = Setup(B, ends, device)
    args = [setup.memory]
    runs: dict[str, Run] = {
        OURS: without_grad(setup.ours, args),
        "eager, cached": without_grad(setup.cached, args),
        "compile, cached": without_grad(compiled(setup.whole), args),
        "no cache": without_grad(setup.again, args),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            doubles = Setup(B, ends, device)
            doubles.decoder.double()
            return without_grad(doubles.ours, [setup.memory.double()])()

    if device == "cuda":
        targets = [Target("at least 2x the best baseline", "best baseline", 2.0)] if B in (1, 1024, 65536) else []
    else:
        targets = [Target(f"at least {FASTER[B]:g}x the best baseline", "best baseline", FASTER[B])] if B in FASTER else []
        targets += [Target("at least 20x over no cache", "no cache", 20.0)] if B in FASTER else []
    steps = float(B * T)
    if ends:
        with torch.no_grad():
            steps = float((ops.value_decode(setup.memory, setup.decoder, setup.values, max_tokens=T + 1).lengths + 1).clamp(max=T).sum())
    per_step = L * (4 * d * d + 2 * d * FFN) + d * V
    weights = L * (6 * d * d + 2 * d * FFN) + 2 * d * V
    missing = {"HF generate": "transformers has no decoder with these layers"}
    return Case(
        "value_decode", f"B={B} d={d} layers={L} V={V} T={T}, {'ends' if ends else 'no end'}", runs, expected, 1e-4,
        bytes=4 * (B * (d + 1) + weights) + 8 * B * (T + 1), flops=2.0 * (steps * per_step + B * L * 2 * d * d),
        missing=missing, device=device, targets=targets, ties=partial(setup.ties, setup.memory),
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 4, "full": 5 if device == "cpu" else 6}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        setup = Setup(B, True, device)
        return without_grad(setup.ours, [setup.memory])

    yield Scaling("value_decode", f"d={d} layers={L} V={V} T={T}, ends", "B", rows, run, float)
