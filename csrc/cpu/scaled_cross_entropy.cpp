// scaled_cross_entropy on the CPU: one pass, one lane per row (rows of a few classes are shorter than a vector).
#include "scratch.h"
#include "tensors.h"
#include "transpose.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 13;  // logits worth a thread

// Labels in lanes as wide as T's, to be compared with class numbers; lanes beyond `used` hold 0.
template <typename T>
struct LabelsOf {
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Int;
  typedef Int type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Labels = typename LabelsOf<T>::type;

template <typename T>
FERKIT_INLINE void load_labels(Labels<T>& to, const int64_t* from, int used) {
  constexpr int L = Simd<T>::lanes;
  typedef int64_t Wide __attribute__((vector_size(8 * L)));
  Wide wide = {};
  if (used == L)
    std::memcpy(&wide, from, sizeof(wide));
  else
    std::memcpy(&wide, from, sizeof(int64_t) * used);
  to = __builtin_convertvector(wide, Labels<T>);
}

// (a0, b0, a1, b1, ...) in two vectors, and back.
template <typename T>
FERKIT_INLINE void interleave(const Vec<T>& a, const Vec<T>& b, T* to) {
  constexpr int L = Simd<T>::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  Labels<T> low = {}, high = {};
  for (int i = 0; i < L; ++i) low[i] = i / 2 + i % 2 * L, high[i] = L / 2 + i / 2 + i % 2 * L;
  store<T>(to, __builtin_shuffle(a, b, low)), store<T>(to + L, __builtin_shuffle(a, b, high));
#else
  for (int i = 0; i < L; ++i) to[2 * i] = a[i], to[2 * i + 1] = b[i];
#endif
}
template <typename T>
FERKIT_INLINE void separate(const T* from, Vec<T>& a, Vec<T>& b) {
  constexpr int L = Simd<T>::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  Labels<T> even = {}, odd = {};
  for (int i = 0; i < L; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  Vec<T> low, high;
  load<T>(low, from), load<T>(high, from + L);
  a = __builtin_shuffle(low, high, even), b = __builtin_shuffle(low, high, odd);
#else
  for (int i = 0; i < L; ++i) a[i] = from[2 * i], b[i] = from[2 * i + 1];
#endif
}

template <typename T>
FERKIT_INLINE void loss_rows(
    int64_t begin, int64_t end, int64_t size, int64_t classes, const T* logits, const T* scale, const int64_t* labels,
    T* loss, T* normaliser, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, size, classes, block);
    Vec<T> factor, top, total = {}, picked = {};
    Labels<T> label;
    load_labels<T>(label, labels + n, used);
    if (used == L)
      load<T>(factor, scale + n);
    else
      load_some<T>(factor, scale + n, used);
    top = Vec<T>{} - std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v * factor;
      top = v > top ? v : top;
      picked = label == (Labels<T>{} + static_cast<typename LabelsOf<T>::Int>(c)) ? v : picked;
    }
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v * factor - top;
      exp_lanes(v);
      total += v;
    }
    // With -inf in the row and NaN elsewhere the sum is NaN, hence so is the loss.
    Vec<T> value = total;
    log_lanes(value);
    value = label < Labels<T>{} ? Vec<T>{} : (top - picked) + value;
    if (used == L) {
      store<T>(loss + n, value);
      interleave<T>(top, total, normaliser + 2 * n);
    } else {
      T pairs[2 * L];
      interleave<T>(top, total, pairs);
      std::memcpy(loss + n, &value, sizeof(T) * used);
      std::memcpy(normaliser + 2 * n, pairs, 2 * sizeof(T) * used);
    }
  }
}

// `grad` holds one number a row, or (every = 0) one for all; either is divided by `divisor`.
template <typename T>
FERKIT_INLINE void gradient_rows(
    int64_t begin, int64_t end, int64_t size, int64_t classes, int64_t every, T divisor, const T* grad,
    const T* logits, const T* scale, const int64_t* labels, const T* normaliser, T* d_logits, T* d_scale, T* block) {
  constexpr int L = Simd<T>::lanes;
  const T shared = *grad / divisor;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, size, classes, block);
    Vec<T> factor, top, total, weight = Vec<T>{} + shared, along = {};
    Labels<T> label;
    load_labels<T>(label, labels + n, used);
    if (every != 0) load_some<T>(weight, grad + n, used);
    if (used == L) {
      load<T>(factor, scale + n);
      separate<T>(normaliser + 2 * n, top, total);
    } else {
      T pairs[2 * L] = {};
      std::memcpy(pairs, normaliser + 2 * n, 2 * sizeof(T) * used);
      separate<T>(pairs, top, total);
      load_some<T>(factor, scale + n, used);
    }
    const Vec<T> share = T(1) / total;
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> z, p;
      load<T>(z, block + c * L);
      p = z * factor - top;
      exp_lanes(p);
      p = p * share;
      p = label == (Labels<T>{} + static_cast<typename LabelsOf<T>::Int>(c)) ? p - T(1) : p;
      p = label < Labels<T>{} ? Vec<T>{} : p * weight;  // an unlabelled row's NaN does not spread
      along += label < Labels<T>{} ? Vec<T>{} : z * p;
      store<T>(block + c * L, label < Labels<T>{} ? Vec<T>{} : p * factor);
    }
    scatter<T>(block, n, used, classes, d_logits);
    std::memcpy(d_scale + n, &along, sizeof(T) * used);
  }
}

// How many rows are labelled; `wrong`: whether a label is outside -1..classes-1.
FERKIT_CLONES int64_t labelled(const int64_t* labels, int64_t size, int64_t classes, bool* wrong) {
  int64_t count = 0, outside = 0;
  for (int64_t n = 0; n < size; ++n) {
    count += labels[n] >= 0;
    outside += (labels[n] < -1) | (labels[n] >= classes);
  }
  *wrong = outside != 0;
  return count;
}

int64_t count_and_check(const int64_t* labels, int64_t size, int64_t classes) {
  bool wrong = false;
  const int64_t count = labelled(labels, size, classes, &wrong);
  if (wrong) check_label_range(labels, size, classes);
  return count;
}

// Sixteen sums side by side, then one over the other: vectors, and the same bits whatever their width.
template <typename T>
FERKIT_INLINE double sum_rows(const T* rows, int64_t size) {
  double part[16] = {};
  int64_t n = 0;
  for (; n + 16 <= size; n += 16)
    for (int i = 0; i < 16; ++i) part[i] += rows[n + i];
  for (int i = 0; n < size; ++n, ++i) part[i] += rows[n];
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

#define FERKIT_DEFINE(T, S)                                                                                        \
  FERKIT_CLONES void loss_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t size, int64_t c, const T* z, const T* s, const int64_t* y, T* l, T* n,         \
      T* block) {                                                                                                  \
    loss_rows<T>(b, e, size, c, z, s, y, l, n, block);                                                             \
  }                                                                                                                \
  FERKIT_CLONES void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t size, int64_t c, int64_t every, T divisor, const T* g, const T* z, const T* s, \
      const int64_t* y, const T* n, T* dz, T* ds, T* block) {                                                      \
    gradient_rows<T>(b, e, size, c, every, divisor, g, z, s, y, n, dz, ds, block);                                 \
  }                                                                                                                \
  FERKIT_CLONES double sum_rows_##S(const T* rows, int64_t size) { return sum_rows<T>(rows, size); }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto loss = loss_rows_f32;
  static constexpr auto gradient = gradient_rows_f32;
  static constexpr auto sum = sum_rows_f32;
};
template <>
struct Rows<double> {
  static constexpr auto loss = loss_rows_f64;
  static constexpr auto gradient = gradient_rows_f64;
  static constexpr auto sum = sum_rows_f64;
};

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
