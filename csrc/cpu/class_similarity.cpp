// class_similarity on the CPU: S_aj = f_a . T_j / n_j with T_j the sum of class j's unit vectors.
#include "scratch.h"
#include "tensors.h"
#define FERKIT_KERNELS "class_similarity_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

constexpr int64_t kGroupRows = 512;  // rows per partial sum: fixed, so that threads do not change the result
constexpr int64_t kGrain = 1 << 18;  // multiply-adds worth a thread: 72 x 512 x 8 stays on one

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                                                  \
  template <>                                                               \
  struct Rows<T> {                                                          \
    static inline const auto sum = FERKIT_PICK(sum_rows_##S);               \
    static inline const auto similarity = FERKIT_PICK(similarity_rows_##S); \
    static inline const auto pull = FERKIT_PICK(pull_rows_##S);             \
    static inline const auto gradient = FERKIT_PICK(gradient_rows_##S);     \
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
