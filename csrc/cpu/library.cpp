// The schemas of the private CPU library; each op registers its kernel in its own file.
#include "simd.h"
#include "tensors.h"

namespace {

bool poison(bool on) {
  const bool before = ferkit::poisons();
  ferkit::poisons() = on;
  return before;
}

int64_t cpu_level() { return ferkit::cpu_level(); }

}  // namespace

STABLE_TORCH_LIBRARY(ferkit_native, m) {
  m.def(
      "class_similarity(Tensor features, Tensor labels, int num_classes, bool include_self)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "class_similarity_backward(Tensor grad, Tensor features, Tensor labels, Tensor sums, Tensor inverse,"
      " int num_classes, bool include_self) -> Tensor");
  m.def(
      "concordance(Tensor prediction, Tensor target, Tensor? weight, bool released, bool loss, bool mean)"
      " -> (Tensor, Tensor)");
  m.def(
      "concordance_backward(Tensor grad, Tensor prediction, Tensor target, Tensor? weight, Tensor state, bool released,"
      " bool loss, bool mean, bool with_target) -> (Tensor, Tensor)");
  m.def(
      "neighbor_divergence(Tensor logits, Tensor neighbor_logits, Tensor weight, bool mean)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "neighbor_divergence_backward(Tensor grad, Tensor logits, Tensor neighbor_logits, Tensor weight, Tensor residual,"
      " Tensor divergence, bool mean, bool neighbors) -> (Tensor, Tensor, Tensor)");
  m.def("scaled_cross_entropy(Tensor logits, Tensor scale, Tensor labels, bool mean) -> (Tensor, Tensor)");
  m.def(
      "scaled_cross_entropy_backward(Tensor grad, Tensor logits, Tensor scale, Tensor labels, Tensor normaliser,"
      " bool mean) -> (Tensor, Tensor)");
  m.def(
      "similarity_preserving(Tensor target, Tensor auxiliary, Tensor mask, bool subset, bool gram, int kept)"
      " -> (Tensor, Tensor)");
  m.def(
      "similarity_preserving_backward(Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor kept,"
      " bool subset, bool gram) -> (Tensor, Tensor)");
  // Of an inverted file; not differentiable.
  m.def("kth_smallest(Tensor values, int k) -> Tensor");
  m.def("cell_candidates(Tensor table, Tensor points, Tensor visits, Tensor starts, int count, int lead) -> Tensor");
  // The CUDA kernels of similarity_preserving run block by block on the CPU, for the tests.
  m.def(
      "similarity_preserving_blocks(Tensor target, Tensor auxiliary, Tensor mask, bool subset, bool gram, int kept)"
      " -> (Tensor, Tensor)");
  m.def(
      "similarity_preserving_blocks_backward(Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor kept,"
      " bool subset, bool gram) -> (Tensor, Tensor)");
  m.def("block_neighbours(int threads, bool wait) -> int");
  // Of the instruction set whose kernels are taken: 4, 3 or 0, see simd.h.
  m.def("cpu_level() -> int");
  // Results start as NaN, for the tests; gives what was set before.
  m.def("poison(bool on) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&cpu_level));
  m.impl("poison", TORCH_BOX(&poison));
}
