// nested_min, forward and backward. Included once per instruction set.
//
// nested_min is sequential in k, so its scan runs with one row per lane, on tiles that are transposed in registers. All
// that a row needs from it is where the cap is reached and what is left there; the parts and the gradients are then
// written row by row.
#pragma once
#include "cpu/ops/nested_min_tiles.h"

namespace ORD_ISA {
namespace {

template <class S, bool CAPPED, bool SHARED>
static void nested_rows(const Args& args, int64_t begin, int64_t end) {
  using R = Rows<S>;
  using T = typename R::T;
  using V = typename R::V;
  using I = typename R::I;
  using L [[maybe_unused]] = typename R::L;
  constexpr int W = R::W;
  const R rows(args);
  const int64_t K = args.K;
  S *value = (S*)args.value, *out = (S*)args.out;
  for (int64_t r0 = begin; r0 < end; r0 += W) {
    const int n = end - r0 < W ? (int)(end - r0) : W;
    V sum, left;
    I first;
    rows.template scan<CAPPED, SHARED>(r0, n, sum, first, left);
    store(value + r0, sum, n);
    const V after = left == left ? V{} : left;
    for (int i = 0; i < n; ++i) {
      const int64_t r = r0 + i;
      const V left_i = splat((T)left[i]), after_i = splat((T)after[i]);
      const I cap = I{} + first[i];
      rows.prefetch(rows.v, r + 2 * W);
      if (!SHARED) {
        rows.prefetch(rows.w, r + 2 * W);
      }
      for_each_vector<typename R::T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        V part = clip_width(load(rows.v + r * K + k, m, rows.v_end), rows.template widths<SHARED>(r, k, m));
        if (CAPPED) {
          const I at = counting_from(k, V{});
          part = at < cap ? part : (at == cap ? left_i : after_i);
        }
        store(out + r * K + k, part, m, args.stream);
      });
    }
  }
  if (args.stream) {
    __builtin_ia32_sfence();
  }
}

template <class S, bool CAPPED, bool SHARED>
static void nested_rows_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch) {
  using R = Rows<S>;
  using T = typename R::T;
  using V = typename R::V;
  using I = typename R::I;
  using L [[maybe_unused]] = typename R::L;
  constexpr int W = R::W;
  const R rows(args);
  const int64_t K = args.K;
  const S *gy = (const S*)args.g_value, *go = (const S*)args.g_out, *go_end = go + args.B * K;
  S *gv = (S*)args.gv, *gw = (S*)args.gw, *gc = (S*)args.gc;
  T* acc = (T*)scratch;
  for (int64_t r0 = begin; r0 < end; r0 += W) {
    const int n = end - r0 < W ? (int)(end - r0) : W;
    V sum, left, base{}, to_cap{};
    I first{};
    if (gy) {
      base = load(gy + r0, n, gy + args.B);
    }
    if (CAPPED) {
      rows.template scan<CAPPED, SHARED>(r0, n, sum, first, left);
      const I inside = first < (I{} + (L)K);
      V at_cap{};
      if (go) {
        for (int i = 0; i < n; ++i) {
          if (inside[i]) {
            at_cap[i] = scalar(go[(r0 + i) * K + first[i]]);
          }
        }
      }
      to_cap = inside ? at_cap + base : V{};
      base = inside ? -at_cap : base;
      if (gc) {
        store(gc + r0, to_cap, n);
      }
    }
    for (int i = 0; i < n; ++i) {
      const int64_t r = r0 + i;
      const V b = splat((T)base[i]);
      [[maybe_unused]] const I cap = I{} + first[i];
      rows.prefetch(rows.v, r + 2 * W);
      if (go) {
        rows.prefetch(go, r + 2 * W);
      }
      if (!SHARED) {
        rows.prefetch(rows.w, r + 2 * W);
      }
      for_each_vector<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        const V x = load(rows.v + r * K + k, m, rows.v_end), w = rows.template widths<SHARED>(r, k, m);
        V g = go ? load(go + r * K + k, m, go_end) + b : b;
        if (CAPPED) {
          g = counting_from(k, V{}) < cap ? g : V{};
        }
        store(gv + r * K + k, (V)((I)g & (I)(x >= 0.0f) & (I)(x <= w)), m, args.stream);
        if (SHARED) {
          if (!acc) {
            return;
          }
          V s = load(acc + k);  // scratch is padded to whole vectors
          s += (I)(x > w) & (m == W ? ~I{} : first_lanes(m, V{})) ? g : V{};
          store(acc + k, s);
        } else if (gw) {
          store(gw + r * K + k, x > w ? g : V{}, m, args.stream);
        }
      });
    }
    if (SHARED && acc && (r0 - begin) % kFlush == kFlush - W) {
      flush(acc, sums, K);
    }
  }
  if (SHARED && acc) {
    flush(acc, sums, K);
  }
  if (args.stream) {
    __builtin_ia32_sfence();
  }
}

template <class S, bool CAPPED, bool SHARED>
static void nested(const Args& a, int64_t begin, int64_t end) {
  constexpr int W = Rows<S>::W;
  if (a.K == W) {
    return nested_tiles<S, CAPPED, SHARED, W>(a, begin, end);
  }
  if (a.K == W / 2) {
    return nested_tiles<S, CAPPED, SHARED, W / 2>(a, begin, end);
  }
  if constexpr (W >= 16) {
    if (a.K == W / 4) {
      return nested_tiles<S, CAPPED, SHARED, W / 4>(a, begin, end);
    }
  }
  nested_rows<S, CAPPED, SHARED>(a, begin, end);
}
template <class S, bool CAPPED, bool SHARED>
static void nested_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
  constexpr int W = Rows<S>::W;
  if (a.K == W) {
    return nested_tiles_backward<S, CAPPED, SHARED, W>(a, begin, end, sums, scratch);
  }
  if (a.K == W / 2) {
    return nested_tiles_backward<S, CAPPED, SHARED, W / 2>(a, begin, end, sums, scratch);
  }
  if constexpr (W >= 16) {
    if (a.K == W / 4) {
      return nested_tiles_backward<S, CAPPED, SHARED, W / 4>(a, begin, end, sums, scratch);
    }
  }
  nested_rows_backward<S, CAPPED, SHARED>(a, begin, end, sums, scratch);
}

// f(T{}, capped, shared): the compute type, and two constants.
template <bool>
struct Flag {};
template <class F>
ORD_INLINE void with_kind(const Args& a, const F& f) {
  const auto with_type = [&]<class T>(T) {
    if (a.capped) {
      a.shared ? f(T{}, Flag<true>{}, Flag<true>{}) : f(T{}, Flag<true>{}, Flag<false>{});
    } else {
      a.shared ? f(T{}, Flag<false>{}, Flag<true>{}) : f(T{}, Flag<false>{}, Flag<false>{});
    }
  };
  a.type == DType::f64 ? with_type(double{}) : with_type(float{});
}

}  // namespace

void nested_min(const Args& a, int64_t begin, int64_t end) {
  with_kind(a, [&]<class T, bool C, bool S>(T, Flag<C>, Flag<S>) { nested<T, C, S>(a, begin, end); });
}

void nested_min_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
  with_kind(
      a, [&]<class T, bool C, bool S>(T, Flag<C>, Flag<S>) { nested_backward<T, C, S>(a, begin, end, sums, scratch); });
}

}  // namespace ORD_ISA
