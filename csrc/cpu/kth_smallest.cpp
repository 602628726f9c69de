// The k-th smallest number of every row, for the search of nearest neighbours; ferkit/graph/_cells.py calls it.
#include "simd.h"
#include "tensors.h"

#define FERKIT_KERNELS "kth_smallest_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

// (N,) of values (N, D). One thread does it. -0 is less than 0, and NaN with a clear sign is the largest.
Tensor kth_smallest(Tensor values, int64_t k) {
  check_floating(values, "values");
  require(values.scalar_type() == ScalarType::Float, "values: expected dtype torch.float32");
  require(values.dim() == 2 && values.is_contiguous(), "values: expected contiguous rows");
  const int64_t rows = values.size(0), width = values.size(1);
  require(k > 0 && k <= width, "k: expected from 1 to " + std::to_string(width));
  Tensor found = make(values, {rows}, ScalarType::Float);
  std::vector<int32_t> keys(round_up(width, Simd<int32_t>::lanes));
  static const auto run = FERKIT_PICK(kth_of_rows);
  run(rows, width, k, in<float>(values), keys.data(), out<float>(found));
  return found;
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) { m.impl("kth_smallest", TORCH_BOX(&ferkit::kth_smallest)); }
