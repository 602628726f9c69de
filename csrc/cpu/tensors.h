// Small helpers over the stable tensor: checks that name the argument, contiguous views, typed pointers.
#pragma once

#include "../common/stable.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
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

// At most three sizes, held in place: a vector for every check and every result costs as much as a small kernel.
struct Shape {
  int64_t sizes[3] = {};
  int64_t dims = 0;
  Shape(std::initializer_list<int64_t> list) {
    for (int64_t size : list) sizes[dims++] = size;
  }
};

inline void check_shape(const Tensor& t, const Shape& shape, const char* name) {
  const auto have = t.sizes();
  if (static_cast<int64_t>(have.size()) == shape.dims && std::equal(have.begin(), have.end(), shape.sizes)) return;
  std::string want, got;
  for (int64_t i = 0; i < shape.dims; ++i) want += (i == 0 ? "" : ", ") + std::to_string(shape.sizes[i]);
  for (int64_t i = 0; i < t.dim(); ++i) got += (i == 0 ? "" : ", ") + std::to_string(t.size(i));
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

// An uninitialised tensor on the device of `like`.
inline Tensor make(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

// Whether make() fills what it gives with NaN, so that in a test memory nobody wrote shows; torch's own switch does not
// reach the shim.
inline bool& poisons() {
  static bool on = false;
  return on;
}

// An uninitialised tensor, float32 or float64, on the CPU. Not stable::new_empty, which looks its op up by name.
inline Tensor make(const Shape& shape, ScalarType dtype) {
  int64_t strides[3], step = 1;
  for (int64_t d = shape.dims - 1; d >= 0; --d) strides[d] = step, step *= std::max<int64_t>(shape.sizes[d], 1);
  const int32_t type = dtype == ScalarType::Float ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      shape.dims, shape.sizes, strides, type, aoti_torch_device_type_cpu(), 0, &handle));
  Tensor result(handle);
  if (poisons()) std::memset(result.mutable_data_ptr(), 0xff, result.numel() * (dtype == ScalarType::Float ? 4 : 8));
  return result;
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
