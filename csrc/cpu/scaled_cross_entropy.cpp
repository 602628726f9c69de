// scaled_cross_entropy on the CPU: one pass, one lane per row (rows of a few classes are shorter than a vector).
#include "simd.h"
#include "tensors.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 13;  // logits worth a thread

// Copies rows [n, n + used) of `logits` into `block` (C, lanes), transposed.
template <typename T>
FERKIT_INLINE void gather(const T* logits, int64_t n, int used, int64_t classes, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int i = 0; i < L; ++i) {
    const T* from = logits + (n + (i < used ? i : 0)) * classes;
    for (int64_t c = 0; c < classes; ++c) block[c * L + i] = from[c];
  }
}

template <typename T>
FERKIT_INLINE void loss_rows(
    int64_t begin, int64_t end, int64_t classes, const T* logits, const T* scale, const int64_t* labels, T* loss,
    T* normaliser, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, classes, block);
    Vec<T> factor, top, total = {};
    load_some<T>(factor, scale + n, used);
    top = Vec<T>{} - std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v * factor;
      store<T>(block + c * L, v);
      top = v > top ? v : top;
    }
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v - top;
      exp_lanes(v);
      total += v;
    }
    for (int i = 0; i < used; ++i) {
      const int64_t y = labels[n + i];
      // With -inf in the row and NaN elsewhere the sum is NaN, hence so is the loss.
      loss[n + i] = y < 0 ? T(0) : (top[i] - block[y * L + i]) + std::log(total[i]);
      normaliser[2 * (n + i)] = top[i];
      normaliser[2 * (n + i) + 1] = total[i];
    }
  }
}

template <typename T>
FERKIT_INLINE void gradient_rows(
    int64_t begin, int64_t end, int64_t classes, const T* grad, const T* logits, const T* scale, const int64_t* labels,
    const T* normaliser, T* d_logits, T* d_scale, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, classes, block);
    Vec<T> factor = {}, top = {}, share = {}, weight = {}, along = {};
    for (int i = 0; i < used; ++i) {
      factor[i] = scale[n + i];
      top[i] = normaliser[2 * (n + i)];
      share[i] = 1 / normaliser[2 * (n + i) + 1];
      weight[i] = labels[n + i] < 0 ? T(0) : grad[n + i];
    }
    Vec<T> label = {};
    for (int i = 0; i < used; ++i) label[i] = static_cast<T>(labels[n + i]);  // classes are far below 2^24
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> z, p;
      load<T>(z, block + c * L);
      p = z * factor - top;
      exp_lanes(p);
      p = p * share;
      p = label == (Vec<T>{} + static_cast<T>(c)) ? p - T(1) : p;
      p = p * weight;
      along += z * p;
      store<T>(block + c * L, p * factor);
    }
    for (int i = 0; i < used; ++i) {
      const bool off = labels[n + i] < 0;
      T* to = d_logits + (n + i) * classes;
      for (int64_t c = 0; c < classes; ++c) to[c] = off ? T(0) : block[c * L + i];
      d_scale[n + i] = off ? T(0) : along[i];
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                        \
  FERKIT_CLONES void loss_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t c, const T* z, const T* s, const int64_t* y, T* l, T* n, T* block) {           \
    loss_rows<T>(b, e, c, z, s, y, l, n, block);                                                                   \
  }                                                                                                                \
  FERKIT_CLONES void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t c, const T* g, const T* z, const T* s, const int64_t* y, const T* n, T* dz,    \
      T* ds, T* block) {                                                                                           \
    gradient_rows<T>(b, e, c, g, z, s, y, n, dz, ds, block);                                                       \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto loss = loss_rows_f32;
  static constexpr auto gradient = gradient_rows_f32;
};
template <>
struct Rows<double> {
  static constexpr auto loss = loss_rows_f64;
  static constexpr auto gradient = gradient_rows_f64;
};

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& logits, const Tensor& scale, const Tensor& labels, bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1);
  Tensor loss = make(logits, mean ? std::vector<int64_t>{} : std::vector<int64_t>{size}, logits.scalar_type());
  Tensor normaliser = make(logits, {size, 2}, logits.scalar_type());
  const T *z = in<T>(logits), *s = in<T>(scale);
  const int64_t* y = in<int64_t>(labels);
  check_label_range(y, size, classes);
  T *l = out<T>(loss), *n = out<T>(normaliser);
  std::vector<T> rows(mean ? size : 0);
  if (mean) l = rows.data();
  parallel(size, classes, kGrain, [&](int64_t b, int64_t e) {
    std::vector<T> block(classes * Simd<T>::lanes + 1);
    Rows<T>::loss(b, e, classes, z, s, y, l, n, block.data());
  });
  if (mean) {
    double sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) sum += l[i], count += y[i] >= 0;
    *out<T>(loss) = static_cast<T>(count == 0 ? 0 : sum / count);
  }
  return {loss, normaliser};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& logits, const Tensor& scale, const Tensor& labels, const Tensor& normaliser,
    bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1);
  Tensor d_logits = make(logits, {size, classes}, logits.scalar_type());
  Tensor d_scale = make(scale, {size}, scale.scalar_type());
  const T *g = in<T>(grad), *z = in<T>(logits), *s = in<T>(scale), *n = in<T>(normaliser);
  const int64_t* y = in<int64_t>(labels);
  std::vector<T> shared;
  if (mean) {
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) count += y[i] >= 0;
    shared.assign(size, count == 0 ? T(0) : *g / static_cast<T>(count));
    g = shared.data();
  }
  T *dz = out<T>(d_logits), *ds = out<T>(d_scale);
  parallel(size, classes, kGrain, [&](int64_t b, int64_t e) {
    std::vector<T> block(classes * Simd<T>::lanes + 1);
    Rows<T>::gradient(b, e, classes, g, z, s, y, n, dz, ds, block.data());
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
  return logits.scalar_type() == ScalarType::Float ? forward<float>(logits, scale, labels, mean)
                                                   : forward<double>(logits, scale, labels, mean);
}

std::tuple<Tensor, Tensor> scaled_cross_entropy_backward(
    Tensor grad, Tensor logits, Tensor scale, Tensor labels, Tensor normaliser, bool mean) {
  check(logits, scale, labels);
  check_same(grad, logits, "grad"), check_same(normaliser, logits, "normaliser");
  check_shape(grad, mean ? std::vector<int64_t>{} : std::vector<int64_t>{logits.size(0)}, "grad");
  check_shape(normaliser, {logits.size(0), 2}, "normaliser");
  grad = dense(grad), logits = dense(logits), scale = dense(scale), labels = dense(labels);
  normaliser = dense(normaliser);
  check_label_range(in<int64_t>(labels), labels.size(0), logits.size(1));
  return logits.scalar_type() == ScalarType::Float ? backward<float>(grad, logits, scale, labels, normaliser, mean)
                                                   : backward<double>(grad, logits, scale, labels, normaliser, mean);
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("scaled_cross_entropy", TORCH_BOX(&ferkit::scaled_cross_entropy));
  m.impl("scaled_cross_entropy_backward", TORCH_BOX(&ferkit::scaled_cross_entropy_backward));
}
