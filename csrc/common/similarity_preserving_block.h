// The small-batch kernels of similarity_preserving, one function a block. The matrix products are a library's: these
// start from G = F F^T and end at H, dF = H F, all in double. Formulas: docs/math/similarity_preserving.md.
#pragma once

#include "team.h"

#include <cmath>

namespace ferkit::sp_small {

constexpr int64_t kMaxRows = 512;          // what the shared memory is sized for
constexpr int64_t kMaxBranches = 1 << 20;  // (M + 2) N blocks must fit a grid
constexpr int64_t kRowsOneBlock = 128;     // up to here one block does a whole branch, and the forward is one launch
constexpr int64_t kRowsPerBlock = 32;      // beyond, each warp of a block takes one row
constexpr int kForwardThreads = 1024;
constexpr int kBackwardThreads = 256;
constexpr int kFinishThreads = 128;
constexpr int64_t kSlices = kBackwardThreads / kWarp;

enum Kind : int { kBool, kFloat, kDouble };

FERKIT_HD double read_number(const void* from, int kind, int64_t i) {
  if (kind == kBool) return static_cast<const uint8_t*>(from)[i] != 0 ? 1.0 : 0.0;
  if (kind == kFloat) return static_cast<double>(static_cast<const float*>(from)[i]);
  return static_cast<const double*>(from)[i];
}

FERKIT_HD void write_number(void* to, int kind, int64_t i, double value) {
  if (kind == kFloat) {
    static_cast<float*>(to)[i] = static_cast<float>(value);
  } else {
    static_cast<double*>(to)[i] = value;
  }
}

// Everything a launch needs, by value. T is the type of G, H and the features.
template <typename T>
struct Job {
  int64_t branches, size, wide;  // M, N, and N rounded up to 4: the length of a vector
  int64_t groups, rows;          // blocks a branch in the forward, and rows each
  bool subset;                   // mask before the norms are taken
  int mask_kind, loss_kind, grad_kind;
  const void* mask;              // (M, N)
  const void* grad;              // (M,)
  void* loss;                    // (M,)
  T* grams;                      // (M + 1, N, N), the target's first; then zeros up to 16 bytes
  double* vectors;               // weight, 1/r of the target, of the branch, along the target, along the branch: each
                                 // (M, wide) with zeros as padding; then 1 / N_i^2 (M,) and partial sums (M, groups)
  T* h;                          // (M + 1, N, N), the target's first
  const T *target, *auxiliary;   // (N, Dt), (M, N, Da), for `subset`: copied with zeros in the rows nobody uses
  T *clean_target, *clean_auxiliary;
  int64_t target_width, auxiliary_width;

  FERKIT_HD const T* gram(int64_t matrix, int64_t row) const { return grams + (matrix * size + row) * size; }
  FERKIT_HD T* pull(int64_t matrix, int64_t row) const { return h + (matrix * size + row) * size; }
  FERKIT_HD double* weight(int64_t i) const { return vectors + i * wide; }
  FERKIT_HD double* inverse_target(int64_t i) const { return vectors + (branches + i) * wide; }
  FERKIT_HD double* inverse_branch(int64_t i) const { return vectors + (2 * branches + i) * wide; }
  FERKIT_HD double* along_target(int64_t i) const { return vectors + (3 * branches + i) * wide; }
  FERKIT_HD double* along_branch(int64_t i) const { return vectors + (4 * branches + i) * wide; }
  FERKIT_HD double* divisor() const { return vectors + 5 * branches * wide; }
  FERKIT_HD double* parts(int64_t i) const { return divisor() + branches + i * groups; }
};

FERKIT_HD int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }
FERKIT_HD int64_t groups_of(int64_t size) {
  return size <= kRowsOneBlock ? 1 : (size + kRowsPerBlock - 1) / kRowsPerBlock;
}
// Entries of G, up to a whole number of vectors; `item`: bytes each.
FERKIT_HD int64_t gram_entries(int64_t branches, int64_t size, int64_t item) {
  return round_up((branches + 1) * size * size, 16 / item);
}
// float64 numbers kept for the backward; ferkit/ops/_native.py counts the same.
FERKIT_HD int64_t state_size(int64_t branches, int64_t size, int64_t item) {
  return gram_entries(branches, size, item) * item / 8 + branches * (5 * round_up(size, 4) + 1 + groups_of(size));
}
FERKIT_HD int64_t forward_shared(int64_t wide) { return wide + kForwardThreads / kWarp; }
FERKIT_HD int64_t backward_shared(int64_t wide) { return kSlices * wide; }

// A product that is replaced, not multiplied by zero, where the weight is zero: it may be NaN.
FERKIT_HD double kept(double weight, double value) { return weight == 0 ? 0 : weight * value; }
FERKIT_HD double inverse_root(double square) { return square == 0 ? 0 : 1 / sqrt(square); }

// Block `group` of branch `i`: row norms, the masked squared difference, and what the backward wants of each row. A
// warp takes a row; lanes take quads. Needs kForwardThreads threads and forward_shared doubles.
template <typename T, typename Team>
FERKIT_HD void forward_block(Team& team, const Job<T>& job, int64_t i, int64_t group) {
  const int threads = team.threads(), warps = threads / kWarp;
  const int64_t quads = job.wide / 4, first = group * job.rows;
  const int64_t last = first + job.rows < job.size ? first + job.rows : job.size;
  typename Team::Local total, square_t, square_i, distance, along_t, along_i, sum;

  team.each([&](int t) {
    sum[t] = 0;
    if (i == 0 && group == 0) {
      const int64_t used = (job.branches + 1) * job.size * job.size;
      for (int64_t e = used + t; e < gram_entries(job.branches, job.size, sizeof(T)); e += threads) job.grams[e] = 0;
    }
    for (int64_t p = t; p < job.wide; p += threads) {
      const double w = p < job.size ? read_number(job.mask, job.mask_kind, i * job.size + p) : 0.0;
      team.set(t, p, w);
      if (group == 0) job.weight(i)[p] = w;
      if (group == 0 && p >= job.size)
        job.inverse_target(i)[p] = job.inverse_branch(i)[p] = job.along_target(i)[p] = job.along_branch(i)[p] = 0;
    }
  });
  team.barrier();
  team.each([&](int t) {
    total[t] = 0;
    for (int64_t p = t % kWarp; p < job.wide; p += kWarp) total[t] += team.get(t, p);
  });
  team.sum_lanes(total);

  for (int64_t step = 0; step < job.rows; step += warps) {
    team.each([&](int t) {
      const int64_t n = first + step + t / kWarp;
      square_t[t] = square_i[t] = 0;
      if (n >= last || (job.subset && team.get(t, n) == 0)) return;
      for (int64_t q = t % kWarp; q < quads; q += kWarp) {
        const Quad a = load_quad(job.gram(0, n), 4 * q, job.size), b = load_quad(job.gram(i + 1, n), 4 * q, job.size);
        FERKIT_UNROLL
        for (int k = 0; k < 4; ++k) {
          const double inner = job.subset ? team.get(t, 4 * q + k) : 1;
          square_t[t] += kept(inner, a.at[k] * a.at[k]);
          square_i[t] += kept(inner, b.at[k] * b.at[k]);
        }
      }
    });
    team.sum_lanes(square_t);
    team.sum_lanes(square_i);
    team.each([&](int t) {
      const int64_t n = first + step + t / kWarp;
      distance[t] = along_t[t] = along_i[t] = 0;
      if (n >= last || team.get(t, n) == 0) return;
      const double inverse_t = inverse_root(square_t[t]), inverse_i = inverse_root(square_i[t]);
      for (int64_t q = t % kWarp; q < quads; q += kWarp) {
        const Quad a = load_quad(job.gram(0, n), 4 * q, job.size), b = load_quad(job.gram(i + 1, n), 4 * q, job.size);
        FERKIT_UNROLL
        for (int k = 0; k < 4; ++k) {
          const double w = team.get(t, 4 * q + k);
          const double unit_t = a.at[k] * inverse_t, unit_i = b.at[k] * inverse_i, d = unit_t - unit_i;
          distance[t] += kept(w, d * d);
          along_t[t] += kept(w, d * unit_t);
          along_i[t] += kept(w, d * unit_i);
        }
      }
    });
    team.sum_lanes(distance);
    team.sum_lanes(along_t);
    team.sum_lanes(along_i);
    team.each([&](int t) {
      const int64_t n = first + step + t / kWarp;
      if (n >= last || t % kWarp != 0) return;
      const double w = team.get(t, n), inverse_t = inverse_root(square_t[t]), inverse_i = inverse_root(square_i[t]);
      job.inverse_target(i)[n] = inverse_t;
      job.inverse_branch(i)[n] = inverse_i;
      job.along_target(i)[n] = kept(w, along_t[t] * inverse_t * inverse_t);
      job.along_branch(i)[n] = kept(w, -along_i[t] * inverse_i * inverse_i);
      sum[t] += kept(w, distance[t]);
    });
  }

  team.each([&](int t) {
    if (t % kWarp == 0) team.set(t, job.wide + t / kWarp, sum[t]);
  });
  team.barrier();
  team.each([&](int t) { sum[t] = t % kWarp < warps ? team.get(t, job.wide + t % kWarp) : 0; });
  team.sum_lanes(sum);
  team.each([&](int t) {
    if (t != 0) return;
    const double divisor = total[t] > 0 ? 1 / (total[t] * total[t]) : 0;
    if (group == 0) job.divisor()[i] = divisor;
    job.parts(i)[group] = sum[t];
    if (job.groups == 1) write_number(job.loss, job.loss_kind, i, sum[t] * divisor);
  });
}

// Where a branch has several blocks: their sums, in order. One block of any size.
template <typename T, typename Team>
FERKIT_HD void finish_block(Team& team, const Job<T>& job) {
  team.each([&](int t) {
    for (int64_t i = t; i < job.branches; i += team.threads()) {
      double sum = 0;
      for (int64_t group = 0; group < job.groups; ++group) sum += job.parts(i)[group];
      write_number(job.loss, job.loss_kind, i, sum * job.divisor()[i]);
    }
  });
}

// Row n of every H. Warps share the branches out and sum their parts of the target's row in shared memory, where each
// lane owns its columns. Needs kBackwardThreads threads and backward_shared doubles.
template <typename T, typename Team>
FERKIT_HD void pull_block(Team& team, const Job<T>& job, int64_t n) {
  const int threads = team.threads();
  const int64_t quads = job.wide / 4;

  team.each([&](int t) {
    const int64_t warp = t / kWarp, own = warp * job.wide;
    for (int64_t q = t % kWarp; q < quads; q += kWarp)
      for (int k = 0; k < 4; ++k) team.set(t, own + 4 * q + k, 0);
    for (int64_t i = warp; i < job.branches; i += kSlices) {
      const double wn = job.weight(i)[n], vn = job.subset ? wn : 1;
      const double twice = 2 * read_number(job.grad, job.grad_kind, i) * job.divisor()[i], both = twice * wn;
      const double tn = job.inverse_target(i)[n], bn = job.inverse_branch(i)[n];
      const double ctn = twice * job.along_target(i)[n], cbn = twice * job.along_branch(i)[n];
      for (int64_t q = t % kWarp; q < quads; q += kWarp) {
        const Quad a = load_quad(job.gram(0, n), 4 * q, job.size), b = load_quad(job.gram(i + 1, n), 4 * q, job.size);
        const Quad w = load_vector(job.weight(i) + 4 * q);
        const Quad tp = load_vector(job.inverse_target(i) + 4 * q), bp = load_vector(job.inverse_branch(i) + 4 * q);
        const Quad ct = load_vector(job.along_target(i) + 4 * q), cb = load_vector(job.along_branch(i) + 4 * q);
        Quad to;
        FERKIT_UNROLL
        for (int k = 0; k < 4; ++k) {
          const double wp = w.at[k], vp = job.subset ? wp : 1;
          const double here = a.at[k] * tn - b.at[k] * bn, there = a.at[k] * tp.at[k] - b.at[k] * bp.at[k];
          const double pull_t = tn * here + tp.at[k] * there, pull_b = bn * here + bp.at[k] * there;
          const double add_t = both * wp * pull_t - a.at[k] * (vp * ctn + vn * twice * ct.at[k]);
          const double add_b = -both * wp * pull_b - b.at[k] * (vp * cbn + vn * twice * cb.at[k]);
          const bool used = !(job.subset && (wn == 0 || wp == 0));
          to.at[k] = used ? add_b : 0;
          if (used) team.set(t, own + 4 * q + k, team.get(t, own + 4 * q + k) + add_t);
        }
        store_quad(job.pull(i + 1, n), 4 * q, job.size, to);
      }
    }
  });
  team.barrier();
  team.each([&](int t) {
    for (int64_t p = t; p < job.size; p += threads) {
      double sum = 0;
      FERKIT_UNROLL
      for (int64_t slice = 0; slice < kSlices; ++slice) sum += team.get(t, slice * job.wide + p);
      job.pull(0, n)[p] = static_cast<T>(sum);
    }
  });
}

// `subset`: row n of matrix m of the features, or zeros where no branch uses it: 0 * NaN must not reach the product.
template <typename T, typename Team>
FERKIT_HD void clean_block(Team& team, const Job<T>& job, int64_t m, int64_t n) {
  bool used = false;
  for (int64_t i = m == 0 ? 0 : m - 1; i < (m == 0 ? job.branches : m); ++i) used = used || job.weight(i)[n] != 0;
  const int64_t width = m == 0 ? job.target_width : job.auxiliary_width;
  const T* from = m == 0 ? job.target + n * width : job.auxiliary + ((m - 1) * job.size + n) * width;
  T* to = m == 0 ? job.clean_target + n * width : job.clean_auxiliary + ((m - 1) * job.size + n) * width;
  team.each([&](int t) {
    for (int64_t d = t; d < width; d += team.threads()) to[d] = used ? from[d] : T(0);
  });
}

FERKIT_HD int64_t backward_blocks(int64_t branches, int64_t size, bool subset) {
  return size + (subset ? (branches + 1) * size : 0);
}

// Block `block` of the backward: a row of the H's, then (`subset`) the rows of the features.
template <typename T, typename Team>
FERKIT_HD void backward_block(Team& team, const Job<T>& job, int64_t block) {
  if (block < job.size) {
    pull_block(team, job, block);
  } else {
    clean_block(team, job, (block - job.size) / job.size, (block - job.size) % job.size);
  }
}

}  // namespace ferkit::sp_small
