// The passes of neighbor_divergence.h for each instruction set, one lane per centre.
#include "neighbor_divergence.h"

#include <vector>

#include "simd.h"

namespace ferkit {
namespace {

// Numbers of scratch of a thread: five blocks of (C rounded up to 8, lanes).
template <typename T>
int64_t block_numbers(int64_t classes) {
  return 5 * round_up(classes, 8) * Simd<T>::lanes;
}

}  // namespace
}  // namespace ferkit

#define FERKIT_KERNELS "neighbor_divergence_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

template <typename T>
struct Passes;
template <>
struct Passes<float> {
  static inline const auto loss = FERKIT_PICK(divergence_rows_f32);
  static inline const auto gradient = FERKIT_PICK(divergence_gradient_f32);
};
template <>
struct Passes<double> {
  static inline const auto loss = FERKIT_PICK(divergence_rows_f64);
  static inline const auto gradient = FERKIT_PICK(divergence_gradient_f64);
};

}  // namespace

template <typename T>
void divergence_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, const T* logits, const T* neighbors,
    const T* weight, T* loss, T* residual, T* divergence) {
  if (begin >= end) return;
  std::vector<T> scratch(block_numbers<T>(classes));
  Passes<T>::loss(
      begin, end, count, classes, factor, logits, neighbors, weight, loss, residual, divergence, scratch.data());
}

template <typename T>
void divergence_gradient_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, int64_t every, const T* grad,
    const T* logits, const T* neighbors, const T* weight, const T* divergence, T* d_neighbors) {
  std::vector<T> scratch(block_numbers<T>(classes));
  Passes<T>::gradient(
      begin, end, count, classes, factor, every, grad, logits, neighbors, weight, divergence, d_neighbors,
      scratch.data());
}

#define FERKIT_DEFINE(T)                                                                                            \
  template void divergence_rows<T>(int64_t, int64_t, int64_t, int64_t, T, const T*, const T*, const T*, T*, T*, T*); \
  template void divergence_gradient_rows<T>(                                                                        \
      int64_t, int64_t, int64_t, int64_t, T, int64_t, const T*, const T*, const T*, const T*, const T*, T*);
FERKIT_DEFINE(float)
FERKIT_DEFINE(double)
#undef FERKIT_DEFINE

}  // namespace ferkit
