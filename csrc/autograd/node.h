// What the autograd nodes share: typed handles of ops registered elsewhere, how a node is made, and whether its backward
// may be direct.
#pragma once

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <type_traits>

namespace ferkit {

using at::Tensor;
using torch::autograd::AutogradContext;
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

// A node of PyTorch's, compiled autograd and all, without the copies of names, shapes and lists that `Function::apply`
// and `CppNode::apply` make: they take longer than a small batch. T has `backward`, a gradient for every input.
template <typename T>
struct Node final : torch::autograd::CppNode<T> {
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(this->mutex_);
    return T::backward(&this->ctx_, grads);
  }
  std::string name() const override { return T::name; }
};

// A node is counted by itself in newer versions of torch, by a shared pointer in older ones.
template <typename N, typename Pointer = decltype(torch::autograd::Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<N>(new N(), [](N* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<N>();
  }
}

// Newer versions of torch tell whoever asked of every node.
template <typename Pointer>
auto announce(const Pointer& node, int) -> decltype(fire_node_creation_hooks(node)) {
  fire_node_creation_hooks(node);
}
template <typename Pointer>
void announce(const Pointer&, long) {}

// Give `output` the node of T over `inputs`, if one of them wants a gradient, with what its backward will need.
template <typename T, typename Fill = void (*)(AutogradContext&)>
Tensor record(
    Tensor output, const variable_list& inputs, variable_list saved, const Fill& fill = [](AutogradContext&) {}) {
  bool wanted = false;
  for (const Tensor& input : inputs) wanted = wanted || input.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) return output;
  auto node = make_node<Node<T>>();
  node->set_ctx_grad_fn(node);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  node->is_variable_input_.assign(inputs.size(), true);
  node->ctx_.save_for_backward(std::move(saved));
  node->ctx_.set_materialize_grads(false);
  fill(node->ctx_);
  torch::autograd::set_history(output, node);
  node->save_variables_to_ctx();
  const decltype(torch::autograd::Edge::function) made = node;
  announce(made, 0);
  return output;
}

}  // namespace ferkit
