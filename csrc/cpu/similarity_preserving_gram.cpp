// The Gram form: A = G / r. G and all that follows from it, up to H of d F = H F, is in double whatever the input:
// where branches agree, A_t - A_i is small, and would be made of G's roundings.
#include "scratch.h"
#include "similarity_preserving.h"
#include "tiles.h"

namespace ferkit::sp {
namespace {

constexpr int64_t kGrain = 1 << 13;  // entries of G worth a thread in the passes over rows
constexpr int64_t kDepth = 256;      // rows of F that a strip of the last product takes at a time: they stay in cache
constexpr int64_t kChain = 32;       // products in a row in one float32 accumulator: long chains lose digits
constexpr int L = Simd<double>::lanes;
using Doubles = Vec<double>;

// A masked row's products may be NaN (subset): they are replaced, not multiplied by zero.
FERKIT_INLINE Doubles kept(const Doubles& weight, const Doubles& value) {
  return weight == 0.0 ? Doubles{} : weight * value;
}

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

// F in double, rows filled up to four and columns to whole vectors with zeros: plain loops, which compilers widen best.
template <typename T>
FERKIT_INLINE void widen_rows(int64_t size, int64_t width, int64_t padded, const T* f, double* to) {
  for (int64_t n = 0; n < size; ++n) {
    for (int64_t d = 0; d < width; ++d) to[n * padded + d] = f[n * width + d];
    for (int64_t d = width; d < padded; ++d) to[n * padded + d] = 0;
  }
  for (int64_t k = size * padded; k < round_up(size, 4) * padded; ++k) to[k] = 0;
}

// Rows [i, i + 4) of G from the diagonal on, and their mirror image.
FERKIT_CLONES void gram_rows(int64_t size, int64_t wide, int64_t i, int64_t padded, const double* f, double* to) {
  for (int64_t j = i; j < size; j += 4) {
    const double *x[4], *y[4];
    double block[16];
    for (int u = 0; u < 4; ++u) x[u] = f + (i + u) * padded, y[u] = f + (j + u) * padded;
    dots4x4<double>(x, y, padded, block);
    for (int u = 0; u < 4 && i + u < size; ++u)
      for (int v = 0; v < 4 && j + v < size; ++v) {
        to[(i + u) * wide + j + v] = block[4 * u + v];
        to[(j + v) * wide + i + u] = block[4 * u + v];
      }
  }
  for (int u = 0; u < 4 && i + u < size; ++u)
    for (int64_t p = size; p < wide; ++p) to[(i + u) * wide + p] = 0;
}

FERKIT_INLINE double inverse_norm(int64_t wide, const double* g, const double* inner) {
  Doubles acc = {};
  for (int64_t p = 0; p < wide; p += L) {
    Doubles v, w;
    load<double>(v, g + p), load<double>(w, inner + p);
    acc += kept(w, v * v);
  }
  const double square = sum_lanes<double>(acc);
  return square == 0 ? 0 : 1 / std::sqrt(square);
}

// Norms, sum_p w_p D_np^2 for D = A_t - A_i, and what the chain through the norms takes: sum_p w_p D_np A_np.
FERKIT_CLONES void compare_rows(const Grams& g, int64_t begin, int64_t end, double* parts) {
  for (int64_t n = begin; n < end; ++n) {
    const double* gt = g.row(0, n);
    for (int64_t i = 0; i < g.branches; ++i) {
      const double *gi = g.row(i + 1, n), *weight = g.outer(i), wn = weight[n];
      if (i == 0 || g.subset) g.inv_target(i)[n] = inverse_norm(g.wide, gt, g.inner(i));
      const double it = g.inv_target(i)[n], ii = inverse_norm(g.wide, gi, g.inner(i));
      g.inv_branch(i)[n] = ii;
      Doubles square = {}, at = {}, ai = {};
      for (int64_t p = 0; wn != 0 && p < g.wide; p += L) {
        Doubles t, b, w;
        load<double>(t, gt + p), load<double>(b, gi + p), load<double>(w, weight + p);
        t *= it, b *= ii;
        const Doubles d = t - b;
        square += kept(w, d * d), at += kept(w, d * t), ai += kept(w, d * b);
      }
      parts[i * g.size + n] = wn * sum_lanes<double>(square);
      g.along_target(i)[n] = wn * sum_lanes<double>(at) * it * it;
      g.along_branch(i)[n] = -wn * sum_lanes<double>(ai) * ii * ii;
    }
  }
}

// Row n of H_i, and what branch i adds to row n of H_t; `ct`, `ci` are S / r^2 per row, `pull` is 2 scale w_n.
FERKIT_INLINE void pull_row(
    const Grams& g, int64_t i, int64_t n, double pull, const double* ct, const double* ci, double* ht, double* hi) {
  const double *gt = g.row(0, n), *gi = g.row(i + 1, n), *weight = g.outer(i), *inner = g.inner(i);
  const double *inv_t = g.inv_target(i), *inv_i = g.inv_branch(i);
  const double it = inv_t[n], ii = inv_i[n], vn = inner[n], ctn = ct[n], cin = ci[n];
  for (int64_t p = 0; p < g.wide; p += L) {
    Doubles t, b, w, v, itp, iip, cip, to;
    load<double>(t, gt + p), load<double>(b, gi + p), load<double>(w, weight + p), load<double>(v, inner + p);
    load<double>(itp, inv_t + p), load<double>(iip, inv_i + p), load<double>(cip, ci + p), load<double>(to, ht + p);
    const Doubles here = t * it - b * ii, there = t * itp - b * iip, wide = pull * w;
    Doubles add_t = wide * (it * here + itp * there);
    Doubles add_i = -wide * (ii * here + iip * there) - b * (v * cin + vn * cip);
    if (g.subset) {
      Doubles ctp;
      load<double>(ctp, ct + p);
      add_t -= t * (v * ctn + vn * ctp);
      add_t = w == 0.0 ? Doubles{} : add_t;
      add_i = w == 0.0 ? Doubles{} : add_i;
    }
    store<double>(ht + p, to + add_t), store<double>(hi + p, add_i);
  }
}

// Rows [begin, end) of H, (M + 1, wide, wide) of T; ct (targets, wide), ci (M, wide), room (2, wide).
template <typename T>
FERKIT_INLINE void pull_rows(
    const Grams& g, int64_t begin, int64_t end, const double* scale, const double* ct, const double* ci, double* room,
    T* h) {
  double *ht = room, *hi = room + g.wide;
  for (int64_t n = begin; n < end; ++n) {
    const double *gt = g.row(0, n), own = g.subset ? 0 : ct[n];
    for (int64_t p = 0; p < g.wide; ++p) ht[p] = g.subset ? 0 : -gt[p] * (ct[p] + own);
    for (int64_t i = 0; i < g.branches; ++i) {
      const double weight = g.outer(i)[n];
      T* to = h + ((i + 1) * g.wide + n) * g.wide;
      const bool masked = g.subset && weight == 0;
      if (!masked)
        pull_row(g, i, n, 2 * scale[i] * weight, ct + (g.subset ? i * g.wide : 0), ci + i * g.wide, ht, hi);
      for (int64_t p = 0; p < g.wide; ++p) to[p] = masked ? T(0) : static_cast<T>(hi[p]);
    }
    for (int64_t p = 0; p < g.wide; ++p) h[n * g.wide + p] = static_cast<T>(ht[p]);
  }
}

// Columns [from, from + V vectors) of H F; a masked row of F is read as zeros, lest 0 * NaN spread.
template <typename T, int V>
FERKIT_INLINE void product_strip(
    const Grams& g, const T* h, int64_t width, int64_t from, const T* f, const double* used, T* pack, T* result) {
  constexpr int W = V * Simd<T>::lanes, R = 8;
  const int64_t count = width - from < W ? width - from : W;
  for (int64_t k = 0; k < g.size; k += kDepth) {
    const int64_t depth = g.size - k < kDepth ? g.size - k : kDepth;
    for (int64_t r = 0; r < depth; ++r) {
      const bool zero = used != nullptr && used[k + r] == 0;
      fetch<false, V>(f + (k + r) * width + from + W);  // the next strip, which hardware does not see coming
      if (count == W && !zero)
        std::memcpy(pack + r * W, f + (k + r) * width + from, W * sizeof(T));
      else
        for (int64_t d = 0; d < W; ++d) pack[r * W + d] = zero || d >= count ? T(0) : f[(k + r) * width + from + d];
    }
    for (int64_t n = 0; n < g.size; n += R) {
      const int64_t rows = g.size - n < R ? g.size - n : R;
      alignas(kVectorBytes) T sum[R * W];  // rows of `result` may be a power of two apart: slow to add to
      T* to = result + n * width + from;
      for (int64_t r = 0; r < rows; ++r) fetch<true, V>(to + r * width);
      for (int64_t c = 0; c < depth; c += kChain)
        tile<T, R, V>(
            depth - c < kChain ? depth - c : kChain, h + n * g.wide + k + c, g.wide, 1, pack + c * W, W, sum, W,
            c > 0);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < count; ++d) to[r * width + d] = (k > 0 ? to[r * width + d] : T(0)) + sum[r * W + d];
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                       \
  FERKIT_CLONES void widen_##S(int64_t n, int64_t d, int64_t padded, const T* f, double* to) {                    \
    widen_rows<T>(n, d, padded, f, to);                                                                           \
  }                                                                                                               \
  FERKIT_CLONES void pull_rows_##S(                                                                               \
      const Grams& g, int64_t b, int64_t e, const double* scale, const double* ct, const double* ci, double* room,\
      T* h) {                                                                                                     \
    pull_rows<T>(g, b, e, scale, ct, ci, room, h);                                                                \
  }                                                                                                               \
  FERKIT_CLONES void product_##S(                                                                                 \
      const Grams& g, const T* h, int64_t d, int64_t from, const T* f, const double* used, T* pack, T* result) {  \
    if (d - from > Simd<T>::lanes)                                                                                \
      product_strip<T, 2>(g, h, d, from, f, used, pack, result);                                                  \
    else                                                                                                          \
      product_strip<T, 1>(g, h, d, from, f, used, pack, result);                                                  \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                          \
  template <>                                       \
  struct Rows<T> {                                  \
    static constexpr auto widen = widen_##S;        \
    static constexpr auto pull = pull_rows_##S;     \
    static constexpr auto product = product_##S;    \
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
      gram_rows(p.size, g.wide, 4 * first, padded, f.get(), g.row(m, 0));
      if (last > first) gram_rows(p.size, g.wide, 4 * last, padded, f.get(), g.row(m, 0));
    }
  });
  std::vector<double> parts(p.branches * p.size);
  parallel(p.size, p.branches * p.size, kGrain, [&](int64_t b, int64_t e) { compare_rows(g, b, e, parts.data()); });
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
