// The passes of the Gram form over rows.
// Included by kernels.h, inside the instruction set's namespace.

using sp::Grams;
using Doubles = Vec<double>;

constexpr int L = Simd<double>::lanes;
constexpr int64_t kDepth = sp::kDepth;
constexpr int64_t kChain = 32;  // products in a row in one float32 accumulator: long chains lose digits

// A masked row's products may be NaN (subset): they are replaced, not multiplied by zero.
FERKIT_INLINE Doubles kept(const Doubles& weight, const Doubles& value) {
  return if_equal(weight, Doubles{}, Doubles{}, weight * value);
}

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
void gram_rows(int64_t size, int64_t wide, int64_t i, int64_t padded, const double* f, double* to) {
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
void compare_rows(const Grams& g, int64_t begin, int64_t end, double* parts) {
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
        t = t * it, b = b * ii;
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
      add_t = if_equal(w, Doubles{}, Doubles{}, add_t);
      add_i = if_equal(w, Doubles{}, Doubles{}, add_i);
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
  void widen_##S(int64_t n, int64_t d, int64_t padded, const T* f, double* to) {                    \
    widen_rows<T>(n, d, padded, f, to);                                                                           \
  }                                                                                                               \
  void pull_rows_##S(                                                                               \
      const Grams& g, int64_t b, int64_t e, const double* scale, const double* ct, const double* ci, double* room,\
      T* h) {                                                                                                     \
    pull_rows<T>(g, b, e, scale, ct, ci, room, h);                                                                \
  }                                                                                                               \
  void product_##S(                                                                                 \
      const Grams& g, const T* h, int64_t d, int64_t from, const T* f, const double* used, T* pack, T* result) {  \
    if (d - from > Simd<T>::lanes)                                                                                \
      product_strip<T, 2>(g, h, d, from, f, used, pack, result);                                                  \
    else                                                                                                          \
      product_strip<T, 1>(g, h, d, from, f, used, pack, result);                                                  \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
