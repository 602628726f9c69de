// The passes of class_similarity over rows.
// Included by kernels.h, inside the instruction set's namespace.

constexpr double kShort = 1e-12;  // a shorter vector counts as a zero vector

template <typename T>
FERKIT_INLINE double squares(const T* x, int64_t width) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> acc[4] = {};
  int64_t d = 0;
  for (; d + 4 * L <= width; d += 4 * L)
    for (int u = 0; u < 4; ++u) {
      Vec<T> v;
      load<T>(v, x + d + u * L);
      acc[u] += v * v;
    }
  for (; d < width; d += L) {
    Vec<T> v;
    load_some<T>(v, x + d, width - d < L ? width - d : L);
    acc[0] += v * v;
  }
  const double sum = sum_lanes<T>((acc[0] + acc[1]) + (acc[2] + acc[3]));
  if (sum > 1e-20 && sum < 1e30) return sum;
  double wide = 0;  // near the ends of float's range, and for NaN
  for (int64_t i = 0; i < width; ++i) wide += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return wide;
}

// Rows [begin, end): inverse norms, and the sum of each class's unit vectors into sums (C, D), which starts at zero.
template <typename T>
FERKIT_INLINE void sum_rows(
    int64_t begin, int64_t end, int64_t width, const T* features, const int64_t* labels, T* inverse, T* sums) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; ++n) {
    inverse[n] = 0;
    if (labels[n] < 0) continue;
    const T* x = features + n * width;
    const double norm = std::sqrt(squares<T>(x, width));
    const T inv = norm < kShort ? T(0) : static_cast<T>(1 / norm);
    inverse[n] = inv;
    T* to = sums + labels[n] * width;
    int64_t d = 0;
    for (; d + L <= width; d += L) {
      Vec<T> v, s;
      load<T>(v, x + d);
      load<T>(s, to + d);
      store<T>(to + d, s + v * inv);
    }
    for (; d < width; ++d) to[d] += x[d] * inv;
  }
}

template <typename T, int K>
FERKIT_INLINE void dots(const T* x, const T* rows, int64_t stride, int64_t width, T* result) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> acc[K] = {};
  int64_t d = 0;
  for (; d + L <= width; d += L) {
    Vec<T> v;
    load<T>(v, x + d);
    for (int k = 0; k < K; ++k) {
      Vec<T> r;
      load<T>(r, rows + k * stride + d);
      acc[k] += v * r;
    }
  }
  for (int k = 0; k < K; ++k) result[k] = sum_lanes<T>(acc[k]);
  for (; d < width; ++d)
    for (int k = 0; k < K; ++k) result[k] += x[d] * rows[k * stride + d];
}

// result (R, 8) = R rows x times eight rows, R = lanes / 8: as many sums as lanes, folded at once.
template <typename T>
FERKIT_INLINE void dots_by_eight(const T* const* x, const T* rows, int64_t stride, int64_t width, T* result) {
  constexpr int L = Simd<T>::lanes, R = L / 8;
  const T* y[8];
  for (int k = 0; k < 8; ++k) y[k] = rows + k * stride;
  Vec<T> acc[L];
  products<T, R, 8>(x, y, width, acc);
  lane_sums<T>(acc);
  store<T>(result, acc[0]);
  for (int64_t d = width / L * L; d < width; ++d)
    for (int i = 0; i < L; ++i) result[i] += x[i / 8][d] * y[i % 8][d];
}

template <typename T>
FERKIT_INLINE T share(T count, bool own, bool include_self) {
  const T met = count - (own && !include_self ? T(1) : T(0));
  return met > 0 ? 1 / met : T(0);
}

template <typename T>
FERKIT_INLINE void similarity_rows(
    int64_t begin, int64_t end, int64_t width, int64_t classes, bool include_self, const T* features,
    const int64_t* labels, const T* inverse, const T* counts, const T* sums, T* mean) {
  constexpr int L = Simd<T>::lanes, R = L / 8;
  for (int64_t first = begin; first < end; first += R) {
    const int64_t rows = end - first < R ? end - first : R;
    const T* x[R];
    for (int64_t r = 0; r < R; ++r) x[r] = features + (first + (r < rows ? r : 0)) * width;
    int64_t j = 0;
    for (; j + 8 <= classes; j += 8) {
      T block[L];
      dots_by_eight<T>(x, sums + j * width, width, width, block);
      for (int64_t r = 0; r < rows; ++r)
        for (int k = 0; k < 8; ++k) mean[(first + r) * classes + j + k] = block[8 * r + k];
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* to = mean + (first + r) * classes;
      int64_t k = j;
      for (; k + 2 <= classes; k += 2) dots<T, 2>(x[r], sums + k * width, width, width, to + k);
      for (; k < classes; ++k) dots<T, 1>(x[r], sums + k * width, width, width, to + k);
    }
    for (int64_t n = first; n < first + rows; ++n) {
      const T inv = inverse[n], self = inv == 0 ? T(0) : T(1);
      for (j = 0; j < classes; ++j) {
        const bool own = labels[n] == j;
        const T value = mean[n * classes + j] * inv - (own && !include_self ? self : T(0));
        mean[n * classes + j] = labels[n] < 0 ? T(0) : value * share<T>(counts[j], own, include_self);
      }
    }
  }
}

// weight (N, C) = grad * share, and pulls (C, D) += sum_n weight_nj unit_n; `room` holds weight / |f|, the classes
// filled up to eight.
template <typename T>
FERKIT_INLINE void pull_rows(
    int64_t begin, int64_t end, int64_t width, int64_t classes, bool include_self, const T* features,
    const int64_t* labels, const T* inverse, const T* counts, const T* grad, T* weight, T* room, T* pulls) {
  constexpr int L = Simd<T>::lanes, W = 2 * L;
  const int64_t eights = round_up(classes, 8);
  for (int64_t n = begin; n < end; ++n)
    for (int64_t j = 0; j < eights; ++j) {
      const bool in = labels[n] >= 0 && j < classes;
      const T value = in ? grad[n * classes + j] * share<T>(counts[j], labels[n] == j, include_self) : T(0);
      if (j < classes) weight[n * classes + j] = value;
      room[n * eights + j] = value * inverse[n];
    }
  // Unlabelled rows are skipped, not multiplied by zero: their NaN must not spread.
  for (int64_t n = begin; n < end;) {
    if (labels[n] < 0) {
      ++n;
      continue;
    }
    const int64_t from = n;
    while (n < end && labels[n] >= 0) ++n;
    const T *x = features + from * width, *a = room + from * eights;
    for (int64_t j = 0; j < classes; j += 8) {
      const int64_t used = classes - j < 8 ? classes - j : 8;
      int64_t d = 0;
      for (; d + W <= width; d += W) {
        T sum[8 * W];
        tile<T, 8, 2>(n - from, a + j, 1, eights, x + d, width, sum, W, false);
        for (int64_t k = 0; k < used; ++k)
          for (int i = 0; i < W; ++i) pulls[(j + k) * width + d + i] += sum[k * W + i];
      }
      for (; d < width; ++d)
        for (int64_t k = 0; k < used; ++k) {
          T sum = 0;
          for (int64_t m = 0; m < n - from; ++m) sum += x[m * width + d] * a[m * eights + j + k];
          pulls[(j + k) * width + d] += sum;
        }
    }
  }
}

// d f = (d u - u (u . d u)) / |f|, d u = sum_j weight_j T_j + pulls_y - [self left out] 2 weight_y u.
template <typename T>
FERKIT_INLINE void gradient_rows(
    int64_t begin, int64_t end, int64_t width, int64_t classes, bool include_self, const T* features,
    const int64_t* labels, const T* inverse, const T* sums, const T* pulls, const T* weight, T* result) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t n = begin; n < end; ++n) {
    T* to = result + n * width;
    const T inv = inverse[n];
    if (labels[n] < 0 || inv == 0) {
      for (int64_t d = 0; d < width; ++d) to[d] = 0;
      continue;
    }
    const T* x = features + n * width;
    const T* w = weight + n * classes;
    const T* pull = pulls + labels[n] * width;
    Vec<T> acc = {};
    int64_t d = 0;
    for (; d + 4 * L <= width; d += 4 * L) {
      Vec<T> v[4];
      for (int u = 0; u < 4; ++u) load<T>(v[u], pull + d + u * L);
      for (int64_t j = 0; j < classes; ++j)
        for (int u = 0; u < 4; ++u) {
          Vec<T> t;
          load<T>(t, sums + j * width + d + u * L);
          v[u] += t * w[j];
        }
      for (int u = 0; u < 4; ++u) {
        Vec<T> f;
        load<T>(f, x + d + u * L);
        acc += f * v[u];
        store<T>(to + d + u * L, v[u]);
      }
    }
    T along = sum_lanes<T>(acc);
    for (; d < width; ++d) {
      T value = pull[d];
      for (int64_t j = 0; j < classes; ++j) value += sums[j * width + d] * w[j];
      to[d] = value;
      along += x[d] * value;
    }
    // The term 2 weight_y u is parallel to u: the projection removes it, so it is never formed.
    (void)include_self;
    along = along * inv * inv * inv;  // in this order: the cube alone may leave the range
    for (d = 0; d + L <= width; d += L) {
      Vec<T> v, f;
      load<T>(v, to + d);
      load<T>(f, x + d);
      store<T>(to + d, v * inv - f * along);
    }
    for (; d < width; ++d) to[d] = to[d] * inv - x[d] * along;
  }
}

#define FERKIT_DEFINE(T, S)                                                                                        \
  void sum_rows_##S(                                                                                 \
      int64_t b, int64_t e, int64_t w, const T* f, const int64_t* y, T* inv, T* s) {                               \
    sum_rows<T>(b, e, w, f, y, inv, s);                                                                            \
  }                                                                                                                \
  void similarity_rows_##S(                                                                          \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* n, const T* s, T* m) {                                                                              \
    similarity_rows<T>(b, e, w, c, own, f, y, inv, n, s, m);                                                       \
  }                                                                                                                \
  void pull_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* n, const T* g, T* weight, T* room, T* p) {                                                          \
    pull_rows<T>(b, e, w, c, own, f, y, inv, n, g, weight, room, p);                                               \
  }                                                                                                                \
  void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* s, const T* p, const T* weight, T* r) {                                                             \
    gradient_rows<T>(b, e, w, c, own, f, y, inv, s, p, weight, r);                                                 \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
