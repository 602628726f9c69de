// The autograd node of similarity_preserving; in Python it is in ferkit/ops/similarity_preserving.py.
#pragma once

#include "node.h"

namespace ferkit {

struct SimilarityPreserving {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "SimilarityPreservingBackward";

  // `gram` says which form the kernel takes, `form` what was asked for: the recorded backward chooses again by it.
  static Tensor forward(
      const Tensor& target, const Tensor& auxiliary, const Tensor& mask, bool subset, bool gram, int64_t kept,
      int64_t form) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor>(T, T, T, bool, bool, int64_t);
    static const auto native = op<Signature>("ferkit_native::similarity_preserving");
    auto [loss, state] = kernel(native, target, auxiliary, mask, subset, gram, kept);
    return record<SimilarityPreserving>(loss, {target, auxiliary}, {target, auxiliary, mask, state}, [&](AutogradContext& context) {
      context.saved_data["subset"] = subset;
      context.saved_data["gram"] = gram;
      context.saved_data["form"] = form;
    });
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(2);
    const auto s = context->get_saved_variables();
    const bool subset = context->saved_data["subset"].toBool(), gram = context->saved_data["gram"].toBool();
    const int64_t form = context->saved_data["form"].toInt();
    using T = const Tensor&;
    using Pair = std::tuple<Tensor, Tensor>;
    static const auto native = op<Pair(T, T, T, T, T, bool, bool)>("ferkit_native::similarity_preserving_backward");
    static const auto recorded = op<Pair(T, T, T, T, T, bool, int64_t)>("ferkit::similarity_preserving_backward");
    auto [d_target, d_auxiliary] = direct(grads[0], s)
                                       ? kernel(native, grads[0], s[0], s[1], s[2], s[3], subset, gram)
                                       : recorded.call(grads[0], s[0], s[1], s[2], s[3], subset, form);
    return {d_target, d_auxiliary};
  }
};

}  // namespace ferkit
