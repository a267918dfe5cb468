"""ValueDecoder: its formula, causality, the two passes of curriculum learning, the authors' weights, stable keys, errors."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from ordkernels.nn import ValueDecoder


def make(norm="post", activation="relu", positions=None, memory_width=None, dtype=torch.float64, **sizes):
    sizes = dict(d_model=16, heads=4, ffn=24, layers=2) | sizes
    decoder = ValueDecoder(12, norm=norm, activation=activation, positions=positions, memory_width=memory_width, **sizes)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            if "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
    return decoder.to(dtype).eval()


def expected(p, x, m, heads, norm, activation, layers=2, eps=1e-5):
    """One row, position by position: x [T, d], m [d]."""

    def ln(x, name):
        mean = x.mean()
        return (x - mean) / torch.sqrt(((x - mean) ** 2).mean() + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def lin(x, name):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    act = (lambda h: h.clamp(min=0)) if activation == "relu" else (lambda h: h * 0.5 * (1 + torch.erf(h / math.sqrt(2))))
    pre, d = norm == "pre", x.shape[1]
    x = list(x)
    for i in range(layers):
        at = f"layers.{i}."
        q, k, v = zip(*[lin(ln(y, at + "norm1") if pre else y, at + "qkv").chunk(3) for y in x], strict=True)
        out = []
        for t in range(len(x)):
            heads_out = []
            for h in range(heads):
                s = slice(h * d // heads, (h + 1) * d // heads)
                w = torch.stack([q[t][s] @ k[u][s] / math.sqrt(d // heads) for u in range(t + 1)]).softmax(0)
                heads_out.append(sum(w[u] * v[u][s] for u in range(t + 1)))
            y = x[t] + lin(torch.cat(heads_out), at + "attention_out")
            y = y if pre else ln(y, at + "norm1")
            y = y + lin(lin(m, at + "cross_value"), at + "cross_out")
            y = y if pre else ln(y, at + "norm2")
            y = y + lin(act(lin(ln(y, at + "norm3") if pre else y, at + "linear1")), at + "linear2")
            out.append(y if pre else ln(y, at + "norm3"))
        x = out
    return torch.stack([lin(ln(y, "norm") if pre else y, "linear") for y in x])


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("positions", "memory_width"), [(None, None), (6, 5)])
def test_forward_is_its_formula(norm, activation, positions, memory_width):
    decoder = make(norm, activation, positions, memory_width)
    p = decoder.state_dict()
    tokens, memory = torch.randint(0, 12, (3, 5)), torch.randn(3, memory_width or 16).double()
    logits = decoder(tokens, memory)
    for b in range(3):
        x, m = p["tok_emb.weight"][tokens[b]], memory[b]
        x = x if positions is None else x + p["position"][:5]
        m = m if memory_width is None else p["memory.weight"] @ m + p["memory.bias"]
        assert torch.allclose(logits[b], expected(p, x, m, 4, norm, activation), atol=1e-12)
    assert torch.equal(decoder(decoder.tok_emb(tokens), memory), logits)


def test_keys_are_stable():
    own = [
        f"{n}.{e}"
        for n in ("qkv", "attention_out", "cross_value", "cross_out", "linear1", "linear2", "norm1", "norm3")
        for e in ("weight", "bias")
    ]
    post = ["tok_emb.weight", *(f"layers.0.{k}" for k in [*own, "norm2.weight", "norm2.bias"]), "linear.weight", "linear.bias"]
    assert list(make(layers=1).state_dict()) == post
    more = ["position", "tok_emb.weight", "memory.weight", "memory.bias", *(f"layers.0.{k}" for k in own), "norm.weight", "norm.bias"]
    assert list(make("pre", positions=4, memory_width=3, layers=1).state_dict()) == [*more, "linear.weight", "linear.bias"]


def test_a_position_sees_no_later_input_and_every_parameter_learns():
    for norm in ("post", "pre"):
        decoder = make(norm, positions=6, memory_width=5)
        tokens, memory = torch.randint(0, 12, (2, 6)), torch.randn(2, 5).double()
        before = decoder(tokens, memory)
        tokens[:, 4] = (tokens[:, 4] + 1) % 12
        after = decoder(tokens, memory)
        assert torch.equal(before[:, :4], after[:, :4])
        assert not torch.equal(before[:, 4], after[:, 4])
        F.cross_entropy(after.flatten(0, 1), tokens.flatten()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in decoder.parameters())


def test_dropout_acts_in_training_alone():
    decoder, tokens, memory = make(dropout=0.5), torch.randint(0, 12, (2, 3)), torch.randn(2, 16).double()
    assert torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    decoder.train()
    assert not torch.equal(decoder(tokens, memory), decoder(tokens, memory))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_packed_rows_are_those_of_each_row_alone(norm):
    decoder = make(norm, positions=5, memory_width=9)
    lengths, memory = torch.tensor([3, 0, 5, 1]), torch.randn(4, 9).double()
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    tokens, predicted, true = torch.randint(3, 12, (9,)), torch.randn(9, 16).double(), torch.rand(9) < 0.5
    tokens[offsets[:-1][lengths > 0]] = 1
    logits, second = decoder.packed(tokens, memory, offsets), decoder.second_pass(tokens, predicted, true)
    torch.testing.assert_close(decoder.packed(decoder.tok_emb(tokens), memory, offsets), logits)
    for b, (i, j) in enumerate(itertools.pairwise(offsets)):
        row = tokens[i:j][None]
        torch.testing.assert_close(logits[i:j], decoder(row, memory[b : b + 1])[0])
        torch.testing.assert_close(second[i:j], decoder.second_pass(row, predicted[i:j][None], true[i:j][None])[0])


def test_second_pass_feeds_predictions_one_place_on():
    decoder = make()
    tokens = torch.randint(3, 12, (2, 4))
    predicted = torch.randn(2, 4, 16, dtype=torch.float64, requires_grad=True)
    true = torch.tensor([[False, True, False, False], [True, False, True, True]])
    x, E = decoder.second_pass(tokens, predicted, true), decoder.tok_emb.weight
    want = torch.stack([
        torch.stack([E[tokens[0, 0]], E[tokens[0, 1]], predicted[0, 1], predicted[0, 2]]),
        torch.stack([E[tokens[1, 0]], predicted[1, 0], E[tokens[1, 2]], E[tokens[1, 3]]]),
    ])  # fmt: skip
    assert torch.equal(x, want)
    decoder(x, torch.randn(2, 16).double()).sum().backward()
    assert predicted.grad.any(-1).tolist() == [[False, True, True, False], [True, False, False, False]]


class AuthorsDecoder(torch.nn.Module):
    """A decoder layer by layer as usual, with queries and keys towards the memory too."""

    def __init__(self, V, d, ffn, layers):
        super().__init__()
        self.tok_emb = torch.nn.Embedding(V, d)
        self.layers = torch.nn.ModuleList()
        for _ in range(layers):
            layer = torch.nn.Module()
            for name in ("self_attention", "enc_dec_attention"):
                part = torch.nn.Module()
                for w in ("w_q", "w_k", "w_v", "w_concat"):
                    part.add_module(w, torch.nn.Linear(d, d))
                layer.add_module(name, part)
            for i in (1, 2, 3):
                layer.add_module(f"norm{i}", torch.nn.LayerNorm(d))
            layer.ffn = torch.nn.Module()
            layer.ffn.linear1, layer.ffn.linear2 = torch.nn.Linear(d, ffn), torch.nn.Linear(ffn, d)
            self.layers.append(layer)
        self.linear = torch.nn.Linear(d, V)

    def forward(self, tokens, memory, heads):
        def attend(part, x, y, mask):
            q, k, v = (w(z).unflatten(-1, (heads, -1)).transpose(1, 2) for w, z in ((part.w_q, x), (part.w_k, y), (part.w_v, y)))
            s = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask, -1e9).softmax(-1)
            return part.w_concat((s @ v).transpose(1, 2).flatten(2))

        x, T = self.tok_emb(tokens), tokens.shape[1]
        for layer in self.layers:
            x = layer.norm1(x + attend(layer.self_attention, x, x, torch.ones(T, T).tril() > 0))
            x = layer.norm2(x + attend(layer.enc_dec_attention, x, memory[:, None], torch.ones(T, 1) > 0))
            x = layer.norm3(x + layer.ffn.linear2(F.relu(layer.ffn.linear1(x))))
        return self.linear(x)


def test_loads_the_authors_names():
    authors, converted = AuthorsDecoder(12, 16, 24, 2).double(), make()
    with torch.no_grad():
        for p in authors.parameters():
            p.add_(0.2 * torch.randn_like(p))
    tokens, memory = torch.randint(0, 12, (3, 5)), torch.randn(3, 16).double()
    converted.load_gr_state_dict(authors.state_dict())
    want = authors(tokens, memory, 4)
    assert torch.allclose(converted(tokens, memory), want, atol=1e-12)
    names = {"weight": "gamma", "bias": "beta"}
    greek = {k.replace(e, names[e]) if ".norm" in k else k: v for k, v in authors.state_dict().items() for e in [k.rpartition(".")[2]]}
    assert any("gamma" in k for k in greek)
    again = make()
    again.load_gr_state_dict(greek)
    assert torch.allclose(again(tokens, memory), want, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "options", "kind", "text"),
    [
        (lambda s: s.pop("layers.1.norm2.weight"), {}, ValueError, r"missing \['layers.1.norm2.weight'\], unknown \[\]"),
        (lambda s: s.update({"layers.2.norm1.weight": torch.ones(16)}), {}, ValueError, r"unknown \['layers.2.norm1.weight'\]"),
        (lambda s: s.update({"linear.bias": torch.ones(13)}), {}, ValueError, r"state\['linear.bias'\]: expected \[12\], got \[13\]"),
        (lambda s: s.update({"linear.bias": None}), {}, TypeError, r"state\['linear.bias'\]: expected a torch.Tensor, got NoneType"),
        (lambda s: None, dict(norm="pre"), ValueError, r"norm: expected 'post'.*got 'pre'"),
        (lambda s: None, dict(positions=5), ValueError, r"positions: expected None.*got 5"),
        (lambda s: None, dict(memory_width=5), ValueError, r"memory_width: expected d_model = 16.*got 5"),
    ],
)
def test_authors_weights_that_do_not_fit_are_named_and_nothing_is_loaded(change, options, kind, text):
    state = dict(AuthorsDecoder(12, 16, 24, 2).state_dict())
    change(state)
    decoder = make(**options)
    before = copy.deepcopy(decoder.state_dict())
    with pytest.raises(kind, match=text):
        decoder.load_gr_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), decoder.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: ValueDecoder(3), ValueError, "vocab_size: expected at least 4"),
        (lambda: ValueDecoder(12, 16, 3), ValueError, "d_model: expected a multiple of heads = 3, got 16"),
        (lambda: ValueDecoder(12, layers=0), ValueError, "layers: "),
        (lambda: ValueDecoder(12, positions=0), ValueError, "positions: "),
        (lambda: ValueDecoder(12, norm="both"), ValueError, "norm: expected 'post' or 'pre', got 'both'"),
        (lambda: ValueDecoder(12, activation="silu"), ValueError, "activation: "),
        (lambda: ValueDecoder(12, dropout=1.0), ValueError, "dropout: "),
        (lambda: ValueDecoder(12, norm_eps=-1.0), ValueError, "norm_eps: "),
        (lambda: make()(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 16)), TypeError, "inputs: expected int64 or int32"),
        (lambda: make()(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 16)), ValueError, r"inputs: .*got \[2\]"),
        (lambda: make()(torch.zeros(2, 3, 15), torch.zeros(2, 16)), ValueError, r"inputs: .*got \[2, 3, 15\]"),
        (lambda: make()(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 1, 16)), ValueError, r"memory: .*got \[2, 1, 16\]"),
        (lambda: make(positions=2)(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 16).double()), ValueError, "at most positions = 2"),
        (lambda: make().second_pass(torch.ones(2, 3).long(), torch.zeros(2, 2, 16), torch.ones(2, 3)), ValueError, "predicted: "),
    ],
)  # fmt: skip
def test_bad_input(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
