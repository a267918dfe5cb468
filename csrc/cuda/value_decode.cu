// value_decode: fp32 and fp64, any width whose rows fit into shared memory.
#include <type_traits>

#include "kernels/value_decode.h"
#include "torch.h"

namespace {

using namespace decoder;

struct Plan {
  int64_t slots, blocks, bytes;
};
template <int R, class A>
Plan plan_of(const OnDevice& on, int64_t B, int64_t n, int64_t width) {
  const int64_t tiles = blocks_of(B, R), most = multiprocessors(on.index);
  return {R, tiles < most ? tiles : most, static_cast<int64_t>(shared_bytes<R, A>(n, width))};
}
template <class A>
Plan choose_plan(const OnDevice& on, int64_t B, int64_t n, int64_t width) {
  Plan plan = plan_of<16, A>(on, B, n, width);
  STD_TORCH_CHECK(plan.bytes <= most_shared(on.index), "value_decode: its rows do not fit into shared memory");
  if constexpr (std::is_same_v<A, float>) {
    const Plan wide = plan_of<32, A>(on, B, n, width);
    plan = wide.bytes <= most_shared(on.index) && B > 16 * multiprocessors(on.index) ? wide : plan;
  }
  return plan;
}

Tensor checked_weights(const char* name, const Tensor& t, ScalarType type, std::initializer_list<int64_t> shape) {
  const Tensor checked = checked_contiguous(name, t, type, shape);
  STD_TORCH_CHECK(aligned(checked, 16), name, ": expected weights at multiples of 16 bytes");
  return checked;
}

Tensor zeros(const Tensor& like, std::initializer_list<int64_t> shape) {
  Tensor t = torch::stable::new_empty(like, shape, ScalarType::Long);
  torch::stable::zero_(t);
  return t;
}

template <class A>
void start(const Plan& plan, void* stream, const Network<A>& net, const Decode<A>& a, int width) {
  const auto go = [&](auto kernel) {
    launch("value_decode", kernel, dim3(plan.blocks), dim3(kThreads), plan.bytes, stream, net, a, width);
  };
  if constexpr (std::is_same_v<A, float>) {
    if (plan.slots == 32) {
      return go(&value_decode_kernel<32, A>);
    }
  }
  go(&value_decode_kernel<16, A>);
}

// layers [L, ...], flat, as decoder_layer.h has them; embedding, head_w [V, n], head_b [V], last [2, n], position [T,
// n]; constants [B, L, n]. n: d padded to a multiple of 16; units: the padded width of the feed-forward layers.
std::tuple<Tensor, Tensor, Tensor> value_decode(const Tensor& layers_, const Tensor& embedding_, const Tensor& head_w_,
                                                const Tensor& head_b_, const MaybeTensor& last_,
                                                const MaybeTensor& position_, const Tensor& values_,
                                                const Tensor& constants_, const MaybeTensor& capacity_,
                                                const MaybeTensor& row_ids_, const MaybeTensor& draw_ids_, int64_t d,
                                                int64_t heads, int64_t units, bool pre, bool gelu, double eps,
                                                int64_t steps, int64_t window, int64_t mixup, bool windowed,
                                                double temperature, bool monotone, double cap, int64_t seed) {
  const ScalarType type = values_.scalar_type();
  STD_TORCH_CHECK(type == compute_type(type), "values: expected float32 or float64");
  STD_TORCH_CHECK(embedding_.dim() == 2 && constants_.dim() == 3, "embedding, constants: expected [V, n], [B, L, n]");
  const int64_t V = embedding_.size(0), n = embedding_.size(1), B = constants_.size(0), L = constants_.size(1);
  STD_TORCH_CHECK(n % 16 == 0 && units % 16 == 0 && d <= n && d % heads == 0, "d, units: expected widths padded to 16");
  const int64_t size = 4 * n * n + 5 * n + 2 * units * n + units + (pre ? 4 : 6) * n;
  const Tensor layers = checked_weights("layers", layers_, type, {L * size});
  const Tensor embedding = checked_weights("embedding", embedding_, type, {V, n});
  const Tensor head_w = checked_weights("head_w", head_w_, type, {V, n});
  const Tensor head_b = checked_contiguous("head_b", head_b_, type, {V});
  const Tensor values = checked_contiguous("values", values_, type, {V});
  const Tensor constants = checked_contiguous("constants", constants_, type, {B, L, n});
  STD_TORCH_CHECK(pre == last_.has_value(), "last: expected with norms that come first, and with them alone");
  const MaybeTensor last = checked_contiguous("last", last_, type, {2 * n});
  const MaybeTensor position = checked_contiguous("position", position_, type, {position_ ? position_->size(0) : 0, n});
  STD_TORCH_CHECK(!position || position->size(0) >= steps, "position: expected one for each step");
  const MaybeTensor capacity = checked_contiguous("capacity", capacity_, type, {B});
  const MaybeTensor row_ids = checked_contiguous("row_ids", row_ids_, ScalarType::Long, {B});
  const MaybeTensor draw_ids = checked_contiguous("draw_ids", draw_ids_, ScalarType::Long, {B});
  STD_TORCH_CHECK(temperature <= 0 || row_ids, "row_ids: expected for sampling");
  Tensor value = torch::stable::new_empty(values, {B});
  Tensor lengths = torch::stable::new_empty(values, {B}, ScalarType::Long), tokens = zeros(values, {B, steps});
  if (B == 0) {
    return {value, tokens, lengths};
  }
  const OnDevice on(values);
  const int64_t scores = n + heads * steps, other = V > units ? V : units, width = scores > other ? scores : other;
  const auto run = [&](auto zero) {
    using A = decltype(zero);
    const Plan plan = choose_plan<A>(on, B, n, width);
    Tensor workspace = torch::stable::new_empty(values, {plan.blocks, L, steps, 2, plan.slots, n});
    const Network<A> net{in<A>(layers),
                         in<A>(embedding),
                         in<A>(head_w),
                         in<A>(head_b),
                         in<A>(last),
                         in<A>(position),
                         static_cast<int>(d),
                         static_cast<int>(n),
                         static_cast<int>(heads),
                         static_cast<int>(units),
                         static_cast<int>(V),
                         static_cast<int>(L),
                         pre,
                         gelu,
                         static_cast<A>(eps)};
    const Reading<A> how{in<A>(values),
                         static_cast<int>(window / 2),
                         static_cast<int>(mixup),
                         windowed,
                         monotone || capacity || cap != INFINITY,
                         monotone,
                         static_cast<A>(temperature),
                         static_cast<uint64_t>(seed)};
    const Decode<A> a{how,
                      in<A>(constants),
                      in<A>(capacity),
                      in<int64_t>(row_ids),
                      in<int64_t>(draw_ids),
                      out<A>(workspace),
                      out<A>(value),
                      out<int64_t>(tokens),
                      out<int64_t>(lengths),
                      B,
                      static_cast<int>(steps),
                      static_cast<A>(cap)};
    start(plan, on.stream, net, a, static_cast<int>(width));
  };
  type == ScalarType::Double ? run(double{}) : run(float{});
  return {value, tokens, lengths};
}

}  // namespace

ORD_CUDA_OPS(m) { m.impl("value_decode", TORCH_BOX(&value_decode)); }
