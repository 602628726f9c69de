// The Gram form: A = G / r. G and all that follows from it, up to H of d F = H F, is in double whatever the input:
// where branches agree, A_t - A_i is small, and would be made of G's roundings.
#include "scratch.h"
#include "similarity_preserving.h"

namespace ferkit::sp {
namespace {

constexpr int64_t kGrain = 1 << 13;  // entries of G worth a thread in the passes over rows
constexpr int64_t kDepth = 256;      // rows of F that a strip of the last product takes at a time: they stay in cache
constexpr int L = Simd<double>::lanes;

// Rows of G are `wide` long, N rounded up to 8, the rest zeros; so are all vectors over p, whose padding has weight 0.
// `state`: G of the target and of each branch, (M + 1, N, wide); 1/r, (targets + M, wide); S / (2 scale r^2) by target
// and by branch, (2, M, wide).
struct Grams {
  int64_t branches, size, wide, targets;
  bool subset;
  std::vector<double> weight, ones;  // w (M, wide), and v where the norms take whole rows
  double *gram, *inverse, *along;

  Grams(const Problem& p, double* state)
      : branches(p.branches), size(p.size), wide(round_up(p.size, L)), targets(p.targets()), subset(p.subset),
        weight(branches * wide), ones(wide), gram(state), inverse(state + (branches + 1) * size * wide),
        along(inverse + (targets + branches) * wide) {
    for (int64_t i = 0; i < branches; ++i) std::copy_n(p.weight.data() + i * size, size, weight.data() + i * wide);
    std::fill_n(ones.data(), size, 1.0);
  }
  double* row(int64_t matrix, int64_t n) const { return gram + (matrix * size + n) * wide; }
  double* inv_target(int64_t i) const { return inverse + (subset ? i : 0) * wide; }
  double* inv_branch(int64_t i) const { return inverse + (targets + i) * wide; }
  double* along_target(int64_t i) const { return along + i * wide; }
  double* along_branch(int64_t i) const { return along + (branches + i) * wide; }
  const double* outer(int64_t i) const { return weight.data() + i * wide; }
  const double* inner(int64_t i) const { return subset ? outer(i) : ones.data(); }
};

}  // namespace
}  // namespace ferkit::sp

#define FERKIT_KERNELS "similarity_preserving_gram_rows.h"
#include "clones.h"

namespace ferkit::sp {
namespace {

const auto kGramRows = FERKIT_PICK(gram_rows);
const auto kCompareRows = FERKIT_PICK(compare_rows);

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                                       \
  template <>                                                    \
  struct Rows<T> {                                               \
    static inline const auto widen = FERKIT_PICK(widen_##S);     \
    static inline const auto pull = FERKIT_PICK(pull_rows_##S);  \
    static inline const auto product = FERKIT_PICK(product_##S); \
  };
FERKIT_TABLE(float, f32)
FERKIT_TABLE(double, f64)
#undef FERKIT_TABLE

// 1 for the rows of the target that any branch uses.
std::vector<double> used_by_any(const Grams& g) {
  std::vector<double> used(g.wide);
  for (int64_t i = 0; i < g.branches; ++i)
    for (int64_t n = 0; n < g.size; ++n)
      if (g.outer(i)[n] != 0) used[n] = 1;
  return used;
}

}  // namespace

int64_t gram_state(const Problem& p) {
  const int64_t wide = round_up(p.size, L);
  return ((p.branches + 1) * p.size + p.targets() + 3 * p.branches) * wide;
}

template <typename T>
void gram_forward(const Problem& p, const T* target, const T* branches, double* state, double* loss) {
  const Grams g(p, state);
  std::fill(g.inverse, state + gram_state(p), 0.0);
  // A unit is a block of rows and its opposite: with the half that the mirror gives, all units are equally long.
  const int64_t blocks = (p.size + 3) / 4, units = (blocks + 1) / 2;
  const int64_t widest = round_up(std::max(p.target_width, p.branch_width), L);
  parallel((p.branches + 1) * units, 4 * p.size * widest, 1 << 16, [&](int64_t b, int64_t e) {
    const Scratch<double> f(round_up(p.size, 4) * widest);
    for (int64_t k = b, ready = -1; k < e; ++k) {
      const int64_t m = k / units, first = k % units, last = blocks - 1 - first;
      const int64_t width = m == 0 ? p.target_width : p.branch_width, padded = round_up(width, L);
      const T* from = m == 0 ? target : branches + (m - 1) * p.size * width;
      if (ready != m) Rows<T>::widen(p.size, width, padded, from, f.get());
      ready = m;
      kGramRows(p.size, g.wide, 4 * first, padded, f.get(), g.row(m, 0));
      if (last > first) kGramRows(p.size, g.wide, 4 * last, padded, f.get(), g.row(m, 0));
    }
  });
  std::vector<double> parts(p.branches * p.size);
  parallel(p.size, p.branches * p.size, kGrain, [&](int64_t b, int64_t e) { kCompareRows(g, b, e, parts.data()); });
  for (int64_t i = 0; i < p.branches; ++i) {
    double sum = 0;
    for (int64_t n = 0; n < p.size; ++n) sum += parts[i * p.size + n];
    loss[i] = sum * p.divisor[i];
  }
}

template <typename T>
void gram_backward(
    const Problem& p, const T* target, const T* branches, const double* scale, const double* state, T* d_target,
    T* d_branches) {
  const Grams g(p, const_cast<double*>(state));
  const int64_t wide = g.wide, strip = 2 * Simd<T>::lanes;
  std::vector<double> ct(g.targets * wide), ci(p.branches * wide);
  for (int64_t i = 0; i < p.branches; ++i)
    for (int64_t n = 0; n < p.size; ++n) {
      ct[(p.subset ? i * wide : 0) + n] += 2 * scale[i] * g.along_target(i)[n];
      ci[i * wide + n] = 2 * scale[i] * g.along_branch(i)[n];
    }
  if (p.branches == 0) ct.resize(wide);
  const Scratch<T> h((p.branches + 1) * wide * wide);
  for (int64_t m = 0; m <= p.branches; ++m)
    std::fill(h.get() + (m * wide + p.size) * wide, h.get() + (m + 1) * wide * wide, T(0));
  parallel(p.size, p.branches * p.size, kGrain, [&](int64_t b, int64_t e) {
    std::vector<double> room(2 * wide);
    Rows<T>::pull(g, b, e, scale, ct.data(), ci.data(), room.data(), h.get());
  });
  const std::vector<double> any = p.subset ? used_by_any(g) : std::vector<double>();
  const int64_t own = (p.target_width + strip - 1) / strip, each = (p.branch_width + strip - 1) / strip;
  parallel(own + p.branches * each, p.size * p.size * strip, 1 << 17, [&](int64_t b, int64_t e) {
    const Scratch<T> pack(std::min(kDepth, p.size) * strip);
    for (int64_t k = b; k < e; ++k) {
      const int64_t m = k < own ? 0 : 1 + (k - own) / each, from = (k < own ? k : (k - own) % each) * strip;
      const int64_t start = (m - 1) * p.size * p.branch_width;
      const double* used = !p.subset ? nullptr : m == 0 ? any.data() : g.outer(m - 1);
      Rows<T>::product(
          g, h.get() + m * wide * wide, m == 0 ? p.target_width : p.branch_width, from,
          m == 0 ? target : branches + start, used, pack.get(), m == 0 ? d_target : d_branches + start);
    }
  });
}

template void gram_forward(const Problem&, const float*, const float*, double*, double*);
template void gram_forward(const Problem&, const double*, const double*, double*, double*);
template void gram_backward(const Problem&, const float*, const float*, const double*, const double*, float*, float*);
template void gram_backward(
    const Problem&, const double*, const double*, const double*, const double*, double*, double*);

}  // namespace ferkit::sp
