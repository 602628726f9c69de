// The passes of neighbor_divergence over a range of centres, without a class of torch's: csrc/autograd takes the first one
// too, for batches so small that the way to an operator costs more.
#pragma once

#include <cstdint>

namespace ferkit {

constexpr int64_t kDivergenceGrain = 1 << 13;  // logits worth a thread

// Loss (not times `factor`), and the derivatives by the centre's logits and by the weights (both times it) of the centres
// begin..end-1.
template <typename T>
void divergence_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, const T* logits, const T* neighbors,
    const T* weight, T* loss, T* residual, T* divergence);

// The gradient by the neighbours' logits; `every` is 1 where there is a gradient for each centre, 0 where one for all.
template <typename T>
void divergence_gradient_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, int64_t every, const T* grad,
    const T* logits, const T* neighbors, const T* weight, const T* divergence, T* d_neighbors);

// What of a row's derivatives goes with the mean of `size` centres, and the mean of their losses.
template <typename T>
T divergence_share(bool mean, int64_t size) {
  return mean && size > 0 ? T(1) / static_cast<T>(size) : T(1);
}
template <typename T>
T divergence_mean(const T* losses, int64_t size) {
  double sum = 0;
  for (int64_t n = 0; n < size; ++n) sum += losses[n];
  return static_cast<T>(size == 0 ? 0 : sum / size);
}

}  // namespace ferkit
