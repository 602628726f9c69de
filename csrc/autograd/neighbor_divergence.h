// The autograd node of neighbor_divergence; in Python it is in ferkit/ops/neighbor_divergence.py.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/record_function.h>

#include "../cpu/neighbor_divergence.h"
#include "node.h"

namespace ferkit {

struct NeighborDivergence {
  static constexpr bool is_traceable = true;
  static constexpr const char* name = "NeighborDivergenceBackward";

  static Tensor forward(const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
    using T = const Tensor&;
    using Signature = std::tuple<Tensor, Tensor, Tensor>(T, T, T, bool);
    static const auto native = op<Signature>("ferkit_native::neighbor_divergence");
    auto [loss, residual, divergence] = small(logits, neighbors, weight)
                                            ? at_once(logits, neighbors, weight, mean)
                                            : kernel(native, logits, neighbors, weight, mean);
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

 private:
  // Whether one thread is enough and nothing stands against reading the numbers where they lie; what the native op
  // would refuse is left to it.
  static bool small(const Tensor& logits, const Tensor& neighbors, const Tensor& weight) {
    if (logits.dim() != 2 || neighbors.dim() != 3 || weight.dim() != 2) return false;
    const int64_t size = logits.size(0), classes = logits.size(1), count = weight.size(1);
    for (const Tensor* tensor : {&logits, &neighbors, &weight}) {
      const bool plain = tensor->scalar_type() == at::kFloat && tensor->layout() == at::kStrided &&
                         tensor->is_contiguous() && !tensor->is_neg() && !tensor->_is_zerotensor() &&
                         !at::isTensorSubclassLike(*tensor);
      if (!plain || tensor->size(0) != size) return false;
    }
    return neighbors.size(1) == count && neighbors.size(2) == classes &&
           size * (count + 1) * classes < 2 * kDivergenceGrain;
  }

  static std::tuple<Tensor, Tensor, Tensor> at_once(
      const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
    RECORD_FUNCTION("ferkit_native::neighbor_divergence", std::vector<c10::IValue>());
    const int64_t size = logits.size(0);
    Tensor rows = at::detail::empty_cpu({size}, at::kFloat);
    Tensor residual = at::detail::empty_cpu(logits.sizes(), at::kFloat);
    Tensor divergence = at::detail::empty_cpu(weight.sizes(), at::kFloat);
    float* loss = rows.mutable_data_ptr<float>();
    divergence_rows<float>(
        0, size, weight.size(1), logits.size(1), divergence_share<float>(mean, size), logits.const_data_ptr<float>(),
        neighbors.const_data_ptr<float>(), weight.const_data_ptr<float>(), loss, residual.mutable_data_ptr<float>(),
        divergence.mutable_data_ptr<float>());
    if (!mean) return {rows, residual, divergence};
    Tensor whole = at::detail::empty_cpu(at::IntArrayRef(), at::kFloat);
    *whole.mutable_data_ptr<float>() = divergence_mean(loss, size);
    return {whole, residual, divergence};
  }
};

}  // namespace ferkit
