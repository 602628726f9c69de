// scaled_cross_entropy on the CPU: one pass, one lane per row (rows of a few classes are shorter than a vector).
#include "scratch.h"
#include "tensors.h"
#define FERKIT_KERNELS "scaled_cross_entropy_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 13;  // logits worth a thread

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static inline const auto loss = FERKIT_PICK(loss_rows_f32);
  static inline const auto gradient = FERKIT_PICK(gradient_rows_f32);
  static inline const auto sum = FERKIT_PICK(sum_rows_f32);
};
template <>
struct Rows<double> {
  static inline const auto loss = FERKIT_PICK(loss_rows_f64);
  static inline const auto gradient = FERKIT_PICK(gradient_rows_f64);
  static inline const auto sum = FERKIT_PICK(sum_rows_f64);
};

const auto kLabelled = FERKIT_PICK(labelled);

int64_t count_and_check(const int64_t* labels, int64_t size, int64_t classes) {
  bool wrong = false;
  const int64_t count = kLabelled(labels, size, classes, &wrong);
  if (wrong) check_label_range(labels, size, classes);
  return count;
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& logits, const Tensor& scale, const Tensor& labels, bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1);
  Tensor loss = make(mean ? Shape{} : Shape{size}, logits.scalar_type());
  Tensor normaliser = make({size, 2}, logits.scalar_type());
  const T *z = in<T>(logits), *s = in<T>(scale);
  const int64_t* y = in<int64_t>(labels);
  const int64_t count = count_and_check(y, size, classes);
  T *l = out<T>(loss), *n = out<T>(normaliser);
  const Scratch<T> rows(mean ? size : 0);
  if (mean) l = rows.get();
  parallel(size, classes, kGrain, [&](int64_t b, int64_t e) {
    std::vector<T> block(round_up(classes, 8) * Simd<T>::lanes);
    Rows<T>::loss(b, e, size, classes, z, s, y, l, n, block.data());
  });
  if (mean) *out<T>(loss) = static_cast<T>(count == 0 ? 0 : Rows<T>::sum(l, size) / count);
  return {loss, normaliser};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& logits, const Tensor& scale, const Tensor& labels, const Tensor& normaliser,
    bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1);
  Tensor d_logits = make({size, classes}, logits.scalar_type());
  Tensor d_scale = make({size}, scale.scalar_type());
  const T *g = in<T>(grad), *z = in<T>(logits), *s = in<T>(scale), *n = in<T>(normaliser);
  const int64_t* y = in<int64_t>(labels);
  // where no row is labelled, none reads the gradient
  const int64_t count = count_and_check(y, size, classes), every = mean ? 0 : 1;
  const T divisor = static_cast<T>(mean && count > 0 ? count : 1);
  T *dz = out<T>(d_logits), *ds = out<T>(d_scale);
  parallel(size, classes, kGrain, [&](int64_t b, int64_t e) {
    std::vector<T> block(round_up(classes, 8) * Simd<T>::lanes);
    Rows<T>::gradient(b, e, size, classes, every, divisor, g, z, s, y, n, dz, ds, block.data());
  });
  return {d_logits, d_scale};
}

void check(const Tensor& logits, const Tensor& scale, const Tensor& labels) {
  check_floating(logits, "logits");
  require(logits.dim() == 2, "logits: expected shape (N, C)");
  check_same(scale, logits, "scale");
  check_shape(scale, {logits.size(0)}, "scale");
  check_labels(labels, logits.size(0));
}

std::tuple<Tensor, Tensor> scaled_cross_entropy(Tensor logits, Tensor scale, Tensor labels, bool mean) {
  check(logits, scale, labels);
  logits = dense(logits), scale = dense(scale), labels = dense(labels);
  return by_dtype(logits, [&](auto type) { return forward<decltype(type)>(logits, scale, labels, mean); });
}

std::tuple<Tensor, Tensor> scaled_cross_entropy_backward(
    Tensor grad, Tensor logits, Tensor scale, Tensor labels, Tensor normaliser, bool mean) {
  check(logits, scale, labels);
  check_same(grad, logits, "grad"), check_same(normaliser, logits, "normaliser");
  check_shape(grad, mean ? Shape{} : Shape{logits.size(0)}, "grad");
  check_shape(normaliser, {logits.size(0), 2}, "normaliser");
  grad = dense(grad), logits = dense(logits), scale = dense(scale), labels = dense(labels);
  normaliser = dense(normaliser);
  return by_dtype(logits, [&](auto type) {
    return backward<decltype(type)>(grad, logits, scale, labels, normaliser, mean);
  });
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("scaled_cross_entropy", TORCH_BOX(&ferkit::scaled_cross_entropy));
  m.impl("scaled_cross_entropy_backward", TORCH_BOX(&ferkit::scaled_cross_entropy_backward));
}
