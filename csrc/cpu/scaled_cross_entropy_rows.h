// The passes of scaled_cross_entropy over rows, one lane per row.
// Included by kernels.h, inside the instruction set's namespace.

// Labels in lanes as wide as T's, to be compared with class numbers.
template <typename T>
using Whole = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <typename T>
using Labels = Vec<Whole<T>>;

// Lanes beyond `used` hold 0.
template <typename T>
FERKIT_INLINE void load_labels(Labels<T>& to, const int64_t* from, int used) {
  constexpr int L = Simd<T>::lanes;
  Whole<T> lanes[L] = {};
  if (used == L)
    for (int i = 0; i < L; ++i) lanes[i] = static_cast<Whole<T>>(from[i]);
  else
    for (int i = 0; i < used; ++i) lanes[i] = static_cast<Whole<T>>(from[i]);
  load<Whole<T>>(to, lanes);
}

// (a0, b0, a1, b1, ...) in two vectors, and back.
template <typename T>
FERKIT_INLINE void interleave(const Vec<T>& a, const Vec<T>& b, T* to) {
  constexpr int W = Vec<T>::width;
  Places<T> low = {}, high = {};
  for (int i = 0; i < W; ++i) low[i] = i / 2 + i % 2 * W, high[i] = W / 2 + i / 2 + i % 2 * W;
  for (int p = 0; p < Vec<T>::parts; ++p) {
    const auto first = shuffle<T>(a.at[p], b.at[p], low), second = shuffle<T>(a.at[p], b.at[p], high);
    std::memcpy(to + 2 * p * W, &first, FERKIT_REGISTER), std::memcpy(to + (2 * p + 1) * W, &second, FERKIT_REGISTER);
  }
}
template <typename T>
FERKIT_INLINE void separate(const T* from, Vec<T>& a, Vec<T>& b) {
  constexpr int W = Vec<T>::width;
  Places<T> even = {}, odd = {};
  for (int i = 0; i < W; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  for (int p = 0; p < Vec<T>::parts; ++p) {
    typename Vec<T>::Part first, second;
    std::memcpy(&first, from + 2 * p * W, FERKIT_REGISTER);
    std::memcpy(&second, from + (2 * p + 1) * W, FERKIT_REGISTER);
    a.at[p] = shuffle<T>(first, second, even), b.at[p] = shuffle<T>(first, second, odd);
  }
}

template <typename T>
FERKIT_INLINE void loss_rows(
    int64_t begin, int64_t end, int64_t size, int64_t classes, const T* logits, const T* scale, const int64_t* labels,
    T* loss, T* normaliser, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    gather<T>(logits + n * classes, classes, used, (size - n) * classes, classes, block);
    Vec<T> factor, top, total = {}, picked = {};
    Labels<T> label;
    load_labels<T>(label, labels + n, used);
    if (used == L)
      load<T>(factor, scale + n);
    else
      load_some<T>(factor, scale + n, used);
    top = Vec<T>::all(-std::numeric_limits<T>::infinity());
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, block + c * L);
      v = v * factor;
      top = if_less(top, v, v, top);
      picked = if_equal(label, Labels<T>::all(static_cast<Whole<T>>(c)), v, picked);
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
    value = if_less(label, Labels<T>{}, Vec<T>{}, (top - picked) + value);
    if (used == L) {
      store<T>(loss + n, value);
      interleave<T>(top, total, normaliser + 2 * n);
    } else {
      T pairs[2 * L];
      interleave<T>(top, total, pairs);
      store_some<T>(loss + n, value, used);
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
    gather<T>(logits + n * classes, classes, used, (size - n) * classes, classes, block);
    Vec<T> factor, top, total, weight = Vec<T>::all(shared), along = {};
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
      p = if_equal(label, Labels<T>::all(static_cast<Whole<T>>(c)), p - T(1), p);
      p = if_less(label, Labels<T>{}, Vec<T>{}, p * weight);  // an unlabelled row's NaN does not spread
      along += if_less(label, Labels<T>{}, Vec<T>{}, z * p);
      store<T>(block + c * L, if_less(label, Labels<T>{}, Vec<T>{}, p * factor));
    }
    scatter<T>(block, classes, used, classes, d_logits + n * classes);
    store_some<T>(d_scale + n, along, used);
  }
}

// How many rows are labelled; `wrong`: whether a label is outside -1..classes-1.
int64_t labelled(const int64_t* labels, int64_t size, int64_t classes, bool* wrong) {
  int64_t count = 0, outside = 0;
  for (int64_t n = 0; n < size; ++n) {
    count += labels[n] >= 0;
    outside += (labels[n] < -1) | (labels[n] >= classes);
  }
  *wrong = outside != 0;
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
  void loss_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t size, int64_t c, const T* z, const T* s, const int64_t* y, T* l, T* n,         \
      T* block) {                                                                                                  \
    loss_rows<T>(b, e, size, c, z, s, y, l, n, block);                                                             \
  }                                                                                                                \
  void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t size, int64_t c, int64_t every, T divisor, const T* g, const T* z, const T* s, \
      const int64_t* y, const T* n, T* dz, T* ds, T* block) {                                                      \
    gradient_rows<T>(b, e, size, c, every, divisor, g, z, s, y, n, dz, ds, block);                                 \
  }                                                                                                                \
  double sum_rows_##S(const T* rows, int64_t size) { return sum_rows<T>(rows, size); }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
