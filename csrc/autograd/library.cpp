// The native CPU ops as one call from Python each, autograd node included: at small batches an operator's schema and a
// node in Python cost more than the kernels. That takes classes of torch's and of Python's that no stable ABI has, so
// this library is for one version of each (ferkit/ops/_native.py); without it ferkit/ops does the same in Python.
#include "call.h"
#include "class_similarity.h"
#include "concordance.h"
#include "neighbor_divergence.h"
#include "scaled_cross_entropy.h"
#include "similarity_preserving.h"

namespace {

template <auto f>
PyMethodDef entry(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&ferkit::Entry<f>::call)), METH_FASTCALL, ""};
}

PyMethodDef methods[] = {
    entry<&ferkit::ClassSimilarity::forward>("class_similarity"),
    entry<&ferkit::Concordance::forward>("concordance"),
    entry<&ferkit::NeighborDivergence::forward>("neighbor_divergence"),
    entry<&ferkit::ScaledCrossEntropy::forward>("scaled_cross_entropy"),
    entry<&ferkit::SimilarityPreserving::forward>("similarity_preserving"),
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_autograd", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C_autograd() { return PyModule_Create(&module); }
