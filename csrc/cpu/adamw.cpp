// AdamW with the clipping of the gradients' norm and the average of the parameters: check, share out the elements.
#include "cpu/checks.h"
#include "cpu/ops/adamw_args.h"

ORD_DECLARE_KERNEL(adamw_squares, const AdamwRun&, double* sum);
ORD_DECLARE_KERNEL(adamw_dense, const AdamwRun&, const AdamwStep&, const AdamwBetas&);
ORD_DECLARE_KERNEL(adamw_rows, const AdamwRows&, const AdamwBetas&, int64_t begin, int64_t end);

namespace {

using Tensors = std::vector<Tensor>;

constexpr int64_t kRun = 1 << 14;  // elements that a thread takes together

void* state_data(const char* name, Tensor& t, const Tensor& p) {
  check_like(name, t, p);
  STD_TORCH_CHECK(t.is_contiguous(), name, ": expected contiguous tensors");
  return t.mutable_data_ptr();
}

// The parts of a parameter, run after run.
void add_runs(const AdamwRun& whole, std::vector<AdamwRun>& runs) {
  const int64_t size = whole.is_double ? 8 : 4;
  const auto at = [&](auto* p, int64_t i) { return p ? (char*)p + i * size : nullptr; };
  for (int64_t i = 0; i < whole.n; i += kRun) {
    runs.push_back({whole.is_double, std::min(kRun, whole.n - i), at(whole.p, i), at(whole.m, i), at(whole.v, i),
                    at(whole.mean, i), at(whole.g, i)});
  }
}

AdamwRun gradient_run(const Tensor& g) {
  return {check_float_or_double("grads", g), g.numel(), nullptr, nullptr, nullptr, nullptr, g.const_data_ptr()};
}

// The norm of all gradients, in an order of summation that the number of threads does not change.
double norm_of(const Tensors& grads) {
  std::vector<AdamwRun> runs;
  for (const Tensor& g : grads) {
    add_runs(gradient_run(g), runs);
  }
  std::vector<double> sums(runs.size());
  const auto kernel = ORD_DISPATCH(adamw_squares);
  torch::stable::parallel_for(0, (int64_t)runs.size(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernel(runs[i], &sums[i]);
    }
  });
  double sum = 0;
  for (double s : sums) {
    sum += s;
  }
  return std::sqrt(sum);
}

double clip_scale(double norm, double max_norm) {
  const double scale = max_norm / (norm + 1e-6);
  return scale > 1 ? 1 : scale;  // NaN stays
}

const AdamwStep* steps_of(const Tensor& steps, int64_t least) {
  check_dtype("steps", steps, ScalarType::Double);
  STD_TORCH_CHECK(steps.dim() == 2 && steps.size(0) >= least && steps.size(1) == 4 && steps.is_contiguous(),
                  "steps: expected [N, 4] of at least ", least, " contiguous rows, got ", shape_text(steps));
  return (const AdamwStep*)in<double>(steps);
}

// A step of all parameters, parameter i by steps[i]; means: of all or none; others: gradients that count for the norm
// alone. -> the factor of the gradients.
double adamw_step(Tensors p, Tensors m, Tensors v, Tensors means, const Tensors& grads, const Tensors& others,
                  const Tensor& steps_, double max_norm, double beta1, double beta2, double eps) {
  const size_t n = p.size();
  STD_TORCH_CHECK(m.size() == n && v.size() == n && grads.size() == n && (means.empty() || means.size() == n),
                  "params: expected as many moments, means and gradients");
  const AdamwStep* const steps = steps_of(steps_, (int64_t)n);
  Tensors all;
  for (const Tensors* some : {&grads, &others}) {
    for (const Tensor& g : *some) {
      all.push_back(as_contiguous(g));
    }
  }
  std::vector<AdamwRun> runs;
  std::vector<size_t> owner;
  for (size_t i = 0; i < n; ++i) {
    check_like("grads", all[i], p[i]);
    AdamwRun run = gradient_run(all[i]);
    run.p = state_data("params", p[i], p[i]);
    run.m = state_data("exp_avgs", m[i], p[i]);
    run.v = state_data("exp_avg_sqs", v[i], p[i]);
    run.mean = means.empty() ? nullptr : state_data("means", means[i], p[i]);
    add_runs(run, runs);
    owner.resize(runs.size(), i);
  }
  const AdamwBetas betas{beta1, beta2, eps, clip_scale(norm_of(all), max_norm)};
  const auto kernel = ORD_DISPATCH(adamw_dense);
  torch::stable::parallel_for(0, (int64_t)runs.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernel(runs[i], steps[owner[i]], betas);
    }
  });
  return betas.scale;
}

// What steps s, s + 1, ... N - 1 without a gradient make of p and its average, where the momenta move nothing:
// p decay, and average keep + p share.
std::vector<double> rest_of(const AdamwStep* steps, int64_t N) {
  std::vector<double> rest(3 * (N + 1));
  rest[3 * N] = rest[3 * N + 1] = 1;
  for (int64_t s = N; s-- > 0;) {
    const double *const after = &rest[3 * (s + 1)], decay = 1 - steps[s].decay, weight = steps[s].weight;
    rest[3 * s] = decay * after[0];
    rest[3 * s + 1] = (1 - weight) * after[1];
    rest[3 * s + 2] = decay * (weight * after[1] + after[2]);
  }
  return rest;
}

// Rows of a table brought to step N of `steps` [N, 4] without gradients; or, where all have made the steps before it,
// that step with the gradients g [U, W].
void adamw_rows(Tensor p, Tensor m, Tensor v, std::optional<Tensor> mean, const OptionalTensor& g_,
                const OptionalTensor& rows_, Tensor last, const Tensor& steps, double scale, double beta1, double beta2,
                double eps) {
  STD_TORCH_CHECK(p.dim() == 2, "param: expected [R, W], got ", shape_text(p));
  const int64_t R = p.size(0), W = p.size(1);
  AdamwRows a{};
  a.table = {check_float_or_double("param", p),
             R * W,
             state_data("param", p, p),
             state_data("exp_avg", m, p),
             state_data("exp_avg_sq", v, p),
             mean ? state_data("mean", *mean, p) : nullptr,
             nullptr};
  const OptionalTensor rows = rows_ ? OptionalTensor(as_contiguous(*rows_)) : rows_;
  const int64_t U = rows ? rows->numel() : R;
  const OptionalTensor g = checked_contiguous("grad", g_, p.scalar_type(), {U, W});
  check_dtype("last", last, ScalarType::Long);
  check_shape("last", last, {R});
  STD_TORCH_CHECK(last.is_contiguous(), "last: expected a contiguous tensor");
  a.W = W;
  a.last = out<int64_t>(last);
  a.table.g = data_or_null(g);
  a.step_count = steps.size(0);
  a.steps = steps_of(steps, g ? 1 : 0);
  if (rows) {
    check_dtype("rows", *rows, ScalarType::Long);
    a.rows = in<int64_t>(*rows);
  }
  const int64_t most = g ? a.step_count - 1 : a.step_count, least = g ? most : 0;
  for (int64_t u = 0; u < U; ++u) {
    const int64_t row = a.rows ? a.rows[u] : u;
    STD_TORCH_CHECK(row >= 0 && row < R, "rows: expected 0 to ", R - 1, ", got ", row);
    STD_TORCH_CHECK(a.last[row] >= least && a.last[row] <= most, "last: expected ", least, " to ", most, ", got ",
                    a.last[row]);
  }
  const std::vector<double> rest = rest_of(a.steps, a.step_count);
  a.rest = rest.data();
  const AdamwBetas betas{beta1, beta2, eps, scale};
  const auto kernel = ORD_DISPATCH(adamw_rows);
  torch::stable::parallel_for(0, U, 1 + 4096 / (W + 1),
                              [&](int64_t begin, int64_t end) { kernel(a, betas, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("adamw_step", TORCH_BOX(&adamw_step));
  m.impl("adamw_rows", TORCH_BOX(&adamw_rows));
}
