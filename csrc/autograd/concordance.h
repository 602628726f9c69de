// The autograd node of concordance; in Python it is in ferkit/ops/concordance.py.
#pragma once

#include "node.h"

namespace ferkit {

struct Concordance {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "ConcordanceBackward";

  static Tensor forward(
      const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& weight, bool released, bool loss,
      bool mean) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor>(T, T, const std::optional<Tensor>&, bool, bool, bool);
    static const auto native = op<Signature>("ferkit_native::concordance");
    auto [value, state] = kernel(native, prediction, target, weight, released, loss, mean);
    const variable_list saved = {prediction, target, weight.value_or(Tensor()), state};
    return record<Concordance>(value, {prediction, target}, saved, [&](AutogradContext& context) {
      context.saved_data["released"] = released;
      context.saved_data["loss"] = loss;
      context.saved_data["mean"] = mean;
    });
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list results(2);
    if (!grads[0].defined()) return results;
    const auto s = context->get_saved_variables();
    const std::optional<Tensor> weight = s[2].defined() ? std::optional<Tensor>(s[2]) : std::nullopt;
    const bool released = context->saved_data["released"].toBool(), loss = context->saved_data["loss"].toBool();
    const bool mean = context->saved_data["mean"].toBool(), with_target = context->needs_input_grad(1);
    using T = const Tensor&;
    using Signature =
        std::tuple<Tensor, Tensor>(T, T, T, const std::optional<Tensor>&, T, bool, bool, bool, bool);
    static const auto native = op<Signature>("ferkit_native::concordance_backward");
    static const auto recorded = op<Signature>("ferkit::concordance_backward");
    auto [d_prediction, d_target] =
        direct(grads[0], {s[0], s[1], s[3]})
            ? kernel(native, grads[0], s[0], s[1], weight, s[3], released, loss, mean, with_target)
            : recorded.call(grads[0], s[0], s[1], weight, s[3], released, loss, mean, with_target);
    results[0] = d_prediction;
    if (with_target) results[1] = d_target;
    return results;
  }
};

}  // namespace ferkit
