// The CUDA library. Kernels come one file an op, csrc/cuda/<op>.cu, and register under the schemas of csrc/cpu. Here is
// one op that proves a build, a device and a stream, whatever the others do: y = x + 1.
#include "launch.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace ferkit {
namespace {

__global__ void increment_kernel(const float* from, float* to, int64_t size) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size) to[i] = from[i] + 1.0f;
}

torch::stable::Tensor self_test(torch::stable::Tensor x) {
  STD_TORCH_CHECK(x.is_cuda() && x.is_contiguous(), "x: expected a contiguous CUDA tensor");
  STD_TORCH_CHECK(x.scalar_type() == torch::headeronly::ScalarType::Float, "x: expected float32");
  const Place place(x);
  torch::stable::Tensor y = torch::stable::empty_like(x);
  const int64_t size = x.numel();
  if (size == 0) return y;
  increment_kernel<<<static_cast<unsigned>((size + 255) / 256), 256, 0, place.stream()>>>(
      static_cast<const float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), size);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_FRAGMENT(ferkit_native, m) {
  m.def("cuda_self_test(Tensor x) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CUDA, m) {
  m.impl("cuda_self_test", TORCH_BOX(&ferkit::self_test));
}
