// neighbor_divergence on the CPU: one pass over the neighbours, one lane per centre. See docs/math/neighbor_divergence.md.
#include "neighbor_divergence.h"

#include "tensors.h"

namespace ferkit {
namespace {

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1), count = weight.size(1);
  Tensor loss = make(mean ? Shape{} : Shape{size}, logits.scalar_type());
  Tensor residual = make({size, classes}, logits.scalar_type());
  Tensor divergence = make({size, count}, logits.scalar_type());
  const T *z = in<T>(logits), *v = in<T>(neighbors), *w = in<T>(weight);
  const T factor = divergence_share<T>(mean, size);
  T *l = out<T>(loss), *r = out<T>(residual), *d = out<T>(divergence);
  std::vector<T> rows(mean ? size : 0);
  if (mean) l = rows.data();
  parallel(size, (count + 1) * classes, kDivergenceGrain, [&](int64_t b, int64_t e) {
    divergence_rows<T>(b, e, count, classes, factor, z, v, w, l, r, d);
  });
  if (mean) *out<T>(loss) = divergence_mean(l, size);
  return {loss, residual, divergence};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& logits, const Tensor& neighbors, const Tensor& weight, const Tensor& residual,
    const Tensor& divergence, bool mean, bool asked) {
  const int64_t size = logits.size(0), classes = logits.size(1), count = weight.size(1);
  Tensor d_logits = make({size, classes}, logits.scalar_type());
  Tensor d_weight = make({size, count}, logits.scalar_type());
  const Shape shape = asked ? Shape{size, count, classes} : Shape{0};
  Tensor d_neighbors = make(shape, logits.scalar_type());
  const T *g = in<T>(grad), *z = in<T>(logits), *v = in<T>(neighbors), *w = in<T>(weight);
  const T *r = in<T>(residual), *d = in<T>(divergence);
  T *dz = out<T>(d_logits), *dw = out<T>(d_weight), *dv = out<T>(d_neighbors);
  const int64_t every = mean ? 0 : 1;  // one gradient for all, or one each
  const T factor = divergence_share<T>(mean, size);
  parallel(size, (count + 1) * classes, kDivergenceGrain, [&](int64_t b, int64_t e) {
    for (int64_t n = b; n < e; ++n) {
      for (int64_t c = 0; c < classes; ++c) dz[n * classes + c] = g[n * every] * r[n * classes + c];
      for (int64_t k = 0; k < count; ++k) dw[n * count + k] = g[n * every] * d[n * count + k];
    }
    if (asked) divergence_gradient_rows<T>(b, e, count, classes, factor, every, g, z, v, w, d, dv);
  });
  return {d_logits, d_neighbors, d_weight};
}

void check(const Tensor& logits, const Tensor& neighbors, const Tensor& weight) {
  check_floating(logits, "logits");
  require(logits.dim() == 2, "logits: expected shape (N, C)");
  require(weight.dim() == 2, "weight: expected shape (N, K)");
  check_same(neighbors, logits, "neighbor_logits"), check_same(weight, logits, "weight");
  check_shape(weight, {logits.size(0), weight.size(1)}, "weight");
  check_shape(neighbors, {logits.size(0), weight.size(1), logits.size(1)}, "neighbor_logits");
}

std::tuple<Tensor, Tensor, Tensor> neighbor_divergence(Tensor logits, Tensor neighbors, Tensor weight, bool mean) {
  check(logits, neighbors, weight);
  logits = dense(logits), neighbors = dense(neighbors), weight = dense(weight);
  return logits.scalar_type() == ScalarType::Float ? forward<float>(logits, neighbors, weight, mean)
                                                   : forward<double>(logits, neighbors, weight, mean);
}

std::tuple<Tensor, Tensor, Tensor> neighbor_divergence_backward(
    Tensor grad, Tensor logits, Tensor neighbors, Tensor weight, Tensor residual, Tensor divergence, bool mean,
    bool asked) {
  check(logits, neighbors, weight);
  check_same(grad, logits, "grad"), check_same(residual, logits, "residual");
  check_same(divergence, logits, "divergence");
  check_shape(grad, mean ? Shape{} : Shape{logits.size(0)}, "grad");
  check_shape(residual, {logits.size(0), logits.size(1)}, "residual");
  check_shape(divergence, {logits.size(0), weight.size(1)}, "divergence");
  grad = dense(grad), logits = dense(logits), neighbors = dense(neighbors), weight = dense(weight);
  residual = dense(residual), divergence = dense(divergence);
  return logits.scalar_type() == ScalarType::Float
             ? backward<float>(grad, logits, neighbors, weight, residual, divergence, mean, asked)
             : backward<double>(grad, logits, neighbors, weight, residual, divergence, mean, asked);
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("neighbor_divergence", TORCH_BOX(&ferkit::neighbor_divergence));
  m.impl("neighbor_divergence_backward", TORCH_BOX(&ferkit::neighbor_divergence_backward));
}
