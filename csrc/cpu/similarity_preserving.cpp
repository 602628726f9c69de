// similarity_preserving on the CPU: reads the arguments, then one of two forms.
#include "similarity_preserving.h"

#include <memory>

namespace ferkit {
namespace {

using sp::Problem;

std::vector<double> to_doubles(const Tensor& t) {
  const int64_t count = t.numel();
  std::vector<double> result(count);
  switch (t.scalar_type()) {
    case ScalarType::Bool:
      for (int64_t i = 0; i < count; ++i) result[i] = in<uint8_t>(t)[i] != 0;
      break;
    case ScalarType::Float:
      for (int64_t i = 0; i < count; ++i) result[i] = in<float>(t)[i];
      break;
    case ScalarType::Double:
      std::copy(in<double>(t), in<double>(t) + count, result.begin());
      break;
    default:
      require(false, "mask: expected bool, float32 or float64");
  }
  return result;
}

Problem read_problem(const Tensor& target, const Tensor& auxiliary, const Tensor& mask, bool subset) {
  check_floating(target, "target");
  require(target.dim() == 2, "target: expected shape (N, Dt)");
  check_same(auxiliary, target, "auxiliary");
  require(auxiliary.dim() == 3, "auxiliary: expected shape (M, N, Da)");
  require(auxiliary.size(1) == target.size(0), "auxiliary: expected as many rows as target");
  require(mask.is_cpu(), "mask: expected a CPU tensor");
  check_shape(mask, {auxiliary.size(0), target.size(0)}, "mask");
  Problem p{auxiliary.size(0), target.size(0), target.size(1), auxiliary.size(2), subset, to_doubles(dense(mask)), {}};
  for (int64_t i = 0; i < p.branches; ++i) {
    double total = 0;
    for (int64_t n = 0; n < p.size; ++n) total += p.weight[i * p.size + n];
    p.divisor.push_back(total > 0 ? 1 / (total * total) : 0);
  }
  return p;
}

template <typename T>
void run_forward(
    const Problem& p, const Tensor& target, const Tensor& auxiliary, bool gram, double* state, double* loss) {
  (gram ? sp::gram_forward<T> : sp::factored_forward<T>)(p, in<T>(target), in<T>(auxiliary), state, loss);
}

int64_t state_size(const Problem& p, bool gram) { return gram ? sp::gram_state(p) : sp::factored_state(p); }

template <typename T>
std::tuple<Tensor, Tensor> run_backward(
    const Problem& p, const Tensor& grad, const Tensor& target, const Tensor& auxiliary, const Tensor& kept,
    bool gram) {
  const int64_t need = state_size(p, gram);
  std::unique_ptr<double[]> again;
  std::vector<double> scale(p.branches), loss(p.branches);
  const double* state = in<double>(kept);
  if (kept.numel() != need) {  // a caller that could not keep the forward's state: form it anew
    again.reset(new double[need]);
    run_forward<T>(p, target, auxiliary, gram, again.get(), loss.data());
    state = again.get();
  }
  for (int64_t i = 0; i < p.branches; ++i) scale[i] = in<T>(grad)[i] * p.divisor[i];
  Tensor d_target = make({p.size, p.target_width}, target.scalar_type());
  Tensor d_auxiliary = make({p.branches, p.size, p.branch_width}, target.scalar_type());
  (gram ? sp::gram_backward<T> : sp::factored_backward<T>)(
      p, in<T>(target), in<T>(auxiliary), scale.data(), state, out<T>(d_target), out<T>(d_auxiliary));
  return {d_target, d_auxiliary};
}

std::tuple<Tensor, Tensor> similarity_preserving(
    Tensor target, Tensor auxiliary, Tensor mask, bool subset, bool gram, int64_t kept) {
  const Problem p = read_problem(target, auxiliary, mask, subset);
  target = dense(target), auxiliary = dense(auxiliary);
  const int64_t need = state_size(p, gram);
  require(kept == 0 || kept == need, "kept: expected 0 or " + std::to_string(need) + ", got " + std::to_string(kept));
  Tensor state = make({kept}, ScalarType::Double);
  const std::unique_ptr<double[]> scratch(kept == need ? nullptr : new double[need]);
  std::vector<double> loss(p.branches);
  double* to = kept == need ? out<double>(state) : scratch.get();
  Tensor result = make({p.branches}, target.scalar_type());
  by_dtype(target, [&](auto type) {
    run_forward<decltype(type)>(p, target, auxiliary, gram, to, loss.data());
    std::copy(loss.begin(), loss.end(), out<decltype(type)>(result));
  });
  return {result, state};
}

std::tuple<Tensor, Tensor> similarity_preserving_backward(
    Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor kept, bool subset, bool gram) {
  const Problem p = read_problem(target, auxiliary, mask, subset);
  check_same(grad, target, "grad");
  check_shape(grad, {p.branches}, "grad");
  require(kept.is_cpu() && kept.scalar_type() == ScalarType::Double, "kept: expected a float64 CPU tensor");
  grad = dense(grad), target = dense(target), auxiliary = dense(auxiliary), kept = dense(kept);
  return by_dtype(target, [&](auto type) {
    return run_backward<decltype(type)>(p, grad, target, auxiliary, kept, gram);
  });
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("similarity_preserving", TORCH_BOX(&ferkit::similarity_preserving));
  m.impl("similarity_preserving_backward", TORCH_BOX(&ferkit::similarity_preserving_backward));
}
