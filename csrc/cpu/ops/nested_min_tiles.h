// nested_min of rows that fill vectors: K = M lanes or half of them. Included once per instruction set.
//
// W rows are M vectors on end. Transposed, vector k holds column k and a lane a row; parts and gradients are made there
// in one pass and turned back. While nothing is NaN or infinite the parts need no more than the sum so far and whether
// the cap is ahead.
#pragma once
#include "cpu/ops/increments_rows.h"

namespace ORD_ISA {
namespace {

// Rows [begin, end) of any K, for what a tile cannot do.
template <class S, bool CAPPED, bool SHARED>
static void nested_rows(const Args& args, int64_t begin, int64_t end);

template <class S, int M>
struct Tile {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  static constexpr int W = kLanes<T>, F = W / M;  // F rows in a vector

  ORD_INLINE void load_rows(const S* p, V (&t)[M]) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      t[i] = load(p + i * W);
    }
  }
  ORD_INLINE void store_rows(S* p, const V (&t)[M], bool stream) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      store(p + i * W, t[i], W, stream);
    }
  }
  ORD_INLINE void turn(V (&t)[M]) { transpose<1, M>(t); }

  // Lane h M + i is row F i + h.
  ORD_INLINE V to_lanes(V rows) {
    I from;
    for (int l = 0; l < W; ++l) {
      from[l] = F * (l % M) + l / M;
    }
    return F == 1 ? rows : __builtin_shuffle(rows, from);
  }
  ORD_INLINE V to_rows(V lanes) {
    I from;
    for (int j = 0; j < W; ++j) {
      from[j] = j % F * M + j / F;
    }
    return F == 1 ? lanes : __builtin_shuffle(lanes, from);
  }
  ORD_INLINE V capacity(const Args& a, int64_t r) {
    return a.capacity ? to_lanes(load((const S*)a.capacity + r)) : splat((T)a.cap);
  }
};

template <class S, bool CAPPED, bool SHARED, int M>
static void nested_tiles(const Args& args, int64_t begin, int64_t end) {
  using X = Tile<S, M>;
  using T = typename X::T;
  using V = typename X::V;
  using I = typename X::I;
  constexpr int W = X::W;
  const S *v = (const S*)args.v, *w = (const S*)args.w;
  S *value = (S*)args.value, *out = (S*)args.out;
  const bool stream = args.stream;
  V shared[M];
  if constexpr (SHARED) {
    for (int k = 0; k < M; ++k) {
      shared[k] = splat(scalar(w[k]));
    }
  }
  int64_t r = begin;
  for (; r + W <= end; r += W) {
    V t[M], u[M];
    X::load_rows(v + r * M, t);
    X::turn(t);
    if constexpr (!SHARED) {
      X::load_rows(w + r * M, u);
      X::turn(u);
    }
    V sum{}, total;
    if constexpr (CAPPED) {
      const V cap = X::capacity(args, r);
      I live = ~I{};
#pragma GCC unroll 16
      for (int k = 0; k < M; ++k) {
        const V a = clip_width(t[k], SHARED ? shared[k] : u[k]), rest = cap - sum;
        const I below = (I)(a < rest);
        t[k] = (V)((I)(below ? a : rest) & live);
        live &= below;
        sum += a;  // what follows the cap does not count
      }
      if (any(~((I)(sum < (T)__builtin_inf()) & (I)(cap == cap)))) {
        nested_rows<S, CAPPED, SHARED>(args, r, r + W);
        continue;
      }
      total = live ? sum : cap;
    } else {
#pragma GCC unroll 16
      for (int k = 0; k < M; ++k) {
        t[k] = clip_width(t[k], SHARED ? shared[k] : u[k]);
        sum += t[k];
      }
      total = sum;
    }
    X::turn(t);
    X::store_rows(out + r * M, t, stream);
    store(value + r, X::to_rows(total));
  }
  if (stream) {
    __builtin_ia32_sfence();
  }
  if (r < end) {
    nested_rows<S, CAPPED, SHARED>(args, r, end);
  }
}

template <class S, bool CAPPED, bool SHARED>
static void nested_rows_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch);

// The gradients g of W capped rows from r on where they still are the parts': behind the cap 0. base: of the value, or,
// where the cap holds, what its part at the cap takes from all before. w: the widths.
template <class X, class S, int M>
ORD_INLINE void gradients_before_cap(const Args& args, int64_t r, const typename X::V (&t)[M],
                                     const typename X::V (&w)[M], typename X::V (&g)[M], typename X::V base) {
  using V = typename X::V;
  using I = typename X::I;
  S* const gc = (S*)args.gc;
  const V cap = X::capacity(args, r);
  V sum{};
  I live = ~I{}, at_cap{}, alive[M];
#pragma GCC unroll 16
  for (int k = 0; k < M; ++k) {
    const V a = clip_width(t[k], w[k]);
    const I below = (I)(a < cap - sum);
    at_cap |= (I)g[k] & live & ~below;
    live &= below;
    alive[k] = live;
    sum += a;
  }
  if (gc) {
    store(gc + r, X::to_rows((V)((I)((V)at_cap + base) & ~live)));
  }
  base = live ? base : -(V)at_cap;
#pragma GCC unroll 16
  for (int k = 0; k < M; ++k) {
    g[k] = (V)((I)(g[k] + base) & alive[k]);
  }
}

template <class S, bool CAPPED, bool SHARED, int M>
static void nested_tiles_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch) {
  using X = Tile<S, M>;
  using V = typename X::V;
  using I = typename X::I;
  constexpr int W = X::W;
  const S *v = (const S*)args.v, *w = (const S*)args.w, *gy = (const S*)args.g_value, *go = (const S*)args.g_out;
  S *gv = (S*)args.gv, *gw = (S*)args.gw;
  const bool stream = args.stream;
  V shared[M], acc[M] = {};
  if constexpr (SHARED) {
    for (int k = 0; k < M; ++k) {
      shared[k] = splat(scalar(w[k]));
    }
  }
  int64_t r = begin;
  for (; r + W <= end; r += W) {
    V t[M], u[M], g[M] = {};
    X::load_rows(v + r * M, t);
    X::turn(t);
    if (go) {
      X::load_rows(go + r * M, g);
      X::turn(g);
    }
    if constexpr (!SHARED) {
      X::load_rows(w + r * M, u);
      X::turn(u);
    }
    const V base = gy ? X::to_lanes(load(gy + r)) : V{};
    if constexpr (CAPPED) {
      gradients_before_cap<X, S, M>(args, r, t, SHARED ? shared : u, g, base);
    } else {
#pragma GCC unroll 16
      for (int k = 0; k < M; ++k) {
        g[k] += base;
      }
    }
#pragma GCC unroll 16
    for (int k = 0; k < M; ++k) {
      const V wk = SHARED ? shared[k] : u[k];
      const V over = (V)((I)g[k] & (I)(t[k] > wk));
      if (SHARED) {
        acc[k] += over;
      } else {
        u[k] = over;
      }
      t[k] = (V)((I)g[k] & (I)(t[k] >= 0.0f) & (I)(t[k] <= wk));
    }
    X::turn(t);
    X::store_rows(gv + r * M, t, stream);
    if (!SHARED && gw) {
      X::turn(u);
      X::store_rows(gw + r * M, u, stream);
    }
    if (SHARED && sums && (r - begin) % kFlush == kFlush - W) {
      for (int k = 0; k < M; ++k) {
        sums[k] += (double)sum(acc[k]);
        acc[k] = V{};
      }
    }
  }
  if (SHARED && sums) {
    for (int k = 0; k < M; ++k) {
      sums[k] += (double)sum(acc[k]);
    }
  }
  if (stream) {
    __builtin_ia32_sfence();
  }
  if (r < end) {
    nested_rows_backward<S, CAPPED, SHARED>(args, r, end, sums, scratch);
  }
}

}  // namespace
}  // namespace ORD_ISA
