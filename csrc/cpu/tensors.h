// Small helpers over the stable tensor: checks that name the argument, contiguous views, typed pointers.
#pragma once

#include "../common/stable.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace ferkit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error(message);
}

inline void check_floating(const Tensor& t, const char* name) {
  require(t.is_cpu(), std::string(name) + ": expected a CPU tensor");
  const auto dtype = t.scalar_type();
  require(
      dtype == ScalarType::Float || dtype == ScalarType::Double, std::string(name) + ": expected float32 or float64");
}

inline void check_same(const Tensor& t, const Tensor& like, const char* name) {
  require(t.is_cpu(), std::string(name) + ": expected a CPU tensor");
  require(t.scalar_type() == like.scalar_type(), std::string(name) + ": expected the dtype of the first argument");
}

inline void check_shape(const Tensor& t, const std::vector<int64_t>& shape, const char* name) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = t.size(i) == shape[i];
  if (same) return;
  std::string want, got;
  for (auto s : shape) want += (want.empty() ? "" : ", ") + std::to_string(s);
  for (int64_t i = 0; i < t.dim(); ++i) got += (got.empty() ? "" : ", ") + std::to_string(t.size(i));
  require(false, std::string(name) + ": expected shape (" + want + "), got (" + got + ")");
}

inline void check_labels(const Tensor& labels, int64_t size) {
  require(labels.is_cpu(), "labels: expected a CPU tensor");
  require(labels.scalar_type() == ScalarType::Long, "labels: expected dtype torch.int64");
  check_shape(labels, {size}, "labels");
}

// The one value check: labels lie in -1..classes-1. One pass over N integers, before anything is indexed by them.
inline void check_label_range(const int64_t* labels, int64_t size, int64_t classes) {
  int64_t low = 0, high = -1;
  for (int64_t n = 0; n < size; ++n) {
    low = labels[n] < low ? labels[n] : low;
    high = labels[n] > high ? labels[n] : high;
  }
  if (low >= -1 && high < classes) return;
  low = labels[0];
  for (int64_t n = 0; n < size; ++n) low = labels[n] < low ? labels[n] : low;
  require(
      false, "labels: expected values in 0.." + std::to_string(classes - 1) + " or -1 (unlabelled), got " +
                 std::to_string(low) + ".." + std::to_string(high));
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor make(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

template <typename T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// f(T()) for the float type of `t`, which check_floating has seen.
template <typename F>
auto by_dtype(const Tensor& t, const F& f) {
  return t.scalar_type() == ScalarType::Float ? f(float()) : f(double());
}

// Work below `grain` units stays on the calling thread: waking another costs more.
template <typename F>
void parallel(int64_t count, int64_t unit, int64_t grain, const F& f) {
  if (count <= 0) return;
  if (count == 1 || count * unit < 2 * grain) {
    f(0, count);
    return;
  }
  torch::stable::parallel_for(0, count, grain / (unit > 0 ? unit : 1) + 1, f);
}

}  // namespace ferkit
