// The autograd node of class_similarity; in Python it is in ferkit/ops/class_similarity.py.
#pragma once

#include "node.h"

namespace ferkit {

struct ClassSimilarity {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "ClassSimilarityBackward";

  static std::tuple<Tensor, Tensor> forward(
      const Tensor& features, const Tensor& labels, int64_t classes, bool include_self) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor, Tensor, Tensor>(T, T, int64_t, bool);
    static const auto native = op<Signature>("ferkit_native::class_similarity");
    auto [mean, counts, sums, inverse] = kernel(native, features, labels, classes, include_self);
    Tensor recorded = record<ClassSimilarity>(mean, {features}, {features, labels, sums, inverse}, [&](AutogradContext& context) {
      context.saved_data["classes"] = classes;
      context.saved_data["include_self"] = include_self;
    });
    return {recorded, counts};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(1);
    const auto s = context->get_saved_variables();
    const int64_t classes = context->saved_data["classes"].toInt();
    const bool include_self = context->saved_data["include_self"].toBool();
    using T = const Tensor&;
    static const auto native = op<Tensor(T, T, T, T, T, int64_t, bool)>("ferkit_native::class_similarity_backward");
    static const auto recorded = op<Tensor(T, T, T, T, T, c10::SymInt, bool)>("ferkit::class_similarity_backward");
    variable_list results(1);
    results[0] = direct(grads[0], s) ? kernel(native, grads[0], s[0], s[1], s[2], s[3], classes, include_self)
                                     : recorded.call(grads[0], s[0], s[1], s[2], s[3], classes, include_self);
    return results;
  }
};

}  // namespace ferkit
