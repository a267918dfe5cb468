"""A decoder and an evaluation of the structure of the GR authors' (names, arguments and results as in their public code)."""

import math

import numpy as np
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.n_head = heads
        self.w_q, self.w_k, self.w_v, self.w_concat = (nn.Linear(d, d) for _ in range(4))

    def forward(self, q, k, v, mask=None):
        q, k, v = (w(x).unflatten(-1, (self.n_head, -1)).movedim(-2, 1) for w, x in ((self.w_q, q), (self.w_k, k), (self.w_v, v)))
        score = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            score = score.masked_fill(mask == 0, -torch.inf)
        return self.w_concat((score.softmax(-1) @ v).movedim(1, -2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, d, hidden, p):
        super().__init__()
        self.linear1, self.linear2, self.relu, self.dropout = nn.Linear(d, hidden), nn.Linear(hidden, d), nn.ReLU(), nn.Dropout(p)

    def forward(self, x):
        return self.linear2(self.dropout(self.relu(self.linear1(x))))


class Layer(nn.Module):
    def __init__(self, d, heads, hidden, p):
        super().__init__()
        self.self_attention, self.enc_dec_attention, self.ffn = Attention(d, heads), Attention(d, heads), FeedForward(d, hidden, p)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(p) for _ in range(3))

    def forward(self, x, memory, mask, memory_mask):
        x = self.norm1(self.dropout1(self.self_attention(x, x, x, mask)) + x)
        x = self.norm2(self.dropout2(self.enc_dec_attention(x, memory, memory, memory_mask)) + x)
        return self.norm3(self.dropout3(self.ffn(x)) + x)


class Decoder(nn.Module):
    def __init__(self, V=40, d=16, heads=4, hidden=32, layers=2, p=0.1):
        super().__init__()
        self.layers = nn.ModuleList(Layer(d, heads, hidden, p) for _ in range(layers))
        self.linear, self.tok_emb, self.drop_out, self.output_dim = nn.Linear(d, V), nn.Embedding(V, d), nn.Dropout(p), V

    def _run(self, x, memory, mask, memory_mask):
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.linear(x), x

    def forward(self, trg, enc_src, trg_mask, src_mask):
        return self._run(self.drop_out(self.tok_emb(trg)), enc_src, trg_mask, src_mask)

    def weight_forward(self, trg, enc_src, trg_mask, src_mask, use_embedding_mixup):
        if not use_embedding_mixup:
            return self.forward(trg, enc_src, trg_mask, src_mask)
        items = []
        for item in trg:
            if item.shape[-1] == self.output_dim:
                items.append(self.drop_out(item.softmax(-1) @ self.tok_emb.weight)[:, None])
            else:
                items.append(self.drop_out(self.tok_emb(item)))
        return self._run(torch.cat(items, 1), enc_src, trg_mask, src_mask)


class Model(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.decoder = Decoder(**sizes)
        self.encoder = nn.Linear(5, self.decoder.tok_emb.weight.shape[1])

    def get_encoder_result(self, x, user_mask, item_mask):
        return self.encoder(x * user_mask)[:, None], torch.ones(len(x), 1, 1, 1)

    def make_trg_mask(self, trg, pad_mask):
        L = trg.shape[1]
        return (pad_mask[:, None] & torch.ones(L, L, dtype=torch.bool).tril())[:, None]


def evaluate(test_loader, model, window_size, use_embedding_mixup, durations, device, max_len=20):
    """XAUC and MAE, rounded to four digits, of greedy decoding that runs every position again for each token."""
    model.eval()
    truth, predicted = [], []
    with torch.no_grad():
        for x, user_mask, item_mask, y, tokens, _ in test_loader:
            memory, memory_mask = model.get_encoder_result(x, user_mask, item_mask)
            written, fed, total, ended = tokens[:, :1].long(), [tokens[:, :1].long()], 0.0, torch.zeros(len(x), dtype=torch.bool)
            for _ in range(max_len - 1):
                mask = model.make_trg_mask(written, torch.ones_like(written, dtype=torch.bool))
                if use_embedding_mixup:
                    out, _ = model.decoder.weight_forward(fed, memory, mask, memory_mask, True)
                else:
                    out, _ = model.decoder(written, memory, mask, memory_mask)
                logits = out[:, -1]
                best = logits.argmax(-1)
                near = (torch.arange(logits.shape[1]) - best[:, None]).abs() <= window_size // 2
                total = total + torch.where(ended, 0.0, (logits.softmax(-1) * near * durations).sum(-1))
                ended = ended | (best == 2)
                written, fed = torch.cat((written, best[:, None]), 1), [*fed, logits]
            predicted.append((total / 1000).numpy())
            truth.append(y.double().reshape(-1).numpy())
    y, prediction = np.concatenate(truth), np.concatenate(predicted)
    order = np.argsort(-prediction, kind="stable")
    labels = y[order]
    n = len(y)
    pairs = sum(int((labels[i] > labels[i + 1 :]).sum()) for i in range(n))
    return round(pairs / (n * (n - 1) / 2), 4), round(np.mean(np.abs(prediction - y)), 4)
