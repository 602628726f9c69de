// Autograd nodes of the native CPU ops in C++: around a small batch the Python ones cost more than the kernels. They
// need torch's C++ classes, which the stable ABI does not have, so this library is for one version of torch alone
// (ferkit/ops/_native.py); without it the Python nodes of ferkit/ops do the same.
#include "class_similarity.h"
#include "concordance.h"
#include "neighbor_divergence.h"
#include "scaled_cross_entropy.h"
#include "similarity_preserving.h"

namespace ferkit {
namespace {

std::tuple<Tensor, Tensor> class_similarity(
    const Tensor& features, const Tensor& labels, int64_t classes, bool include_self) {
  Tensor counts;
  Tensor mean = ClassSimilarity::apply(features, labels, classes, include_self, &counts);
  return {mean, counts};
}

Tensor concordance(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& weight, bool released, bool loss,
    bool mean) {
  return Concordance::apply(prediction, target, weight, released, loss, mean);
}

Tensor neighbor_divergence(const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
  return NeighborDivergence::apply(logits, neighbors, weight, mean);
}

Tensor scaled_cross_entropy(const Tensor& logits, const Tensor& scale, const Tensor& labels, bool mean) {
  return ScaledCrossEntropy::apply(logits, scale, labels, mean);
}

Tensor similarity_preserving(
    const Tensor& target, const Tensor& auxiliary, const Tensor& mask, bool subset, bool gram, int64_t kept,
    int64_t form) {
  return SimilarityPreserving::apply(target, auxiliary, mask, subset, gram, kept, form);
}

}  // namespace
}  // namespace ferkit

TORCH_LIBRARY(ferkit_autograd, m) {
  m.def("class_similarity(Tensor features, Tensor labels, int num_classes, bool include_self) -> (Tensor, Tensor)");
  m.def(
      "concordance(Tensor prediction, Tensor target, Tensor? weight, bool released, bool loss, bool mean) -> Tensor");
  m.def("neighbor_divergence(Tensor logits, Tensor neighbor_logits, Tensor weight, bool mean) -> Tensor");
  m.def("scaled_cross_entropy(Tensor logits, Tensor scale, Tensor labels, bool mean) -> Tensor");
  m.def(
      "similarity_preserving(Tensor target, Tensor auxiliary, Tensor mask, bool subset, bool gram, int kept, int form)"
      " -> Tensor");
}

TORCH_LIBRARY_IMPL(ferkit_autograd, CompositeImplicitAutograd, m) {
  m.impl("class_similarity", &ferkit::class_similarity);
  m.impl("concordance", &ferkit::concordance);
  m.impl("neighbor_divergence", &ferkit::neighbor_divergence);
  m.impl("scaled_cross_entropy", &ferkit::scaled_cross_entropy);
  m.impl("similarity_preserving", &ferkit::similarity_preserving);
}
