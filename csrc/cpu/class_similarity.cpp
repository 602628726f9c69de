// class_similarity on the CPU: S_aj = f_a . T_j / n_j with T_j the sum of class j's unit vectors.
#include "scratch.h"
#include "tensors.h"
#include "tiles.h"

namespace ferkit {
namespace {

constexpr double kShort = 1e-12;     // a shorter vector counts as a zero vector
constexpr int64_t kGroupRows = 512;  // rows per partial sum: fixed, so that threads do not change the result
constexpr int64_t kGrain = 1 << 18;  // multiply-adds worth a thread: 72 x 512 x 8 stays on one

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
  Vec<T> acc[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) acc[i] = Vec<T>{};
  int64_t d = 0;
  for (; d + L <= width; d += L) {
    Vec<T> left[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) load<T>(left[r], x[r] + d);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      Vec<T> right;
      load<T>(right, rows + k * stride + d);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) acc[8 * r + k] += left[r] * right;
    }
  }
  lane_sums<T>(acc);
  store<T>(result, acc[0]);
  for (; d < width; ++d)
    for (int i = 0; i < L; ++i) result[i] += x[i / 8][d] * rows[i % 8 * stride + d];
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
    along *= inv * inv * inv;
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
  FERKIT_CLONES void sum_rows_##S(                                                                                 \
      int64_t b, int64_t e, int64_t w, const T* f, const int64_t* y, T* inv, T* s) {                               \
    sum_rows<T>(b, e, w, f, y, inv, s);                                                                            \
  }                                                                                                                \
  FERKIT_CLONES void similarity_rows_##S(                                                                          \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* n, const T* s, T* m) {                                                                              \
    similarity_rows<T>(b, e, w, c, own, f, y, inv, n, s, m);                                                       \
  }                                                                                                                \
  FERKIT_CLONES void pull_rows_##S(                                                                                \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* n, const T* g, T* weight, T* room, T* p) {                                                          \
    pull_rows<T>(b, e, w, c, own, f, y, inv, n, g, weight, room, p);                                               \
  }                                                                                                                \
  FERKIT_CLONES void gradient_rows_##S(                                                                            \
      int64_t b, int64_t e, int64_t w, int64_t c, bool own, const T* f, const int64_t* y, const T* inv,            \
      const T* s, const T* p, const T* weight, T* r) {                                                             \
    gradient_rows<T>(b, e, w, c, own, f, y, inv, s, p, weight, r);                                                 \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                                    \
  template <>                                                 \
  struct Rows<T> {                                            \
    static constexpr auto sum = sum_rows_##S;                 \
    static constexpr auto similarity = similarity_rows_##S;   \
    static constexpr auto pull = pull_rows_##S;               \
    static constexpr auto gradient = gradient_rows_##S;       \
  };
FERKIT_TABLE(float, f32)
FERKIT_TABLE(double, f64)
#undef FERKIT_TABLE

template <typename T>
void count(const int64_t* labels, int64_t size, int64_t classes, T* counts) {
  for (int64_t j = 0; j < classes; ++j) counts[j] = 0;
  for (int64_t n = 0; n < size; ++n)
    if (labels[n] >= 0) counts[labels[n]] += 1;
}

// Sums over rows in fixed groups, then over the groups in order: the same bits for any number of threads.
template <typename T, typename F>
void grouped(int64_t size, int64_t block, T* total, const F& f) {
  for (int64_t i = 0; i < block; ++i) total[i] = 0;
  const int64_t groups = (size + kGroupRows - 1) / kGroupRows;
  if (groups <= 1) {
    f(0, size, total);
    return;
  }
  // No more than 32 partial blocks at a time, whatever N is.
  std::vector<T> partial(std::min<int64_t>(groups, 32) * block);
  for (int64_t first = 0; first < groups; first += 32) {
    const int64_t now = std::min<int64_t>(groups - first, 32);
    std::fill(partial.begin(), partial.end(), T(0));
    torch::stable::parallel_for(0, now, 1, [&](int64_t b, int64_t e) {
      for (int64_t g = b; g < e; ++g)
        f((first + g) * kGroupRows, std::min(size, (first + g + 1) * kGroupRows), partial.data() + g * block);
    });
    for (int64_t g = 0; g < now; ++g)
      for (int64_t i = 0; i < block; ++i) total[i] += partial[g * block + i];
  }
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& features, const Tensor& labels, int64_t classes, bool include_self) {
  const int64_t size = features.size(0), width = features.size(1);
  const auto dtype = features.scalar_type();
  Tensor mean = make({size, classes}, dtype), counts = make({classes}, dtype);
  Tensor sums = make({classes, width}, dtype), inverse = make({size}, dtype);
  const T* f = in<T>(features);
  const int64_t* y = in<int64_t>(labels);
  check_label_range(y, size, classes);
  T *n = out<T>(counts), *s = out<T>(sums), *inv = out<T>(inverse), *m = out<T>(mean);
  count<T>(y, size, classes, n);
  grouped<T>(size, classes * width, s, [&](int64_t b, int64_t e, T* to) { Rows<T>::sum(b, e, width, f, y, inv, to); });
  parallel(size, classes * width, kGrain, [&](int64_t b, int64_t e) {
    Rows<T>::similarity(b, e, width, classes, include_self, f, y, inv, n, s, m);
  });
  return {mean, counts, sums, inverse};
}

template <typename T>
Tensor backward(
    const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& sums, const Tensor& inverse,
    int64_t classes, bool include_self) {
  const int64_t size = features.size(0), width = features.size(1);
  Tensor result = make({size, width}, features.scalar_type());
  const T *f = in<T>(features), *inv = in<T>(inverse), *s = in<T>(sums), *g = in<T>(grad);
  const int64_t* y = in<int64_t>(labels);
  std::vector<T> counts(classes), pulls(classes * width);
  const Scratch<T> room(size * (classes + round_up(classes, 8)));
  T *weight = room.get(), *scaled = weight + size * classes;
  count<T>(y, size, classes, counts.data());
  grouped<T>(size, classes * width, pulls.data(), [&](int64_t b, int64_t e, T* to) {
    Rows<T>::pull(b, e, width, classes, include_self, f, y, inv, counts.data(), g, weight, scaled, to);
  });
  T* r = out<T>(result);
  parallel(size, classes * width, kGrain, [&](int64_t b, int64_t e) {
    Rows<T>::gradient(b, e, width, classes, include_self, f, y, inv, s, pulls.data(), weight, r);
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> class_similarity(
    Tensor features, Tensor labels, int64_t classes, bool include_self) {
  check_floating(features, "features");
  require(features.dim() == 2, "features: expected shape (N, D)");
  require(classes >= 0, "num_classes: expected 0 or more");
  check_labels(labels, features.size(0));
  features = dense(features), labels = dense(labels);
  return by_dtype(features, [&](auto type) {
    return forward<decltype(type)>(features, labels, classes, include_self);
  });
}

Tensor class_similarity_backward(
    Tensor grad, Tensor features, Tensor labels, Tensor sums, Tensor inverse, int64_t classes, bool include_self) {
  check_floating(features, "features");
  require(features.dim() == 2, "features: expected shape (N, D)");
  check_labels(labels, features.size(0));
  check_same(grad, features, "grad"), check_same(sums, features, "sums"), check_same(inverse, features, "inverse");
  check_shape(grad, {features.size(0), classes}, "grad");
  check_shape(sums, {classes, features.size(1)}, "sums");
  check_shape(inverse, {features.size(0)}, "inverse");
  grad = dense(grad), features = dense(features), labels = dense(labels), sums = dense(sums), inverse = dense(inverse);
  check_label_range(in<int64_t>(labels), labels.size(0), classes);
  return by_dtype(features, [&](auto type) {
    return backward<decltype(type)>(grad, features, labels, sums, inverse, classes, include_self);
  });
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("class_similarity", TORCH_BOX(&ferkit::class_similarity));
  m.impl("class_similarity_backward", TORCH_BOX(&ferkit::class_similarity_backward));
}
