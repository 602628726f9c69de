// The autograd node of class_similarity; in Python it is in ferkit/ops/class_similarity.py.
#pragma once

#include "node.h"

namespace ferkit {

struct ClassSimilarity : Function<ClassSimilarity> {
  static constexpr bool is_traceable = true;

  // The counts go out by `counts`: as an output without a gradient, compiled autograd would not take them.
  static Tensor forward(
      AutogradContext* context, const Tensor& features, const Tensor& labels, int64_t classes, bool include_self,
      Tensor* counts) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor, Tensor, Tensor>(T, T, int64_t, bool);
    static const auto native = op<Signature>("ferkit_native::class_similarity");
    auto [mean, members, sums, inverse] = kernel(native, features, labels, classes, include_self);
    context->save_for_backward({features, labels, sums, inverse});
    context->saved_data["classes"] = classes;
    context->saved_data["include_self"] = include_self;
    context->set_materialize_grads(false);
    *counts = members;
    return mean;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(5);
    const auto s = context->get_saved_variables();
    const int64_t classes = context->saved_data["classes"].toInt();
    const bool include_self = context->saved_data["include_self"].toBool();
    using T = const Tensor&;
    static const auto native = op<Tensor(T, T, T, T, T, int64_t, bool)>("ferkit_native::class_similarity_backward");
    static const auto recorded = op<Tensor(T, T, T, T, T, c10::SymInt, bool)>("ferkit::class_similarity_backward");
    variable_list results(5);
    results[0] = direct(grads[0], s) ? kernel(native, grads[0], s[0], s[1], s[2], s[3], classes, include_self)
                                     : recorded.call(grads[0], s[0], s[1], s[2], s[3], classes, include_self);
    return results;
  }
};

}  // namespace ferkit
