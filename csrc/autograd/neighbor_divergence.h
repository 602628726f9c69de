// The autograd node of neighbor_divergence; in Python it is in ferkit/ops/neighbor_divergence.py.
#pragma once

#include "node.h"

namespace ferkit {

struct NeighborDivergence {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "NeighborDivergenceBackward";

  static Tensor forward(const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor, Tensor>(T, T, T, bool);
    static const auto native = op<Signature>("ferkit_native::neighbor_divergence");
    auto [loss, residual, divergence] = kernel(native, logits, neighbors, weight, mean);
    return record<NeighborDivergence>(
        loss, {logits, neighbors, weight}, {logits, neighbors, weight, residual, divergence});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Tensor& grad = grads[0];
    if (!grad.defined()) return variable_list(3);
    const auto s = context->get_saved_variables();
    const bool mean = grad.dim() == 0;
    const bool for_logits = context->needs_input_grad(0), for_neighbors = context->needs_input_grad(1);
    const bool for_weight = context->needs_input_grad(2), plain = direct(grad, s);
    if (plain && !for_neighbors) {  // the forward has left nothing but two products
      const at::AutoDispatchBelowADInplaceOrView guard;
      const Tensor along = mean ? grad : grad.unsqueeze(1);
      return {for_logits ? s[3].mul(along) : Tensor(), {}, for_weight ? s[4].mul(along) : Tensor()};
    }
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor, Tensor>(T, T, T, T, T, T, bool, bool);
    static const auto native = op<Signature>("ferkit_native::neighbor_divergence_backward");
    static const auto recorded = op<Signature>("ferkit::neighbor_divergence_backward");
    auto [d_logits, d_neighbors, d_weight] =
        plain ? kernel(native, grad, s[0], s[1], s[2], s[3], s[4], mean, for_neighbors)
              : recorded.call(grad, s[0], s[1], s[2], s[3], s[4], mean, for_neighbors);
    return {d_logits, for_neighbors ? d_neighbors : Tensor(), d_weight};
  }
};

}  // namespace ferkit
