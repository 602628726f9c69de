// The passes of the factored form over rows, a chunk at a time, all in double.
// Included by kernels.h, inside the instruction set's namespace.

using sp::kChunk;
using sp::Pair;
using sp::Pull;

constexpr int L = Simd<double>::lanes;

template <typename T>
FERKIT_INLINE void read_row(const T* from, int64_t width, int64_t wide, double* to) {
  for (int64_t d = 0; d < width; ++d) to[d] = from[d];
  for (int64_t d = width; d < wide; ++d) to[d] = 0;
}

FERKIT_INLINE double dot(const double* a, const double* b, int64_t wide) {
  Vec<double> acc = {};
  for (int64_t d = 0; d < wide; d += L) {
    Vec<double> x, y;
    load<double>(x, a + d), load<double>(y, b + d);
    acc += x * y;
  }
  return sum_lanes<double>(acc);
}

// The rows of a chunk that take part: all (inner == nullptr), or those of nonzero weight.
FERKIT_INLINE int64_t pick(int64_t& n, int64_t end, const double* inner, int64_t* rows) {
  int64_t used = 0;
  for (; n < end && used < kChunk; ++n)
    if (inner == nullptr || inner[n] != 0) rows[used++] = n;
  return used;
}

FERKIT_INLINE void clear_tail(int64_t used, int64_t width, double* block) {
  for (int64_t i = used * width; i < round_up(used, 8) * width; ++i) block[i] = 0;
}

// block (W, W) += F^T V F over rows [begin, end)
template <typename T>
FERKIT_INLINE void own_block(
    int64_t begin, int64_t end, int64_t width, int64_t wide, const T* f, const double* inner, double* chunk,
    double* block) {
  int64_t rows[kChunk];
  for (int64_t n = begin; n < end;) {
    const int64_t used = pick(n, end, inner, rows);
    for (int64_t r = 0; r < used; ++r) {
      double* to = chunk + r * wide;
      read_row<T>(f + rows[r] * width, width, wide, to);
      if (inner == nullptr || inner[rows[r]] == 1) continue;
      const double root = std::sqrt(inner[rows[r]]);
      for (int64_t d = 0; d < wide; ++d) to[d] *= root;
    }
    add_upper<double>(used, wide, chunk, chunk, block);
  }
}

// 1/r_n for rows [begin, end), r_n^2 = f_n^T (F^T V F) f_n; 0 for a zero row and for one that takes no part.
template <typename T>
FERKIT_INLINE void own_norms(
    int64_t begin, int64_t end, int64_t width, int64_t wide, const T* f, const double* inner, const double* block,
    double* chunk, double* product, double* inverse) {
  int64_t rows[kChunk];
  for (int64_t n = begin; n < end; ++n) inverse[n] = 0;
  for (int64_t n = begin; n < end;) {
    const int64_t used = pick(n, end, inner, rows);
    for (int64_t r = 0; r < used; ++r) read_row<T>(f + rows[r] * width, width, wide, chunk + r * wide);
    clear_tail(used, wide, chunk);
    multiply<double>(round_up(used, 8), wide, chunk, block, product);
    for (int64_t r = 0; r < used; ++r) {
      const double square = dot(chunk + r * wide, product + r * wide, wide);
      inverse[rows[r]] = square > 0 || square != square ? 1 / std::sqrt(square) : 0;
    }
  }
}

// Rows of sqrt(M) X and sqrt(M) Z, each (used, 2 W).
template <typename T>
FERKIT_INLINE void read_pair(const Pair<T>& p, const int64_t* rows, int64_t used, double* x, double* z) {
  const int64_t wide = p.wide;
  for (int64_t r = 0; r < used; ++r) {
    const int64_t n = rows[r];
    double *xr = x + r * 2 * wide, *zr = z + r * 2 * wide;
    read_row<T>(p.target + n * p.target_width, p.target_width, wide, zr);
    read_row<T>(p.branch + n * p.branch_width, p.branch_width, wide, zr + wide);
    const double root = std::sqrt(p.weight[n]);
    for (int64_t d = 0; d < wide; ++d) {
      const double t = zr[d] * root, b = zr[wide + d] * (root * p.ratio);
      const double ut = t * p.inv_target[n], ub = b * (p.inv_branch[n] / (p.ratio * p.ratio));
      xr[d] = ut - ub, xr[wide + d] = ub;
      zr[d] = t, zr[wide + d] = t - b;
    }
  }
  clear_tail(used, 2 * wide, x);
  clear_tail(used, 2 * wide, z);
}

template <typename T>
FERKIT_INLINE void pair_blocks(
    const Pair<T>& p, int64_t begin, int64_t end, double* x, double* z, double* xx, double* zz) {
  int64_t rows[kChunk];
  for (int64_t n = begin; n < end;) {
    const int64_t used = pick(n, end, p.weight, rows);
    read_pair<T>(p, rows, used, x, z);
    add_upper<double>(used, 2 * p.wide, x, x, xx);
    add_upper<double>(used, 2 * p.wide, z, z, zz);
  }
}

// d X = 2 M X (Z^T M Z), d Z = 2 M Z (X^T M X), `scale` times.
template <typename T>
FERKIT_INLINE void pair_pull(
    const Pair<T>& p, int64_t begin, int64_t end, double scale, const double* xx, const double* zz, double* x,
    double* z, double* dx, double* dz, const Pull& to) {
  int64_t rows[kChunk];
  const int64_t wide = p.wide;
  for (int64_t n = begin; n < end;) {
    const int64_t used = pick(n, end, p.weight, rows);
    read_pair<T>(p, rows, used, x, z);
    multiply<double>(round_up(used, 8), 2 * wide, x, zz, dx);
    multiply<double>(round_up(used, 8), 2 * wide, z, xx, dz);
    for (int64_t r = 0; r < used; ++r) {
      const int64_t m = rows[r];
      const double root = std::sqrt(p.weight[m]), pull = 2 * scale * root;
      const double it = p.inv_target[m], ib = p.inv_branch[m] / p.ratio, straight = pull * p.ratio;
      const double *dxr = dx + r * 2 * wide, *dzr = dz + r * 2 * wide, *zr = z + r * 2 * wide;
      double *dt = to.direct_target + m * wide, *db = to.direct_branch + m * wide;
      Vec<double> at = {}, ab = {};
      for (int64_t d = 0; d < wide; d += L) {
        Vec<double> x0, x1, z0, z1, t, q, target, branch;
        load<double>(x0, dxr + d), load<double>(x1, dxr + wide + d);
        load<double>(z0, dzr + d), load<double>(z1, dzr + wide + d);
        load<double>(t, zr + d), load<double>(q, zr + wide + d);
        load<double>(target, dt + d);
        const Vec<double> du = x0 * pull, dv = (x1 - x0) * pull;
        at += du * t, ab += dv * (t - q);
        store<double>(dt + d, target + (z0 + z1) * pull + du * it);
        branch = dv * ib - z1 * straight;
        store<double>(db + d, branch);
      }
      to.along_target[m] += sum_lanes<double>(at) / root;
      to.along_branch[m] = sum_lanes<double>(ab) / (root * p.ratio * p.ratio);
    }
  }
}

// block (W, W) += F^T diag(q) F, q = -along / (2 r^3): the gradient of F^T V F
template <typename T>
FERKIT_INLINE void norm_block(
    int64_t begin, int64_t end, int64_t width, int64_t wide, const T* f, const double* inverse, const double* along,
    double* left, double* right, double* block) {
  for (int64_t n = begin; n < end;) {
    int64_t used = 0;
    for (; n < end && used < kChunk; ++n) {
      const double q = -0.5 * inverse[n] * inverse[n] * inverse[n] * along[n];
      if (q == 0) continue;
      double *l = left + used * wide, *r = right + used * wide;
      read_row<T>(f + n * width, width, wide, r);
      for (int64_t d = 0; d < wide; ++d) l[d] = q * r[d];
      ++used;
    }
    add_upper<double>(used, wide, left, right, block);
  }
}

// d f_n = direct_n + 2 q_n (F^T V F) f_n + 2 v_n (d block) f_n
template <typename T>
FERKIT_INLINE void finish(
    int64_t begin, int64_t end, int64_t width, int64_t wide, const T* f, const double* inner, const double* inverse,
    const double* along, const double* block, const double* d_block, const double* direct, double* chunk,
    double* through, double* around, double* sum, T* result) {
  int64_t rows[kChunk];
  for (int64_t n = begin; n < end;) {
    const int64_t used = pick(n, end, inner, rows);
    for (int64_t r = 0; r < used; ++r) read_row<T>(f + rows[r] * width, width, wide, chunk + r * wide);
    clear_tail(used, wide, chunk);
    multiply<double>(round_up(used, 8), wide, chunk, block, through);
    multiply<double>(round_up(used, 8), wide, chunk, d_block, around);
    for (int64_t r = 0; r < used; ++r) {
      const int64_t m = rows[r];
      const double q = -inverse[m] * inverse[m] * inverse[m] * along[m], v = inner == nullptr ? 2 : 2 * inner[m];
      for (int64_t d = 0; d < width; ++d) {
        const double value = direct[m * wide + d] + q * through[r * wide + d] + v * around[r * wide + d];
        if (sum != nullptr)
          sum[m * wide + d] += value;  // the target under "subset": one normalisation per branch
        else
          result[m * width + d] = static_cast<T>(value);
      }
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                        \
  void own_block_##S(                                                                                \
      int64_t b, int64_t e, int64_t w, int64_t wide, const T* f, const double* v, double* chunk, double* block) {  \
    own_block<T>(b, e, w, wide, f, v, chunk, block);                                                               \
  }                                                                                                                \
  void own_norms_##S(                                                                                \
      int64_t b, int64_t e, int64_t w, int64_t wide, const T* f, const double* v, const double* block,             \
      double* chunk, double* product, double* inverse) {                                                           \
    own_norms<T>(b, e, w, wide, f, v, block, chunk, product, inverse);                                             \
  }                                                                                                                \
  void pair_blocks_##S(                                                                              \
      const Pair<T>& p, int64_t b, int64_t e, double* x, double* z, double* xx, double* zz) {                      \
    pair_blocks<T>(p, b, e, x, z, xx, zz);                                                                         \
  }                                                                                                                \
  void pair_pull_##S(                                                                                \
      const Pair<T>& p, int64_t b, int64_t e, double scale, const double* xx, const double* zz, double* x,         \
      double* z, double* dx, double* dz, const Pull& to) {                                                         \
    pair_pull<T>(p, b, e, scale, xx, zz, x, z, dx, dz, to);                                                        \
  }                                                                                                                \
  void norm_block_##S(                                                                               \
      int64_t b, int64_t e, int64_t w, int64_t wide, const T* f, const double* inverse, const double* along,       \
      double* left, double* right, double* block) {                                                                \
    norm_block<T>(b, e, w, wide, f, inverse, along, left, right, block);                                           \
  }                                                                                                                \
  void finish_##S(                                                                                   \
      int64_t b, int64_t e, int64_t w, int64_t wide, const T* f, const double* v, const double* inverse,           \
      const double* along, const double* block, const double* d_block, const double* direct, double* chunk,        \
      double* through, double* around, double* sum, T* result) {                                                   \
    finish<T>(b, e, w, wide, f, v, inverse, along, block, d_block, direct, chunk, through, around, sum, result);   \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
