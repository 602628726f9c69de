// similarity_preserving for small batches, from tensors to tensors: checks, library products, and the launches of a
// Device, which is a GPU (csrc/cuda) or its emulation on the CPU (csrc/cpu, for the tests).
#pragma once

#include "../cpu/tensors.h"
#include "similarity_preserving_block.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <tuple>

namespace ferkit::sp_small {

inline Tensor call(const char* op, const char* overload, std::array<StableIValue, 3> stack) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
inline Tensor product(const char* op, const Tensor& a, const Tensor& b) {
  return call(op, "", {torch::stable::detail::from(a), torch::stable::detail::from(b), StableIValue{}});
}
inline void product_into(const char* op, const Tensor& a, const Tensor& b, const Tensor& to) {
  using torch::stable::detail::from;
  call(op, "out", {from(a), from(b), from(to)});
}

// (count, N, N), or (N, N) where count is 0: square matrices inside a flat tensor.
inline Tensor squares(const Tensor& flat, int64_t count, int64_t size, int64_t offset) {
  const int64_t sizes[] = {count, size, size}, strides[] = {size * size, size, 1};
  const int64_t skip = count == 0;
  AtenTensorHandle view = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(flat.get(), 3 - skip, sizes + skip, strides + skip, offset, &view));
  return Tensor(view);
}

inline int kind_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Bool:
      return kBool;
    case ScalarType::Float:
      return kFloat;
    case ScalarType::Double:
      return kDouble;
    default:
      require(false, std::string(name) + ": expected bool, float32 or float64");
      return kDouble;
  }
}

template <typename T>
constexpr ScalarType dtype_of() {
  return sizeof(T) == 4 ? ScalarType::Float : ScalarType::Double;
}

template <typename T>
int64_t gram_doubles(int64_t branches, int64_t size) {
  return gram_entries(branches, size, sizeof(T)) * static_cast<int64_t>(sizeof(T)) / 8;
}

template <typename Device>
void check_place(const Tensor& t, const Tensor& like, const char* name) {
  require(Device::holds(t), std::string(name) + ": expected a " + Device::name() + " tensor");
  require(t.get_device_index() == like.get_device_index(), std::string(name) + ": expected the device of target");
}

template <typename Device>
void check(const Tensor& target, const Tensor& auxiliary, const Tensor& mask) {
  check_place<Device>(target, target, "target");
  require(kind_of(target, "target") != kBool, "target: expected float32 or float64");
  require(target.dim() == 2, "target: expected shape (N, Dt)");
  check_place<Device>(auxiliary, target, "auxiliary");
  require(auxiliary.scalar_type() == target.scalar_type(), "auxiliary: expected the dtype of target");
  require(auxiliary.dim() == 3, "auxiliary: expected shape (M, N, Da)");
  require(auxiliary.size(1) == target.size(0), "auxiliary: expected as many rows as target");
  check_place<Device>(mask, target, "mask");
  check_shape(mask, {auxiliary.size(0), target.size(0)}, "mask");
  require(
      target.size(0) <= kMaxRows, "target: expected at most " + std::to_string(kMaxRows) + " rows, got " +
                                      std::to_string(target.size(0)));
  require(
      auxiliary.size(0) <= kMaxBranches,
      "auxiliary: expected at most " + std::to_string(kMaxBranches) + " branches, got " +
          std::to_string(auxiliary.size(0)));
}

// The forward into `state`, whose layout Job describes; `loss` may be of another width than T.
template <typename T, typename Device>
Job<T> fill_state(
    const Device& device, const Tensor& target, const Tensor& auxiliary, const Tensor& mask, const Tensor& loss,
    const Tensor& state, bool subset) {
  Job<T> job{};
  job.branches = auxiliary.size(0), job.size = target.size(0), job.wide = round_up(job.size, 4);
  job.groups = groups_of(job.size), job.rows = (job.size + job.groups - 1) / job.groups;
  job.subset = subset;
  job.mask = mask.const_data_ptr(), job.mask_kind = kind_of(mask, "mask");
  job.loss = loss.mutable_data_ptr(), job.loss_kind = kind_of(loss, "loss");
  job.grams = out<T>(state);
  job.vectors = out<double>(state) + gram_doubles<T>(job.branches, job.size);

  using torch::stable::detail::from;
  const Tensor flat =
      sizeof(T) == 8 ? state : call("aten::view", "dtype", {from(state), from(dtype_of<T>()), StableIValue{}});
  product_into(
      "aten::mm", target, torch::stable::transpose(target, 0, 1), squares(flat, 0, job.size, 0));
  product_into(
      "aten::bmm", auxiliary, torch::stable::transpose(auxiliary, 1, 2),
      squares(flat, job.branches, job.size, job.size * job.size));
  device.forward(job);
  return job;
}

template <typename Device>
std::tuple<Tensor, Tensor> forward(
    Tensor target, Tensor auxiliary, Tensor mask, bool subset, bool gram, int64_t room) {
  check<Device>(target, auxiliary, mask);
  const Device device(target);
  const int64_t branches = auxiliary.size(0), size = target.size(0);
  const auto dtype = target.scalar_type();
  // The factored form is asked for where it is more exact or cheap; in a small batch the Gram form in float64 is both.
  const bool narrow = gram && dtype == ScalarType::Float;
  const int64_t need = state_size(branches, size, narrow ? 4 : 8);
  require(room == 0 || room == need, "kept: expected 0 or " + std::to_string(need) + ", got " + std::to_string(room));
  Tensor state = make(target, {room}, ScalarType::Double);
  if (branches == 0 || size == 0) {
    if (room > 0) torch::stable::zero_(state);
    return {torch::stable::new_zeros(target, {branches}), state};
  }
  const Tensor used = room == need ? state : make(target, {need}, ScalarType::Double);
  const Tensor loss = make(target, {branches}, dtype);
  target = dense(target), auxiliary = dense(auxiliary), mask = dense(mask);
  if (narrow) {
    fill_state<float>(device, target, auxiliary, mask, loss, used, subset);
  } else {
    fill_state<double>(
        device, torch::stable::to(target, ScalarType::Double), torch::stable::to(auxiliary, ScalarType::Double), mask,
        loss, used, subset);
  }
  return {loss, state};
}

template <typename T, typename Device>
std::tuple<Tensor, Tensor> pull(
    const Device& device, Tensor target, Tensor auxiliary, const Tensor& mask, const Tensor& grad, const Tensor& state,
    bool filled, bool subset) {
  const int64_t branches = auxiliary.size(0), size = target.size(0);
  Job<T> job{};
  if (filled) {
    job.branches = branches, job.size = size, job.wide = round_up(size, 4), job.groups = groups_of(size);
    job.subset = subset;
    job.grams = const_cast<T*>(in<T>(state));  // the backward only reads
    job.vectors = const_cast<double*>(in<double>(state)) + gram_doubles<T>(branches, size);
  } else {
    job = fill_state<T>(device, target, auxiliary, mask, make(target, {branches}, dtype_of<T>()), state, subset);
  }
  job.grad = grad.const_data_ptr(), job.grad_kind = kind_of(grad, "grad");
  const Tensor h = make(target, {(branches + 1) * size * size}, dtype_of<T>());
  job.h = out<T>(h);
  const Tensor rows = target, branch_rows = auxiliary;
  if (subset) {
    target = torch::stable::empty_like(rows), auxiliary = torch::stable::empty_like(branch_rows);
    job.target = in<T>(rows), job.auxiliary = in<T>(branch_rows);
    job.target_width = rows.size(1), job.auxiliary_width = branch_rows.size(2);
    job.clean_target = out<T>(target), job.clean_auxiliary = out<T>(auxiliary);
  }
  device.backward(job);
  return {
      product("aten::mm", squares(h, 0, size, 0), target),
      product("aten::bmm", squares(h, branches, size, size * size), auxiliary)};
}

template <typename Device>
std::tuple<Tensor, Tensor> backward(
    Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor kept, bool subset, bool gram) {
  check<Device>(target, auxiliary, mask);
  check_place<Device>(grad, target, "grad");
  check_place<Device>(kept, target, "kept");
  const int64_t branches = auxiliary.size(0), size = target.size(0);
  const auto dtype = target.scalar_type();
  require(grad.scalar_type() == dtype, "grad: expected the dtype of target");
  check_shape(grad, {branches}, "grad");
  require(kept.scalar_type() == ScalarType::Double, "kept: expected float64");
  const Device device(target);
  if (branches == 0 || size == 0)
    return {torch::stable::new_zeros(target, {size, target.size(1)}),
            torch::stable::new_zeros(target, {branches, size, auxiliary.size(2)})};
  target = dense(target), auxiliary = dense(auxiliary), mask = dense(mask), grad = dense(grad), kept = dense(kept);
  if (reinterpret_cast<std::uintptr_t>(kept.const_data_ptr()) % 16) kept = torch::stable::clone(kept);
  const bool narrow = gram && dtype == ScalarType::Float;
  const int64_t need = state_size(branches, size, narrow ? 4 : 8);
  const bool filled = kept.numel() == need;  // else a caller could not keep the forward's state: form it anew
  const Tensor state = filled ? kept : make(target, {need}, ScalarType::Double);
  if (narrow) return pull<float>(device, target, auxiliary, mask, grad, state, filled, subset);
  auto [d_target, d_auxiliary] = pull<double>(
      device, torch::stable::to(target, ScalarType::Double), torch::stable::to(auxiliary, ScalarType::Double), mask,
      grad, state, filled, subset);
  return {torch::stable::to(d_target, dtype), torch::stable::to(d_auxiliary, dtype)};
}

}  // namespace ferkit::sp_small
