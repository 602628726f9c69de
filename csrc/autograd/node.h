// What the autograd nodes share: typed handles of ops registered elsewhere, and whether a backward may be direct.
#pragma once

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace ferkit {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// "ferkit_native::x" is a kernel and nothing else; "ferkit::x" the op of ferkit/ops, with its second order.
template <typename Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Call a kernel as below autograd, which has nothing to record here.
template <typename Op, typename... Arguments>
auto kernel(const Op& op, const Arguments&... arguments) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(arguments...);
}

// Whether nothing but autograd could care about a backward: no graph of it is asked for, the gradient has no tangent,
// and no mode, transform or subclass (fake, batched) looks on. Else the op of ferkit/ops is called, by the dispatcher.
inline bool direct(const Tensor& grad, const variable_list& saved) {
  return !at::GradMode::is_enabled() && !grad._fw_grad(0).defined() && !at::isTensorSubclassLike(grad) &&
         !at::areAnyTensorSubclassLike(saved);
}

}  // namespace ferkit
