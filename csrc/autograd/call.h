// A C++ function as a function of Python that takes its arguments by position: the way through an operator's schema
// takes longer than a small batch.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <optional>
#include <tuple>
#include <utility>

namespace ferkit {

using at::Tensor;

// Whether anything but autograd could care about a call: a mode, a transform, a trace or forward mode. `unobserved` in
// ferkit/ops/_library.py asks the same.
inline bool observed() {
  constexpr auto transform = c10::DispatchKey::FuncTorchDynamicLayerFrontMode;
  return c10::impl::TorchDispatchModeTLS::any_modes_set() || at::impl::PythonTorchFunctionTLS::stack_len() > 0 ||
         c10::impl::tls_is_dispatch_key_included(transform) || torch::jit::tracer::isTracing() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

template <typename T>
struct Argument;

template <>
struct Argument<const Tensor&> {
  static bool plain(PyObject* object) {
    if (!THPVariable_CheckExact(object)) return false;
    return read(object).is_cpu() && !at::isReducedFloatingType(read(object).scalar_type());
  }
  static const Tensor& read(PyObject* object) { return THPVariable_Unpack(object); }
};

template <>
struct Argument<const std::optional<Tensor>&> {
  static bool plain(PyObject* object) { return Py_IsNone(object) || Argument<const Tensor&>::plain(object); }
  static std::optional<Tensor> read(PyObject* object) {
    return Py_IsNone(object) ? std::nullopt : std::optional<Tensor>(THPVariable_Unpack(object));
  }
};

template <>
struct Argument<bool> {
  static bool plain(PyObject* object) { return PyBool_Check(object); }
  static bool read(PyObject* object) { return object == Py_True; }
};

template <>
struct Argument<int64_t> {
  static bool plain(PyObject* object) { return PyLong_CheckExact(object); }
  static int64_t read(PyObject* object) {
    const int64_t value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred() != nullptr) throw python_error();
    return value;
  }
};

inline PyObject* wrap(const Tensor& tensor) { return THPVariable_Wrap(tensor); }

inline PyObject* wrap(const std::tuple<Tensor, Tensor>& pair) {
  const auto first = py::reinterpret_steal<py::object>(wrap(std::get<0>(pair)));
  const auto second = py::reinterpret_steal<py::object>(wrap(std::get<1>(pair)));
  return PyTuple_Pack(2, first.ptr(), second.ptr());
}

// `Entry<&f>::call` gives f's result, or None where it is not for f: an observed call, a subclass of Tensor, another
// device, float16 or bfloat16 (autocast's concern), or a first argument of another dtype than float32 and float64.
template <auto f>
struct Entry;

template <typename Result, typename First, typename... Rest, Result (*f)(First, Rest...)>
struct Entry<f> {
  static constexpr size_t count = 1 + sizeof...(Rest);

  static PyObject* call(PyObject*, PyObject* const* objects, Py_ssize_t given) {
    HANDLE_TH_ERRORS
    TORCH_CHECK_TYPE(static_cast<size_t>(given) == count, "expected ", count, " arguments, got ", given);
    return take(objects, std::make_index_sequence<sizeof...(Rest)>());
    END_HANDLE_TH_ERRORS
  }

 private:
  template <size_t... i>
  static PyObject* take(PyObject* const* objects, std::index_sequence<i...>) {
    if (observed() || !Argument<First>::plain(objects[0]) || !(Argument<Rest>::plain(objects[i + 1]) && ...)) {
      Py_RETURN_NONE;
    }
    const auto dtype = Argument<First>::read(objects[0]).scalar_type();
    if (dtype != at::kFloat && dtype != at::kDouble) Py_RETURN_NONE;
    using Values = std::tuple<First, decltype(Argument<Rest>::read(nullptr))...>;
    const Values values(Argument<First>::read(objects[0]), Argument<Rest>::read(objects[i + 1])...);
    return wrap(unlocked(values));
  }

  template <typename Values>
  static Result unlocked(const Values& values) {
    const py::gil_scoped_release released;
    return std::apply(f, values);
  }
};

}  // namespace ferkit
