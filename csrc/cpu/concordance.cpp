// concordance on the CPU: moments in double, block by block (each read once), merged in a fixed order.
#include <numeric>
#include <optional>
#include <tuple>

#include "tensors.h"

namespace ferkit {
constexpr int kSums = 6;  // per target: mean x, mean y, Sxx, Syy, Sxy, sum w (x - y)^2
}

#define FERKIT_KERNELS "concordance_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 14;  // numbers worth a thread
constexpr int64_t kBlock = 1 << 10;  // numbers of each argument in a block: its doubles stay in the first-level cache
constexpr int kState = 6;            // mean x, mean y, CCC, 1 - CCC, 2 / D, ratio of the variances
constexpr double kNear = 0.5;        // below it 1 - CCC is what the gradient is formed from

// Lane i of a row-major (N, T) belongs to target i mod T; after `period` numbers lanes and targets line up again.
template <typename T>
int64_t period_of(int64_t width) {
  return std::lcm(width, static_cast<int64_t>(Simd<T>::lanes));
}

template <typename T>
struct Parts;
template <>
struct Parts<float> {
  static inline const auto sums = FERKIT_PICK(block_sums_f32);
  static inline const auto gradient = FERKIT_PICK(gradient_range_f32);
};
template <>
struct Parts<double> {
  static inline const auto sums = FERKIT_PICK(block_sums_f64);
  static inline const auto gradient = FERKIT_PICK(gradient_range_f64);
};

// Adds block `from` (total weight `more`) to `to` (total weight `have`), per target: Chan, Golub and LeVeque.
void merge(int64_t width, double have, double more, const double* from, double* to) {
  if (more == 0) return;
  const double share = more / (have + more), cross = have * share;
  for (int64_t t = 0; t < width; ++t) {
    const double step_x = from[t] - to[t], step_y = from[width + t] - to[width + t];
    to[t] += step_x * share, to[width + t] += step_y * share;
    to[2 * width + t] += from[2 * width + t] + cross * step_x * step_x;
    to[3 * width + t] += from[3 * width + t] + cross * step_y * step_y;
    to[4 * width + t] += from[4 * width + t] + cross * step_x * step_y;
    to[5 * width + t] += from[5 * width + t];
  }
}

// The state of one target from its sums; see docs/math/concordance.md.
template <typename T>
void finish(double total, double squares, bool released, const double* sums, int64_t width, double* state) {
  const double mean_x = sums[0], mean_y = sums[width], spread = sums[2 * width] + sums[3 * width];
  const double gap = mean_x - mean_y, room = total * total - squares;
  const bool several = released && room > 0;
  const double ratio = several ? total * total / room : 1;
  const double bottom = ratio * spread + total * gap * gap, largest = sizeof(T) == 4 ? 1e38 : 1e300;
  state[0] = mean_x, state[1] = mean_y, state[5] = ratio;
  if (bottom == 0) {
    const double agree = released ? (several ? room / (total * total) : 0) : 1;
    state[2] = total == 0 ? 0 : agree, state[3] = total == 0 ? 0 : 1 - agree, state[4] = 0;
    return;
  }
  const double scale = 2 / bottom;
  state[4] = scale > largest ? largest : scale;
  state[2] = sums[4 * width] * state[4];
  state[3] = (sums[5 * width] + (ratio - 1) * spread) * (state[4] / 2);
}

template <typename T>
std::tuple<Tensor, Tensor> forward(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& weight, bool released, bool loss,
    bool mean) {
  const int64_t size = prediction.size(0), width = prediction.size(1);
  const Shape shape = mean ? Shape{} : Shape{width};
  Tensor value = make(shape, prediction.scalar_type());
  Tensor state = make({width, kState}, ScalarType::Double);
  const T *x = in<T>(prediction), *y = in<T>(target), *w = weight ? in<T>(*weight) : nullptr;
  T* to = out<T>(value);
  double* kept = out<double>(state);
  if (width == 0) {
    if (mean) *to = 0;
    return {value, state};
  }
  const int64_t period = period_of<double>(width);
  const int64_t rows = std::max<int64_t>(1, kBlock / period) * period / width;  // in a block; of the shape alone
  const int64_t blocks = std::max<int64_t>(1, (size + rows - 1) / rows), entry = 2 + kSums * width;
  std::vector<double> partial(blocks * entry);
  parallel(size == 0 ? 0 : blocks, rows * width, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t most = round_up(std::min(rows, size) * width, period);
    std::vector<double> scratch(most * (w == nullptr ? 2 : 3) + 4 * period);
    double *u = scratch.data(), *v = u + most, *lanes = v + most, *spread = lanes + 4 * period;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t n = b * rows;
      double* p = partial.data() + b * entry;
      Parts<T>::sums(
          std::min(rows, size - n), width, period, x + n * width, y + n * width, w == nullptr ? nullptr : w + n, u, v,
          spread, lanes, p, p + 1, p + 2);
    }
  });
  double* sums = partial.data();
  for (int64_t b = 1; b < blocks; ++b) {
    const double* from = partial.data() + b * entry;
    if (sums[0] == 0 && from[0] != 0)
      std::copy(from + 2, from + entry, sums + 2);
    else
      merge(width, sums[0], from[0], from + 2, sums + 2);
    sums[0] += from[0], sums[1] += from[1];
  }
  double all = 0;
  for (int64_t t = 0; t < width; ++t) {
    finish<T>(sums[0], sums[1], released, sums + 2 + t, width, kept + t * kState);
    const double one = kept[t * kState + (loss ? 3 : 2)];
    all += one;
    if (!mean) to[t] = static_cast<T>(one);
  }
  if (mean) *to = static_cast<T>(all / static_cast<double>(width));
  return {value, state};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& weight,
    const Tensor& state, bool loss, bool mean, bool with_target) {
  const int64_t size = prediction.size(0), width = prediction.size(1), count = size * width;
  Tensor d_prediction = make({size, width}, prediction.scalar_type());
  Tensor d_target =
      make(with_target ? Shape{size, width} : Shape{0}, target.scalar_type());
  if (count == 0) return {d_prediction, d_target};
  const T *x = in<T>(prediction), *y = in<T>(target), *w = weight ? in<T>(*weight) : nullptr, *g = in<T>(grad);
  T *dx = out<T>(d_prediction), *dy = with_target ? out<T>(d_target) : nullptr;
  const double* kept = in<double>(state);
  const int64_t period = period_of<T>(width);
  std::vector<T> of(7 * period);
  for (int64_t t = 0; t < width; ++t) {
    const double *s = kept + t * kState, ccc = s[2], rest = s[3], ratio = s[5], gap = s[0] - s[1];
    double factor = mean ? static_cast<double>(*g) / static_cast<double>(width) : static_cast<double>(g[t]);
    factor *= loss ? -s[4] : s[4];
    const bool near = rest < kNear;
    const double own = factor * (near ? rest * ratio + (1 - ratio) : -ccc * ratio), other = near ? 0 : factor;
    const double level = factor * (near ? rest : -ccc) * gap;
    // The means as numbers of type T; what they lack goes into the constant, in double.
    const T base_x = static_cast<T>(s[0]), base_y = static_cast<T>(s[1]);
    const double low_x = s[0] - static_cast<double>(base_x), low_y = s[1] - static_cast<double>(base_y);
    const T entry[7] = {
        base_x,
        base_y,
        static_cast<T>(own),
        static_cast<T>(other),
        near ? static_cast<T>(factor) : T(0),
        static_cast<T>(level - own * low_x - other * low_y),
        static_cast<T>(-level - own * low_y - other * low_x)};
    for (int k = 0; k < 7; ++k)
      for (int64_t i = t; i < period; i += width) of[k * period + i] = entry[k];
  }
  const int64_t block = std::max<int64_t>(1, (1 << 12) / period) * period, blocks = (count + block - 1) / block;
  parallel(blocks, block, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      Parts<T>::gradient(b * block, std::min((b + 1) * block, count), width, period, x, y, w, of.data(), dx, dy);
  });
  return {d_prediction, d_target};
}

void check(const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& weight) {
  check_floating(prediction, "prediction");
  require(prediction.dim() == 2, "prediction: expected shape (N, T)");
  check_same(target, prediction, "target");
  check_shape(target, {prediction.size(0), prediction.size(1)}, "target");
  if (!weight) return;
  check_same(*weight, prediction, "weight");
  check_shape(*weight, {prediction.size(0)}, "weight");
}

std::tuple<Tensor, Tensor> concordance(
    Tensor prediction, Tensor target, std::optional<Tensor> weight, bool released, bool loss, bool mean) {
  check(prediction, target, weight);
  prediction = dense(prediction), target = dense(target);
  if (weight) weight = dense(*weight);
  return prediction.scalar_type() == ScalarType::Float
             ? forward<float>(prediction, target, weight, released, loss, mean)
             : forward<double>(prediction, target, weight, released, loss, mean);
}

std::tuple<Tensor, Tensor> concordance_backward(
    Tensor grad, Tensor prediction, Tensor target, std::optional<Tensor> weight, Tensor state, bool released, bool loss,
    bool mean, bool with_target) {
  (void)released;  // the ratio in the state says it
  check(prediction, target, weight);
  check_same(grad, prediction, "grad");
  check_shape(grad, mean ? Shape{} : Shape{prediction.size(1)}, "grad");
  require(state.is_cpu() && state.scalar_type() == ScalarType::Double, "state: expected a float64 CPU tensor");
  check_shape(state, {prediction.size(1), kState}, "state");
  grad = dense(grad), prediction = dense(prediction), target = dense(target), state = dense(state);
  if (weight) weight = dense(*weight);
  return prediction.scalar_type() == ScalarType::Float
             ? backward<float>(grad, prediction, target, weight, state, loss, mean, with_target)
             : backward<double>(grad, prediction, target, weight, state, loss, mean, with_target);
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("concordance", TORCH_BOX(&ferkit::concordance));
  m.impl("concordance_backward", TORCH_BOX(&ferkit::concordance_backward));
}
