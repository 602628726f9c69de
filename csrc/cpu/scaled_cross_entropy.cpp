// scaled_cross_entropy on the CPU: one pass, one lane per row (rows of a few classes are shorter than a vector).
#include "simd.h"
#include "tensors.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 13;  // logits worth a thread

// Rows of `classes` numbers to one vector per class and back, eight classes at a time: with L lanes, vector k holds row
// k (and, in float, row k + 8 in its other half) before, and class k of every row after.
template <typename T>
FERKIT_INLINE void transpose(Vec<T>* v) {
  constexpr int L = Simd<T>::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
#pragma GCC unroll 3
  for (int step = 1; step < 8; step *= 2) {
    Indices low = {}, high = {};
    for (int i = 0; i < L; ++i) {
      low[i] = i & step ? L + i - step : i;
      high[i] = i & step ? L + i : i + step;
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      if (k & step) continue;
      const Vec<T> a = v[k], b = v[k + step];
      v[k] = __builtin_shuffle(a, b, low), v[k + step] = __builtin_shuffle(a, b, high);
    }
  }
#else
  Vec<T> copy[8];
  for (int k = 0; k < 8; ++k) copy[k] = v[k];
  for (int k = 0; k < 8; ++k)
    for (int i = 0; i < L; ++i) v[k][i] = copy[i % 8][i / 8 * 8 + k];
#endif
}

// Copies rows [n, n + used) of `logits` into `block` (classes rounded up to 8, lanes), transposed; `total` rows in all.
template <typename T>
FERKIT_INLINE void gather(const T* logits, int64_t n, int used, int64_t total, int64_t classes, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t c = 0; c < classes; c += 8) {
    // Eight numbers are read even of a shorter row, unless that would leave the tensor.
    const bool inside = (n + used - 1) * classes + c + 8 <= total * classes;
    const int64_t count = inside || classes - c >= 8 ? 8 : classes - c;
    Vec<T> v[8];
    T part[8][L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      const T* from = logits + (n + (i < used ? i : 0)) * classes + c;
      if (count == 8)
        std::memcpy(&part[i % 8][i / 8 * 8], from, 8 * sizeof(T));
      else
        for (int64_t d = 0; d < 8; ++d) part[i % 8][i / 8 * 8 + d] = d < count ? from[d] : T(0);
    }
    for (int k = 0; k < 8; ++k) load<T>(v[k], part[k]);
    transpose<T>(v);
    for (int k = 0; k < 8; ++k) store<T>(block + (c + k) * L, v[k]);
  }
}

// The way back, for rows [n, n + used).
template <typename T>
FERKIT_INLINE void scatter(const T* block, int64_t n, int used, int64_t classes, T* logits) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t c = 0; c < classes; c += 8) {
    Vec<T> v[8];
    for (int k = 0; k < 8; ++k) load<T>(v[k], block + (c + k) * L);
    transpose<T>(v);
    const int64_t count = classes - c < 8 ? classes - c : 8;
    for (int i = 0; i < used; ++i) {
      const T* from = reinterpret_cast<const T*>(&v[i % 8]) + i / 8 * 8;
      T* to = logits + (n + i) * classes + c;
      if (count == 8)
        std::memcpy(to, from, 8 * sizeof(T));
      else
        for (int64_t d = 0; d < count; ++d) to[d] = from[d];
    }
  }
}

template <typename T>
FERKIT_INLINE void loss_rows(
    int64_t begin, int64_t end, int64_t size, int64_t classes, const T* logits, const T* scale, const int64_t* labels,
    T* loss, T* normaliser, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, size, classes, block);
    Vec<T> factor, top, total = {}, label, picked = {};
    T own[L], tops[L], totals[L];  // lanes are filled and read in memory: one at a time in a register costs more
    for (int i = 0; i < L; ++i) own[i] = static_cast<T>(labels[n + (i < used ? i : 0)]);  // classes are far below 2^24
    load<T>(label, own);
    load_some<T>(factor, scale + n, used);
    top = Vec<T>{} - std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v * factor;
      top = v > top ? v : top;
      picked = label == (Vec<T>{} + static_cast<T>(c)) ? v : picked;
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
    value = label < T(0) ? Vec<T>{} : (top - picked) + value;
    store<T>(own, value), store<T>(tops, top), store<T>(totals, total);
    for (int i = 0; i < used; ++i) {
      loss[n + i] = own[i];
      normaliser[2 * (n + i)] = tops[i];
      normaliser[2 * (n + i) + 1] = totals[i];
    }
  }
}

template <typename T>
FERKIT_INLINE void gradient_rows(
    int64_t begin, int64_t end, int64_t size, int64_t classes, const T* grad, const T* logits, const T* scale,
    const int64_t* labels, const T* normaliser, T* d_logits, T* d_scale, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits, n, used, size, classes, block);
    Vec<T> factor, top, total, weight, label, along = {};
    T own[L], tops[L], totals[L];
    for (int i = 0; i < L; ++i) {
      const int64_t m = n + (i < used ? i : 0);
      own[i] = static_cast<T>(labels[m]), tops[i] = normaliser[2 * m], totals[i] = normaliser[2 * m + 1];
    }
    load<T>(label, own), load<T>(top, tops), load<T>(total, totals);
    load_some<T>(factor, scale + n, used), load_some<T>(weight, grad + n, used);
    const Vec<T> share = T(1) / total;
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> z, p;
      load<T>(z, block + c * L);
      p = z * factor - top;
      exp_lanes(p);
      p = p * share;
      p = label == (Vec<T>{} + static_cast<T>(c)) ? p - T(1) : p;
      p = label < T(0) ? Vec<T>{} : p * weight;  // an unlabelled row's NaN does not spread
      along += label < T(0) ? Vec<T>{} : z * p;
      store<T>(block + c * L, label < T(0) ? Vec<T>{} : p * factor);
    }
    scatter<T>(block, n, used, classes, d_logits);
    store<T>(own, along);
    std::memcpy(d_scale + n, own, sizeof(T) * used);
  }
}

#define FERKIT_DEFINE(T, S)                                                                                        \
  FERKIT_CLONES void loss_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t size, int64_t c, const T* z, const T* s, const int64_t* y, T* l, T* n,         \
      T* block) {                                                                                                  \
    loss_rows<T>(b, e, size, c, z, s, y, l, n, block);                                                             \
  }                                                                                                                \
  FERKIT_CLONES void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t size, int64_t c, const T* g, const T* z, const T* s, const int64_t* y,         \
      const T* n, T* dz, T* ds, T* block) {                                                                        \
    gradient_rows<T>(b, e, size, c, g, z, s, y, n, dz, ds, block);                                                 \
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
    std::vector<T> block(round_up(classes, 8) * Simd<T>::lanes);
    Rows<T>::loss(b, e, size, classes, z, s, y, l, n, block.data());
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
    std::vector<T> block(round_up(classes, 8) * Simd<T>::lanes);
    Rows<T>::gradient(b, e, size, classes, g, z, s, y, n, dz, ds, block.data());
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
  check_shape(grad, mean ? std::vector<int64_t>{} : std::vector<int64_t>{logits.size(0)}, "grad");
  check_shape(normaliser, {logits.size(0), 2}, "normaliser");
  grad = dense(grad), logits = dense(logits), scale = dense(scale), labels = dense(labels);
  normaliser = dense(normaliser);
  check_label_range(in<int64_t>(labels), labels.size(0), logits.size(1));
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
