// The Gram form: A = G / r, everything after the matrix products in two passes over G, in double.
#include "similarity_preserving.h"
#include "tiles.h"

namespace ferkit::sp {
namespace {

constexpr int64_t kGrain = 1 << 14;  // entries of G worth a thread in the passes over rows
typedef double Doubles __attribute__((vector_size(64)));
typedef float Halves __attribute__((vector_size(32)));
constexpr int L = 8;

FERKIT_INLINE void widen(Doubles& to, const double* from) { std::memcpy(&to, from, sizeof(to)); }
FERKIT_INLINE void widen(Doubles& to, const float* from) {
  Halves half;
  std::memcpy(&half, from, sizeof(half));
  to = __builtin_convertvector(half, Doubles);
}
FERKIT_INLINE void narrow(double* to, const Doubles& from) { std::memcpy(to, &from, sizeof(from)); }
FERKIT_INLINE void narrow(float* to, const Doubles& from) {
  const Halves half = __builtin_convertvector(from, Halves);
  std::memcpy(to, &half, sizeof(half));
}
FERKIT_INLINE double total(const Doubles& v) { return sum_lanes<double>(v); }

// A masked row's products may be NaN (subset): they are replaced, not multiplied by zero.
FERKIT_INLINE Doubles kept(const Doubles& weight, const Doubles& value) {
  return weight == 0.0 ? Doubles{} : weight * value;
}

// Rows of G are `wide` long, N rounded up to 8, the rest zeros; so are all vectors over p, whose padding has weight 0.
struct Row {
  int64_t wide;
  const double *weight, *inner;          // w, v
  const double *inv_target, *inv_branch;  // 1/r
};

template <typename T>
FERKIT_INLINE void gram_matrix(int64_t size, int64_t wide, int64_t width, const T* f, T* g) {
  for (int64_t i = 0; i < size; i += 4) {
    for (int64_t j = i; j < size; j += 4) {
      const T *x[4], *y[4];
      T block[16];
      for (int u = 0; u < 4; ++u) {
        x[u] = f + (i + u < size ? i + u : i) * width;
        y[u] = f + (j + u < size ? j + u : j) * width;
      }
      dots4x4<T>(x, y, width, block);
      for (int u = 0; u < 4 && i + u < size; ++u)
        for (int v = 0; v < 4 && j + v < size; ++v) {
          g[(i + u) * wide + j + v] = block[4 * u + v];
          g[(j + v) * wide + i + u] = block[4 * u + v];
        }
    }
    for (int u = 0; u < 4 && i + u < size; ++u)
      for (int64_t p = size; p < wide; ++p) g[(i + u) * wide + p] = 0;
  }
}

template <typename T>
FERKIT_INLINE void norms(int64_t size, int64_t wide, const T* g, const double* inner, double* inverse) {
  for (int64_t n = 0; n < size; ++n) {
    Doubles acc = {};
    for (int64_t p = 0; p < wide; p += L) {
      Doubles v, w;
      widen(v, g + n * wide + p), widen(w, inner + p);
      acc += kept(w, v * v);
    }
    const double square = total(acc);
    inverse[n] = square == 0 ? 0 : 1 / std::sqrt(square);
  }
}

// sum_p w_p D_np^2 for D = A_t - A_i
template <typename T>
FERKIT_INLINE double distance(const Row& r, int64_t n, const T* gt, const T* gi) {
  const double it = r.inv_target[n], ii = r.inv_branch[n];
  Doubles acc = {};
  for (int64_t p = 0; p < r.wide; p += L) {
    Doubles t, b, w;
    widen(t, gt + p), widen(b, gi + p), widen(w, r.weight + p);
    const Doubles d = t * it - b * ii;
    acc += kept(w, d * d);
  }
  return total(acc);
}

// sum_p w_p D_np A_t,np and the same with A_i
template <typename T>
FERKIT_INLINE void along(const Row& r, int64_t n, const T* gt, const T* gi, double& st, double& si) {
  const double it = r.inv_target[n], ii = r.inv_branch[n];
  Doubles at = {}, ai = {};
  for (int64_t p = 0; p < r.wide; p += L) {
    Doubles t, b, w;
    widen(t, gt + p), widen(b, gi + p), widen(w, r.weight + p);
    t *= it, b *= ii;
    at += kept(w, (t - b) * t), ai += kept(w, (t - b) * b);
  }
  st = total(at), si = total(ai);
}

// Row n of H_i, and what branch i adds to row n of H_t; `ct`, `ci` are S / r^2 per row, `pull` is 2 scale w_n.
template <typename T>
FERKIT_INLINE void pull_row(
    const Row& r, int64_t n, bool subset, double pull, const T* gt, const T* gi, const double* ct, const double* ci,
    double* ht, double* hi) {
  const double it = r.inv_target[n], ii = r.inv_branch[n], vn = r.inner[n], ctn = ct[n], cin = ci[n];
  for (int64_t p = 0; p < r.wide; p += L) {
    Doubles t, b, w, v, itp, iip, ctp, cip, to;
    widen(t, gt + p), widen(b, gi + p), widen(w, r.weight + p), widen(v, r.inner + p);
    widen(itp, r.inv_target + p), widen(iip, r.inv_branch + p), widen(ctp, ct + p), widen(cip, ci + p);
    widen(to, ht + p);
    const Doubles here = t * it - b * ii, there = t * itp - b * iip;
    Doubles add_t = pull * w * (it * here + itp * there);
    Doubles add_i = -pull * w * (ii * here + iip * there) - b * (v * cin + vn * cip);
    if (subset) {
      add_t -= t * (v * ctn + vn * ctp);
      add_t = w == 0.0 ? Doubles{} : add_t;
      add_i = w == 0.0 ? Doubles{} : add_i;
    }
    narrow(ht + p, to + add_t), narrow(hi + p, add_i);
  }
}

template <typename T>
FERKIT_INLINE void write_row(int64_t size, const double* from, T* to) {
  for (int64_t p = 0; p < size; ++p) to[p] = static_cast<T>(from[p]);
}

#define FERKIT_DEFINE(T, S)                                                                                       \
  FERKIT_CLONES void gram_##S(int64_t n, int64_t wide, int64_t d, const T* f, T* g) {                             \
    gram_matrix<T>(n, wide, d, f, g);                                                                             \
  }                                                                                                               \
  FERKIT_CLONES void norms_##S(int64_t n, int64_t wide, const T* g, const double* inner, double* inverse) {       \
    norms<T>(n, wide, g, inner, inverse);                                                                         \
  }                                                                                                               \
  FERKIT_CLONES void distances_##S(                                                                               \
      const Row& r, int64_t b, int64_t e, const T* gt, const T* gi, double* result) {                             \
    for (int64_t n = b; n < e; ++n)                                                                               \
      result[n] =                                                                                                 \
          r.weight[n] == 0 ? 0 : r.weight[n] * distance<T>(r, n, gt + n * r.wide, gi + n * r.wide);               \
  }                                                                                                               \
  FERKIT_CLONES void alongs_##S(                                                                                  \
      const Row& r, int64_t b, int64_t e, double scale, const T* gt, const T* gi, double* ct, double* ci) {       \
    for (int64_t n = b; n < e; ++n) {                                                                             \
      double st = 0, si = 0;                                                                                      \
      if (r.weight[n] != 0) along<T>(r, n, gt + n * r.wide, gi + n * r.wide, st, si);                             \
      ct[n] += 2 * scale * r.weight[n] * st * r.inv_target[n] * r.inv_target[n];                                  \
      ci[n] = -2 * scale * r.weight[n] * si * r.inv_branch[n] * r.inv_branch[n];                                  \
    }                                                                                                             \
  }                                                                                                               \
  FERKIT_CLONES void pull_##S(                                                                                    \
      const Row& r, int64_t n, bool subset, double pull, const T* gt, const T* gi, const double* ct,              \
      const double* ci, double* ht, double* hi) {                                                                 \
    pull_row<T>(r, n, subset, pull, gt, gi, ct, ci, ht, hi);                                                      \
  }                                                                                                               \
  FERKIT_CLONES void own_##S(int64_t n, int64_t wide, const T* gt, const double* ct, double* ht) {                \
    for (int64_t p = 0; p < wide; ++p) ht[p] -= static_cast<double>(gt[p]) * (ct[n] + ct[p]);                     \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
#define FERKIT_TABLE(T, S)                              \
  template <>                                           \
  struct Rows<T> {                                      \
    static constexpr auto gram = gram_##S;              \
    static constexpr auto norms = norms_##S;            \
    static constexpr auto distances = distances_##S;    \
    static constexpr auto alongs = alongs_##S;          \
    static constexpr auto pull = pull_##S;              \
    static constexpr auto own = own_##S;                \
  };
FERKIT_TABLE(float, f32)
FERKIT_TABLE(double, f64)
#undef FERKIT_TABLE

// `state`: G of the target and of each branch, (M + 1, N, wide) of T; then 1/r, (targets + M, wide) of double.
template <typename T>
struct Layout {
  int64_t wide;
  T* grams;
  double* inverse;
  Layout(const Problem& p, double* state) : wide(round_up(p.size, L)) {
    grams = reinterpret_cast<T*>(state);
    inverse = state + (p.branches + 1) * p.size * wide * static_cast<int64_t>(sizeof(T)) / 8;
  }
  T* gram(const Problem& p, int64_t matrix) const { return grams + matrix * p.size * wide; }
  double* of_target(const Problem& p, int64_t i) const { return inverse + (p.subset ? i : 0) * wide; }
  double* of_branch(const Problem& p, int64_t i) const { return inverse + (p.targets() + i) * wide; }
};

// Weights padded with zeros: (M, wide), and the weights inside the norms, which are all ones for whole rows.
struct Padded {
  std::vector<double> weight, ones;
  Padded(const Problem& p, int64_t wide) : weight(p.branches * wide), ones(wide) {
    for (int64_t i = 0; i < p.branches; ++i)
      for (int64_t n = 0; n < p.size; ++n) weight[i * wide + n] = p.weight[i * p.size + n];
    for (int64_t n = 0; n < p.size; ++n) ones[n] = 1;
  }
  const double* inner(const Problem& p, int64_t i, int64_t wide) const {
    return p.subset ? weight.data() + i * wide : ones.data();
  }
};

template <typename T>
Row row_of(const Problem& p, const Layout<T>& l, const Padded& padded, int64_t i) {
  return {l.wide, padded.weight.data() + i * l.wide, padded.inner(p, i, l.wide), l.of_target(p, i), l.of_branch(p, i)};
}

}  // namespace

int64_t gram_state(const Problem& p, int64_t item) {
  const int64_t wide = round_up(p.size, L);
  return (p.branches + 1) * p.size * wide * item / 8 + (p.targets() + p.branches) * wide;
}

template <typename T>
void gram_forward(const Problem& p, const T* target, const T* branches, double* state, double* loss) {
  const Layout<T> l(p, state);
  const Padded padded(p, l.wide);
  std::fill(l.inverse, l.inverse + (p.targets() + p.branches) * l.wide, 0.0);
  parallel(p.branches + 1, p.size * p.size * p.branch_width / 2 + 1, 1 << 16, [&](int64_t b, int64_t e) {
    for (int64_t m = b; m < e; ++m) {
      T* g = l.gram(p, m);
      const T* f = m == 0 ? target : branches + (m - 1) * p.size * p.branch_width;
      Rows<T>::gram(p.size, l.wide, m == 0 ? p.target_width : p.branch_width, f, g);
      if (m > 0) Rows<T>::norms(p.size, l.wide, g, padded.inner(p, m - 1, l.wide), l.of_branch(p, m - 1));
      for (int64_t i = 0; m == 0 && i < p.targets(); ++i)
        Rows<T>::norms(p.size, l.wide, g, padded.inner(p, i, l.wide), l.of_target(p, i));
    }
  });
  std::vector<double> parts(p.branches * p.size);
  parallel(p.branches * p.size, p.size, kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b / p.size; i * p.size < e; ++i) {
      const Row r = row_of<T>(p, l, padded, i);
      const int64_t from = std::max(b, i * p.size) - i * p.size, to = std::min(e, (i + 1) * p.size) - i * p.size;
      Rows<T>::distances(r, from, to, l.gram(p, 0), l.gram(p, i + 1), parts.data() + i * p.size);
    }
  });
  for (int64_t i = 0; i < p.branches; ++i) {
    double sum = 0;
    for (int64_t n = 0; n < p.size; ++n) sum += parts[i * p.size + n];
    loss[i] = sum * p.divisor[i];
  }
}

template <typename T>
void gram_backward(const Problem& p, const double* scale, const double* state, T* h_target, T* h_branches) {
  const Layout<T> l(p, const_cast<double*>(state));
  const Padded padded(p, l.wide);
  const int64_t size = p.size, wide = l.wide;
  std::vector<double> ct(p.targets() * wide), ci(p.branches * wide);
  parallel(size, p.branches * size, kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = 0; i < p.branches; ++i)
      Rows<T>::alongs(
          row_of<T>(p, l, padded, i), b, e, scale[i], l.gram(p, 0), l.gram(p, i + 1),
          ct.data() + (p.subset ? i * wide : 0), ci.data() + i * wide);
  });
  parallel(size, p.branches * size, kGrain, [&](int64_t b, int64_t e) {
    std::vector<double> ht(wide), hi(wide);
    for (int64_t n = b; n < e; ++n) {
      std::fill(ht.begin(), ht.end(), 0.0);
      const T* gt = l.gram(p, 0) + n * wide;
      for (int64_t i = 0; i < p.branches; ++i) {
        const Row r = row_of<T>(p, l, padded, i);
        T* to = h_branches + (i * size + n) * size;
        if (p.subset && r.weight[n] == 0) {
          std::fill(to, to + size, T(0));
          continue;
        }
        Rows<T>::pull(
            r, n, p.subset, 2 * scale[i] * r.weight[n], gt, l.gram(p, i + 1) + n * wide,
            ct.data() + (p.subset ? i * wide : 0), ci.data() + i * wide, ht.data(), hi.data());
        write_row<T>(size, hi.data(), to);
      }
      if (!p.subset) Rows<T>::own(n, wide, gt, ct.data(), ht.data());
      write_row<T>(size, ht.data(), h_target + n * size);
    }
  });
}

template void gram_forward(const Problem&, const float*, const float*, double*, double*);
template void gram_forward(const Problem&, const double*, const double*, double*, double*);
template void gram_backward(const Problem&, const double*, const double*, float*, float*);
template void gram_backward(const Problem&, const double*, const double*, double*, double*);

}  // namespace ferkit::sp
