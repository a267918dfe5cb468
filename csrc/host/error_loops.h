// Sums over the rows of a block: the loops of errors.cpp for one instruction set (see per_isa.h).
//
// Sums run in eight fixed lanes, so they are the same on every instruction set; without AVX-512, whose fused
// multiply-add rounds otherwise.

namespace ordkernels::host::ORD_ISA {

ORD_TARGET inline double sum_lanes(const double* a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

// Of n rows, at most one block: sums of |y - p|, (y - p)^2, and how many |y - p| <= theta.
template <class F>
ORD_TARGET void block_errors(const F* __restrict y, const F* __restrict p, int64_t n, double theta, double* sums,
                             int64_t* within) {
  double absolute[8] = {}, squared[8] = {}, inside[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      const double d = static_cast<double>(y[i + l]) - static_cast<double>(p[i + l]), size = __builtin_fabs(d);
      absolute[l] += size;
      squared[l] += d * d;
      inside[l] += size <= theta ? 1.0 : 0.0;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    const double d = static_cast<double>(y[i]) - static_cast<double>(p[i]), size = __builtin_fabs(d);
    absolute[l] += size;
    squared[l] += d * d;
    inside[l] += size <= theta ? 1.0 : 0.0;
  }
  sums[0] = sum_lanes(absolute);
  sums[1] = sum_lanes(squared);
  double count = 0;
  for (int l = 0; l < 8; ++l) {
    count += inside[l];
  }
  *within = static_cast<int64_t>(count);
}

// Of n > 0 rows: the means of y - y0 and p - p0, and sums of squares and products about them: yy, pp, yp.
template <class F>
ORD_TARGET void block_moments(const F* __restrict y, const F* __restrict p, int64_t n, double y0, double p0,
                              double* out) {
  double a[8] = {}, b[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      a[l] += static_cast<double>(y[i + l]) - y0;
      b[l] += static_cast<double>(p[i + l]) - p0;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    a[l] += y[i] - y0;
    b[l] += p[i] - p0;
  }
  const double mean_y = sum_lanes(a) / static_cast<double>(n), mean_p = sum_lanes(b) / static_cast<double>(n);
  double yy[8] = {}, pp[8] = {}, yp[8] = {};
  for (i = 0; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      const double u = (static_cast<double>(y[i + l]) - y0) - mean_y, v = (static_cast<double>(p[i + l]) - p0) - mean_p;
      yy[l] += u * u;
      pp[l] += v * v;
      yp[l] += u * v;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    const double u = (y[i] - y0) - mean_y, v = (p[i] - p0) - mean_p;
    yy[l] += u * u;
    pp[l] += v * v;
    yp[l] += u * v;
  }
  out[0] = mean_y;
  out[1] = mean_p;
  out[2] = sum_lanes(yy);
  out[3] = sum_lanes(pp);
  out[4] = sum_lanes(yp);
}

}  // namespace ordkernels::host::ORD_ISA
