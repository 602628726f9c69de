// similarity_preserving for small batches on a GPU. Forward: two library products and one launch (two beyond 128 rows);
// backward: one launch and two products. No atomics, no synchronisation.
#include "../common/similarity_preserving_kernels.cuh"
#include "../common/similarity_preserving_steps.h"
#include "launch.h"

namespace ferkit {
namespace {

struct Gpu : Place {
  explicit Gpu(const Tensor& t) : Place(t) {}
  static bool holds(const Tensor& t) { return t.is_cuda(); }
  static const char* name() { return "CUDA"; }

  template <typename T>
  void forward(const sp_small::Job<T>& job) const {
    STD_CUDA_CHECK(sp_small::launch_forward(job, stream()));
  }
  template <typename T>
  void backward(const sp_small::Job<T>& job) const {
    STD_CUDA_CHECK(sp_small::launch_backward(job, stream()));
  }
};

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CUDA, m) {
  m.impl("similarity_preserving", TORCH_BOX(&ferkit::sp_small::forward<ferkit::Gpu>));
  m.impl("similarity_preserving_backward", TORCH_BOX(&ferkit::sp_small::backward<ferkit::Gpu>));
}
