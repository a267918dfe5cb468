// The combination of three guided estimates of x0 and one step of the posterior. Included once per instruction set.
//
//   f = f_un + gamma_cp (f_cp - f_un) + gamma_tf (f_tf - f_un),  x_s = d0 f + d1 x + sigma noise
// with three numbers per row, made in fp64. A branch whose gamma is 0 is not read, nor is noise where sigma is 0.
#pragma once
#include "cpu/ops/denoise_rows.h"

namespace ORD_ISA {
namespace {

using Guided = denoise::Guided;

struct Posterior {
  double d0, d1, sigma;
};

static Posterior posterior_numbers(double t, double s, bool beta) {
  const double share = (s - t) / s, left = (1 - s) / (1 - t);  // share: 1 - t / s, the beta of a step from s to t
  return {__builtin_sqrt(s) * (share / (1 - t)), __builtin_sqrt(t / s) * left,
          s == 1 ? 0 : __builtin_sqrt(beta ? share : share * left)};
}

template <class S>
struct Branches {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  const S *un, *cp, *tf, *end_un, *end_cp, *end_tf;
  const V gamma_cp, gamma_tf;
  const bool has_cp, has_tf;

  explicit Branches(const Guided& a, int64_t total)
      : un((const S*)a.output),
        cp((const S*)a.f_cp),
        tf((const S*)a.f_tf),
        end_un(un + total),
        end_cp(cp + total),
        end_tf(tf + total),
        gamma_cp(V{} + (T)a.gamma_cp),
        gamma_tf(V{} + (T)a.gamma_tf),
        has_cp(a.gamma_cp != 0),
        has_tf(a.gamma_tf != 0) {}

  inline __attribute__((always_inline)) V at(int64_t j, int m) const {
    const V u = load(un + j, m, end_un);
    V f = u;
    if (has_cp) {
      f += gamma_cp * (load(cp + j, m, end_cp) - u);
    }
    if (has_tf) {
      f += gamma_tf * (load(tf + j, m, end_tf) - u);
    }
    return f;
  }
};

template <class S, int NOISE>
__attribute__((noinline)) void guided_rows(const Guided& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  const int64_t total = a.B * a.K * a.D;
  const S *x = (const S*)a.x, *e = (const S*)a.noise;
  S *xs = (S*)a.x_s, *fh = (S*)a.x0;
  const Branches<S> branches(a, total);
  const bool fixed = !a.t.p && !a.s.p, stream = a.stream;
  Posterior c = fixed ? posterior_numbers(a.t.number, a.s.number, a.beta) : Posterior{};
  for_rows<NOISE == denoise::kMade>(
      a, begin, end,
      [&](int64_t row, int64_t b, int64_t k, int64_t d, int64_t n, const float* made) {
        if (!fixed) {
          c = posterior_numbers(at_row(a.t, b, k), at_row(a.s, b, k), a.beta);
        }
        const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1;
        [[maybe_unused]] const V sigma = V{} + (T)c.sigma;
        [[maybe_unused]] const bool noisy = c.sigma != 0;
        const int64_t at = row * a.D + d;
        for_each_vector<T>(n, [&](int64_t i, int m) __attribute__((always_inline)) {
          const int64_t j = at + i;
          const V f = branches.at(j, m);
          store(fh + j, f, m, stream);
          V y = d0 * f + d1 * load(x + j, m, x + total);
          if (NOISE == denoise::kGiven && noisy) {
            y += sigma * load(e + j, m, e + total);
          }
          if (NOISE == denoise::kMade && noisy) {
            y += sigma * noise_lanes(made + i, m, V{});
          }
          store(xs + j, y, m, stream);
        });
      },
      fixed &&
          a.D % 16 ==
              0);  // else a number's last bit may depend on where its row lies: what is left over is compiled apart
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// dots [rows, 3]: the gradients of d0, d1, sigma.
template <class S, int NOISE>
__attribute__((noinline)) void guided_rows_backward(const Guided& a, int64_t begin, int64_t end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  const int64_t total = a.B * a.K * a.D;
  const S *x = (const S*)a.x, *e = (const S*)a.noise, *gs = (const S*)a.g_xs, *gf = (const S*)a.g_x0;
  S *gx = (S*)a.g_x, *gu = (S*)a.g_output, *gc = (S*)a.g_cp, *gt = (S*)a.g_tf, *gn = (S*)a.g_noise;
  T* const dots = (T*)a.dots;
  if (dots) {
    for (int64_t i = begin * a.K * 3; i < end * a.K * 3; ++i) {
      dots[i] = 0;
    }
  }
  const Branches<S> branches(a, total);
  const V rest = V{} + (T)(1 - a.gamma_cp - a.gamma_tf);
  const bool fixed = !a.t.p && !a.s.p, stream = a.stream;
  Posterior c = fixed ? posterior_numbers(a.t.number, a.s.number, a.beta) : Posterior{};
  for_rows<NOISE == denoise::kMade>(
      a, begin, end,
      [&](int64_t row, int64_t b, int64_t k, int64_t d, int64_t n, const float* made) {
        if (!fixed) {
          c = posterior_numbers(at_row(a.t, b, k), at_row(a.s, b, k), a.beta);
        }
        const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, sigma = V{} + (T)c.sigma;
        const bool noisy = c.sigma != 0;
        const int64_t at = row * a.D + d;
        V sf{}, sx{}, sn{};
        for_each_vector<T>(n, [&](int64_t i, int m) __attribute__((always_inline)) {
          const int64_t j = at + i;
          const V g = gs ? load(gs + j, m, gs + total) : V{};  // zeros behind the end, so the sums need no mask
          V h = d0 * g;
          if (gf) {
            h += load(gf + j, m, gf + total);
          }
          if (dots) {
            sf += g * branches.at(j, m), sx += g * load(x + j, m, x + total);
            if (NOISE == denoise::kGiven && noisy) {
              sn += g * load(e + j, m, e + total);
            }
            if (NOISE == denoise::kMade && noisy) {
              sn += g * noise_lanes(made + i, m, V{});
            }
          }
          if (gx) {
            store(gx + j, d1 * g, m, stream);
          }
          if (gu) {
            store(gu + j, rest * h, m, stream);
          }
          if (gc) {
            store(gc + j, branches.has_cp ? branches.gamma_cp * h : V{}, m, stream);
          }
          if (gt) {
            store(gt + j, branches.has_tf ? branches.gamma_tf * h : V{}, m, stream);
          }
          if (gn) {
            store(gn + j, noisy ? sigma * g : V{}, m, stream);
          }
        });
        if (dots) {
          T* to = dots + row * 3;
          to[0] += sum(sf), to[1] += sum(sx), to[2] += sum(sn);
        }
      },
      fixed && !dots && a.D % 16 == 0);
  if (stream) {
    __builtin_ia32_sfence();
  }
}

}  // namespace

void guided_step(const Guided& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) ORD_BY_NOISE(guided_rows, S)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}
void guided_step_backward(const Guided& a, int64_t begin, int64_t end) {
#define ORD_CALL(S) ORD_BY_NOISE(guided_rows_backward, S)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

}  // namespace ORD_ISA
