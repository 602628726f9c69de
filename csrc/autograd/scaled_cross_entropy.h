// The autograd node of scaled_cross_entropy; in Python it is in ferkit/ops/scaled_cross_entropy.py.
#pragma once

#include "node.h"

namespace ferkit {

struct ScaledCrossEntropy {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "ScaledCrossEntropyBackward";

  static Tensor forward(const Tensor& logits, const Tensor& scale, const Tensor& labels, bool mean) {
    using T = const Tensor&;
    static const auto native = op<std::tuple<Tensor, Tensor>(T, T, T, bool)>("ferkit_native::scaled_cross_entropy");
    auto [loss, normaliser] = kernel(native, logits, scale, labels, mean);
    return record<ScaledCrossEntropy>(
        loss, {logits, scale}, {logits, scale, labels, normaliser});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(2);
    const auto s = context->get_saved_variables();
    const bool mean = grads[0].dim() == 0;
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor>(T, T, T, T, T, bool);
    static const auto native = op<Signature>("ferkit_native::scaled_cross_entropy_backward");
    static const auto recorded = op<Signature>("ferkit::scaled_cross_entropy_backward");
    auto [d_logits, d_scale] = direct(grads[0], s) ? kernel(native, grads[0], s[0], s[1], s[2], s[3], mean)
                                                   : recorded.call(grads[0], s[0], s[1], s[2], s[3], mean);
    return {d_logits, d_scale};
  }
};

}  // namespace ferkit
