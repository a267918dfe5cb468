// One denoising step, the estimate of x0 alone, and the noising that they undo. Included once per instruction set.
//
// Every kind of prediction and process is one form with six numbers per row, made in fp64:
//   x0 = clip(c0 x + c1 output),  x_s = d0 x0 + d1 x + d2 output + sigma noise.
#pragma once
#include "cpu/ops/denoise_rows.h"

namespace ORD_ISA {
namespace {

struct Step {
  double c0, c1, d0, d1, d2, sigma;
};

static Step step_numbers(int kind, double t, double s, double eta, bool reclip, bool whole) {
  if (kind == denoise::kFlow) {
    return {1, -t, 0, 1, s - t, 0};
  }
  const double a = __builtin_sqrt(t), n = __builtin_sqrt(1 - t);
  double e0, e1, e2 = 0;  // eps = e0 x + e1 output + e2 x0
  Step r{};
  if (kind == denoise::kEps) {
    r.c0 = 1 / a, r.c1 = -n / a, e0 = 0, e1 = 1;
  } else if (kind == denoise::kX0) {
    r.c0 = 0, r.c1 = 1, e0 = 1 / n, e1 = -a / n;
  } else {
    r.c0 = a, r.c1 = -n, e0 = n, e1 = a;
  }
  if (!whole) {
    return r;
  }
  if (reclip) {
    e0 = 1 / n, e1 = 0, e2 = -a / n;
  }
  const double variance = eta == 0 ? 0 : eta * eta * ((1 - s) / (1 - t)) * (1 - t / s);
  const double left = 1 - s - variance;
  const double q = __builtin_sqrt(left < 0 ? 0 : left);
  r.d0 = __builtin_sqrt(s) + q * e2, r.d1 = q * e0, r.d2 = q * e1;
  r.sigma = __builtin_sqrt(variance);
  return r;
}

template <class V>
ORD_INLINE V clip_both(V x, V c) {  // NaN goes through
  const V low = x < -c ? -c : x;
  return low > c ? c : low;
}

// kUsual: a whole step that stays in the caches, without a branch in its loop.
template <class S, int NOISE, bool kUsual>
__attribute__((noinline)) void step_rows_as(const DenoiseArgs& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  const int64_t total = a.B * a.K * a.D;
  const S *x = (const S*)a.x, *o = (const S*)a.output, *e = (const S*)a.noise;
  S *xs = (S*)a.x_s, *x0 = (S*)a.x0;
  const bool fixed = !a.t.p && !a.s.p, stream = !kUsual && a.stream, whole = kUsual || a.whole;
  Step c = fixed ? step_numbers(a.kind, a.t.number, a.s.number, a.eta, a.reclip, whole) : Step{};
  const V limit = V{} + (T)a.clip;
  const I use_x = I{} - (a.kind != denoise::kX0);  // else 0 x would make NaN of an infinite x
  for_rows<NOISE == denoise::kMade>(
      a, begin, end,
      [&](int64_t row, int64_t b, int64_t k, int64_t d, int64_t n, const float* made) {
        if (!fixed) {
          c = step_numbers(a.kind, at_row(a.t, b, k), at_row(a.s, b, k), a.eta, a.reclip, a.whole);
        }
        const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1, d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, d2 = V{} + (T)c.d2;
        [[maybe_unused]] const V sigma = V{} + (T)c.sigma;
        const int64_t at = row * a.D + d;
        for_each_vector<T>(n, [&](int64_t i, int m) __attribute__((always_inline)) {
          const int64_t j = at + i;
          const V xv = load(x + j, m, x + total), ov = load(o + j, m, o + total);
          const V est = clip_both(c0 * (V)((I)xv & use_x) + c1 * ov, limit);
          store(x0 + j, est, m, stream);
          if (whole) {
            V y = d0 * est + d1 * xv + d2 * ov;
            if (NOISE == denoise::kGiven) {
              y += sigma * load(e + j, m, e + total);
            }
            if (NOISE == denoise::kMade) {
              y += sigma * noise_lanes(made + i, m, V{});
            }
            store(xs + j, y, m, stream);
          }
        });
      },
      fixed &&
          a.D % 16 ==
              0);  // else a number's last bit may depend on where its row lies: what is left over is compiled apart
  if (stream) {
    __builtin_ia32_sfence();
  }
}

template <class S, int NOISE>
void step_rows(const DenoiseArgs& a, int64_t begin, int64_t end) {
  a.whole && !a.stream ? step_rows_as<S, NOISE, true>(a, begin, end) : step_rows_as<S, NOISE, false>(a, begin, end);
}

template <class S, int NOISE>
__attribute__((noinline)) void step_rows_backward(const DenoiseArgs& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  const int64_t total = a.B * a.K * a.D;
  const S *x = (const S*)a.x, *o = (const S*)a.output, *e = (const S*)a.noise, *gs = (const S*)a.g_xs,
          *g0 = (const S*)a.g_x0;
  S *gx = (S*)a.g_x, *go = (S*)a.g_output, *gn = (S*)a.g_noise;
  T* dots = (T*)a.dots;
  const bool fixed = !a.t.p && !a.s.p, stream = a.stream, whole = a.whole;
  const int count = whole ? 6 : 2;
  if (dots) {
    for (int64_t i = begin * a.K * count; i < end * a.K * count; ++i) {
      dots[i] = 0;
    }
  }
  Step c = fixed ? step_numbers(a.kind, a.t.number, a.s.number, a.eta, a.reclip, whole) : Step{};
  const V limit = V{} + (T)a.clip;
  const bool clips = a.clip < __builtin_inf();
  for_rows<NOISE == denoise::kMade>(
      a, begin, end, [&](int64_t row, int64_t b, int64_t k, int64_t d, int64_t n, const float* made) {
        if (!fixed) {
          c = step_numbers(a.kind, at_row(a.t, b, k), at_row(a.s, b, k), a.eta, a.reclip, whole);
        }
        const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1, d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, d2 = V{} + (T)c.d2;
        const V sigma = V{} + (T)c.sigma;
        const bool only_output = a.kind == denoise::kX0;
        const int64_t at = row * a.D + d;
        V hx{}, ho{}, s0{}, sx{}, so{}, sn{};
        for_each_vector<T>(n, [&](int64_t i, int m) __attribute__((always_inline)) {
          const int64_t j = at + i;
          const V g = gs ? load(gs + j, m, gs + total) : V{};  // zeros behind the end, so the sums need no mask
          V h = d0 * g;
          if (g0) {
            h += load(g0 + j, m, g0 + total);
          }
          if (clips || dots) {
            const V xv = load(x + j, m, x + total), ov = load(o + j, m, o + total);
            const V raw = only_output ? ov : c0 * xv + c1 * ov;
            h = (I)(raw >= -limit) & (I)(raw <= limit) ? h : V{};
            if (dots) {
              hx += h * xv, ho += h * ov;
              s0 += g * clip_both(raw, limit), sx += g * xv, so += g * ov;
              if (NOISE == denoise::kGiven) {
                sn += g * load(e + j, m, e + total);
              }
              if (NOISE == denoise::kMade) {
                sn += g * noise_lanes(made + i, m, V{});
              }
            }
          }
          if (gx) {
            store(gx + j, c0 * h + d1 * g, m, stream);
          }
          if (go) {
            store(go + j, c1 * h + d2 * g, m, stream);
          }
          if (gn) {
            store(gn + j, sigma * g, m, stream);
          }
        });
        if (dots) {
          T* to = dots + row * count;
          to[0] += sum(hx), to[1] += sum(ho);
          if (whole) {
            to[2] += sum(s0), to[3] += sum(sx), to[4] += sum(so), to[5] += sum(sn);
          }
        }
      });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// c0 x + c1 noise
ORD_INLINE Step sample_numbers(int kind, double t) {
  if (kind == denoise::kFlow) {
    return {1 - t, t, 0, 0, 0, 0};
  }
  return {__builtin_sqrt(t), __builtin_sqrt(1 - t), 0, 0, 0, 0};
}

template <class S>
__attribute__((noinline)) void sample_rows(const DenoiseArgs& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  const int64_t D = a.D, total = a.B * a.K * D, x_total = a.x_per_b ? a.B * D : total;
  const S *x = (const S*)a.x, *e = (const S*)a.noise;
  S* out = (S*)a.x_s;
  const bool stream = a.stream;
  Step c = sample_numbers(a.kind, a.t.number);
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t k = 0; k < a.K; ++k) {
      if (a.t.p) {
        c = sample_numbers(a.kind, at_row(a.t, b, k));
      }
      const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1;
      const S *xr = x + (a.x_per_b ? b : b * a.K + k) * D, *er = e + (b * a.K + k) * D;
      S* to = out + (b * a.K + k) * D;
      for_each_vector<T>(D, [&](int64_t i, int m) __attribute__((always_inline)) {
        store(to + i, c0 * load(xr + i, m, x + x_total) + c1 * load(er + i, m, e + total), m, stream);
      });
    }
  }
  if (stream) {
    __builtin_ia32_sfence();
  }
}

template <class S>
__attribute__((noinline)) void sample_rows_backward(const DenoiseArgs& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  const int64_t D = a.D, total = a.B * a.K * D, x_total = a.x_per_b ? a.B * D : total;
  const S *x = (const S*)a.x, *e = (const S*)a.noise, *g = (const S*)a.g_xs;
  S *gx = (S*)a.g_x, *gn = (S*)a.g_noise;
  T* dots = (T*)a.dots;
  const bool stream = a.stream;
  Step c = sample_numbers(a.kind, a.t.number);
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t k = 0; k < a.K; ++k) {
      if (!gn && !dots && (a.x_per_b || !gx)) {
        break;
      }
      if (a.t.p) {
        c = sample_numbers(a.kind, at_row(a.t, b, k));
      }
      const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1;
      const int64_t row = b * a.K + k, at = row * D, x_at = (a.x_per_b ? b : row) * D;
      V sx{}, sn{};
      for_each_vector<T>(D, [&](int64_t i, int m) __attribute__((always_inline)) {
        const V gv = load(g + at + i, m, g + total);
        if (gx && !a.x_per_b) {
          store(gx + at + i, c0 * gv, m, stream);
        }
        if (gn) {
          store(gn + at + i, c1 * gv, m, stream);
        }
        if (dots) {
          sx += gv * load(x + x_at + i, m, x + x_total);
          sn += gv * load(e + at + i, m, e + total);
        }
      });
      if (dots) {
        dots[2 * row] = sum(sx), dots[2 * row + 1] = sum(sn);
      }
    }
    if (gx && a.x_per_b) {
      for_each_vector<T>(D, [&](int64_t i, int m) __attribute__((always_inline)) {
        V s{};
        for (int64_t k = 0; k < a.K; ++k) {
          const double c0 = a.t.p ? sample_numbers(a.kind, at_row(a.t, b, k)).c0 : c.c0;
          s += (V{} + (T)c0) * load(g + (b * a.K + k) * D + i, m, g + total);
        }
        store(gx + b * D + i, s, m);
      });
    }
  }
  if (stream) {
    __builtin_ia32_sfence();
  }
}

}  // namespace

void reverse_step(const DenoiseArgs& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) ORD_BY_NOISE(step_rows, S)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}
void reverse_step_backward(const DenoiseArgs& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) ORD_BY_NOISE(step_rows_backward, S)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}
void sample(const DenoiseArgs& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) sample_rows<S>(a, begin, end)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}
void sample_backward(const DenoiseArgs& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) sample_rows_backward<S>(a, begin, end)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

}  // namespace ORD_ISA
