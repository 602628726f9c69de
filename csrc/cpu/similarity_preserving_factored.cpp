// The factored form: A_t - A_i = X Z^T with X = [U_t - U_i, U_i], Z = [F_t, F_t - F_i], so that
// |M (A_t - A_i)|^2 = <X^T M X, Z^T M Z>. Linear in N; in double throughout, because X and Z cancel where branches agree
// only up to rotation, and with branches brought to the target's length, lest U_i F_t outgrow A. Rows come in chunks that
// stay in cache, chunks in fixed groups (same bits at any number of threads).
#include "similarity_preserving.h"

namespace ferkit::sp {
namespace {

constexpr int L = Simd<double>::lanes;
constexpr int64_t kChunk = 64;       // rows at a time: X and Z of one chunk fit in the L2 cache up to D = 512
constexpr int64_t kMaxGroups = 8;    // partial sums per block
constexpr int64_t kGroupRows = 512;  // rows a group is worth

int64_t padded_width(const Problem& p) { return round_up(std::max(p.target_width, p.branch_width), L); }
int64_t group_count(int64_t size) { return std::max<int64_t>(1, std::min(kMaxGroups, size / kGroupRows)); }

template <typename T>
struct Pair {  // one branch against the target
  int64_t target_width, branch_width, wide;
  const T *target, *branch;
  const double *weight, *inv_target, *inv_branch;
  double ratio;  // the branch's features times this are as long as the target's; A does not know the difference
};

struct Pull {  // where the gradients of one branch go, all (N, W) or (N,)
  double *direct_target, *direct_branch;  // d F that does not pass through r
  double *along_target, *along_branch;    // d U . F
};

}  // namespace
}  // namespace ferkit::sp

#define FERKIT_KERNELS "similarity_preserving_factored_rows.h"
#include "clones.h"

namespace ferkit::sp {
namespace {

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                                               \
  template <>                                                            \
  struct Rows<T> {                                                       \
    static inline const auto own_block = FERKIT_PICK(own_block_##S);     \
    static inline const auto own_norms = FERKIT_PICK(own_norms_##S);     \
    static inline const auto pair_blocks = FERKIT_PICK(pair_blocks_##S); \
    static inline const auto pair_pull = FERKIT_PICK(pair_pull_##S);     \
    static inline const auto norm_block = FERKIT_PICK(norm_block_##S);   \
    static inline const auto finish = FERKIT_PICK(finish_##S);           \
  };
FERKIT_TABLE(float, f32)
FERKIT_TABLE(double, f64)
#undef FERKIT_TABLE

// Runs f(begin, end, scratch) over the row groups, each with its own `scratch` doubles.
template <typename F>
void by_group(int64_t size, int64_t scratch, const F& f) {
  const int64_t groups = group_count(size);
  parallel(groups, 1, groups > 1 ? 0 : 1, [&](int64_t b, int64_t e) {
    std::vector<double> room(scratch);
    for (int64_t g = b; g < e; ++g) f(g, g * size / groups, (g + 1) * size / groups, room.data());
  });
}

void mirror(int64_t width, double* c) {
  for (int64_t i = 1; i < width; ++i)
    for (int64_t j = 0; j < i; ++j) c[i * width + j] = c[j * width + i];
}

// total (count) = sum over groups of partial (groups, count), in order; then mirrored as blocks of `width`.
void collect(int64_t groups, int64_t width, const double* partial, int64_t stride, double* total) {
  const int64_t count = width * width;
  std::copy(partial, partial + count, total);
  for (int64_t g = 1; g < groups; ++g)
    for (int64_t i = 0; i < count; ++i) total[i] += partial[g * stride + i];
  mirror(width, total);
}

// `state`: F^T V F of the target (targets, W, W) and of the branches (M, W, W); 1/r (targets + M, N); X^T M X and
// Z^T M Z, (M, 2, 2 W, 2 W).
struct Layout {
  int64_t size, wide, targets;
  double *blocks, *inverse, *pairs;
  Layout(const Problem& p, double* state) : size(p.size), wide(padded_width(p)), targets(p.targets()) {
    blocks = state;
    inverse = blocks + (targets + p.branches) * wide * wide;
    pairs = inverse + (targets + p.branches) * size;
  }
  int64_t side(bool target, int64_t i) const { return target ? (targets > 1 ? i : 0) : targets + i; }
  double* block(bool target, int64_t i) const { return blocks + side(target, i) * wide * wide; }
  double* inv(bool target, int64_t i) const { return inverse + side(target, i) * size; }
  double* xx(int64_t i) const { return pairs + i * 8 * wide * wide; }
  double* zz(int64_t i) const { return xx(i) + 4 * wide * wide; }
};

// A power of two, so that scaling rounds nothing.
double length_ratio(int64_t wide, const double* target_block, const double* branch_block) {
  double target = 0, branch = 0;
  for (int64_t d = 0; d < wide; ++d) target += target_block[d * wide + d], branch += branch_block[d * wide + d];
  const double power = std::round((std::log2(target) - std::log2(branch)) / 2);
  return std::fabs(power) <= 200 ? std::exp2(power) : 1;  // 1 for zero, infinite and NaN features too
}

template <typename T>
Pair<T> pair_of(const Problem& p, const Layout& l, const T* target, const T* branches, int64_t i) {
  return {p.target_width, p.branch_width, l.wide, target, branches + i * p.size * p.branch_width,
          p.weight.data() + i * p.size, l.inv(true, i), l.inv(false, i),
          length_ratio(l.wide, l.block(true, i), l.block(false, i))};
}

}  // namespace

int64_t factored_state(const Problem& p) {
  const int64_t wide = padded_width(p), sides = p.targets() + p.branches;
  return sides * (wide * wide + p.size) + p.branches * 8 * wide * wide;
}

template <typename T>
void factored_forward(const Problem& p, const T* target, const T* branches, double* state, double* loss) {
  const Layout l(p, state);
  const int64_t wide = l.wide, groups = group_count(p.size), square = wide * wide;
  std::vector<double> partial(groups * 8 * square);
  auto normalise = [&](const T* f, int64_t width, const double* inner, double* block, double* inverse) {
    std::fill(partial.begin(), partial.end(), 0.0);
    by_group(p.size, kChunk * wide, [&](int64_t g, int64_t b, int64_t e, double* room) {
      Rows<T>::own_block(b, e, width, wide, f, inner, room, partial.data() + g * square);
    });
    collect(groups, wide, partial.data(), square, block);
    by_group(p.size, 2 * kChunk * wide, [&](int64_t, int64_t b, int64_t e, double* room) {
      Rows<T>::own_norms(b, e, width, wide, f, inner, block, room, room + kChunk * wide, inverse);
    });
  };
  for (int64_t i = 0; i < p.branches; ++i) {
    const double* inner = p.subset ? p.weight.data() + i * p.size : nullptr;
    if (i == 0 || p.subset) normalise(target, p.target_width, inner, l.block(true, i), l.inv(true, i));
    normalise(branches + i * p.size * p.branch_width, p.branch_width, inner, l.block(false, i), l.inv(false, i));
    const Pair<T> pair = pair_of<T>(p, l, target, branches, i);
    std::fill(partial.begin(), partial.end(), 0.0);
    by_group(p.size, 4 * kChunk * wide, [&](int64_t g, int64_t b, int64_t e, double* room) {
      double* to = partial.data() + g * 8 * square;
      Rows<T>::pair_blocks(pair, b, e, room, room + 2 * kChunk * wide, to, to + 4 * square);
    });
    collect(groups, 2 * wide, partial.data(), 8 * square, l.xx(i));
    collect(groups, 2 * wide, partial.data() + 4 * square, 8 * square, l.zz(i));
    double sum = 0;
    for (int64_t k = 0; k < 4 * square; ++k) sum += l.xx(i)[k] * l.zz(i)[k];
    loss[i] = (sum < 0 ? 0 : sum) * p.divisor[i];
  }
}

template <typename T>
void factored_backward(
    const Problem& p, const T* target, const T* branches, const double* scale, const double* state, T* d_target,
    T* d_branches) {
  const Layout l(p, const_cast<double*>(state));
  const int64_t wide = l.wide, size = p.size, groups = group_count(size), square = wide * wide;
  std::vector<double> partial(groups * square), d_block(square);
  std::vector<double> target_direct(size * wide), target_along(size), direct(size * wide), along(size);
  std::vector<double> target_sum(p.subset ? size * wide : 0);
  auto chain = [&](const T* f, int64_t width, const double* inner, const double* inverse, const double* block,
                   const double* straight, const double* aside, double* sum, T* result) {
    std::fill(partial.begin(), partial.end(), 0.0);
    by_group(size, 2 * kChunk * wide, [&](int64_t g, int64_t b, int64_t e, double* room) {
      Rows<T>::norm_block(
          b, e, width, wide, f, inverse, aside, room, room + kChunk * wide, partial.data() + g * square);
    });
    collect(groups, wide, partial.data(), square, d_block.data());
    by_group(size, 3 * kChunk * wide, [&](int64_t, int64_t b, int64_t e, double* room) {
      double *through = room + kChunk * wide, *around = through + kChunk * wide;
      Rows<T>::finish(
          b, e, width, wide, f, inner, inverse, aside, block, d_block.data(), straight, room, through, around, sum,
          result);
    });
  };
  std::fill(d_branches, d_branches + p.branches * size * p.branch_width, T(0));
  for (int64_t i = 0; i < p.branches; ++i) {
    const double* inner = p.subset ? p.weight.data() + i * size : nullptr;
    const Pair<T> pair = pair_of<T>(p, l, target, branches, i);
    if (p.subset) {
      std::fill(target_direct.begin(), target_direct.end(), 0.0);
      std::fill(target_along.begin(), target_along.end(), 0.0);
    }
    std::fill(direct.begin(), direct.end(), 0.0);
    std::fill(along.begin(), along.end(), 0.0);
    const Pull to{target_direct.data(), direct.data(), target_along.data(), along.data()};
    by_group(size, 8 * kChunk * wide, [&](int64_t, int64_t b, int64_t e, double* room) {
      const int64_t step = 2 * kChunk * wide;
      Rows<T>::pair_pull(
          pair, b, e, scale[i], l.xx(i), l.zz(i), room, room + step, room + 2 * step, room + 3 * step, to);
    });
    chain(
        pair.branch, p.branch_width, inner, pair.inv_branch, l.block(false, i), direct.data(), along.data(), nullptr,
        d_branches + i * size * p.branch_width);
    if (p.subset)
      chain(
          target, p.target_width, inner, pair.inv_target, l.block(true, i), target_direct.data(), target_along.data(),
          target_sum.data(), nullptr);
  }
  if (!p.subset) {
    if (p.branches > 0)
      chain(
          target, p.target_width, nullptr, l.inv(true, 0), l.block(true, 0), target_direct.data(), target_along.data(),
          nullptr, d_target);
    else
      std::fill(d_target, d_target + size * p.target_width, T(0));
    return;
  }
  for (int64_t n = 0; n < size; ++n)
    for (int64_t d = 0; d < p.target_width; ++d)
      d_target[n * p.target_width + d] = static_cast<T>(target_sum[n * wide + d]);
}

template void factored_forward(const Problem&, const float*, const float*, double*, double*);
template void factored_forward(const Problem&, const double*, const double*, double*, double*);
template void factored_backward(
    const Problem&, const float*, const float*, const double*, const double*, float*, float*);
template void factored_backward(
    const Problem&, const double*, const double*, const double*, const double*, double*, double*);

}  // namespace ferkit::sp
