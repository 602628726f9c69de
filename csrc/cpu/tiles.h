// Register tiles of small matrix products. All sizes that a tile steps through are multiples of its own.
#pragma once

#include "simd.h"

namespace ferkit {

// c (R x 64 V bytes) = a b, or += a b, with a(i, k) = a[i * a_row + k * a_depth] and b(k, :) = b[k * b_depth ...]. The
// product is summed by itself before it is added: short chains round less.
template <typename T, int R, int V>
FERKIT_INLINE void tile(
    int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t b_depth, T* c, int64_t c_row,
    bool add) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> acc[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) load<T>(right[v], b + k * b_depth + v * L);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const T left = a[i * a_row + k * a_depth];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] += right[v] * left;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (add) {
        Vec<T> before;
        load<T>(before, c + i * c_row + v * L);
        acc[i][v] += before;
      }
      store<T>(c + i * c_row + v * L, acc[i][v]);
    }
}

// The upper triangle of c (width x width) += a^T b over `depth` rows; width is a multiple of 8 and of the lanes.
// What it writes below the diagonal, inside a tile, is meaningless: mirror() overwrites it.
template <typename T>
FERKIT_INLINE void add_upper(int64_t depth, int64_t width, const T* a, const T* b, T* c) {
  constexpr int L = Simd<T>::lanes, R = 8;
  int64_t j = 0;
  for (; j + 2 * L <= width; j += 2 * L)
    for (int64_t i = 0; i < j + 2 * L; i += R)
      tile<T, R, 2>(depth, a + i, 1, width, b + j, width, c + i * width + j, width, true);
  for (; j < width; j += L)
    for (int64_t i = 0; i < j + L; i += R)
      tile<T, R, 1>(depth, a + i, 1, width, b + j, width, c + i * width + j, width, true);
}

// c (rows x width) = a b for a square b; rows is a multiple of 8, width of 8 and of the lanes.
template <typename T>
FERKIT_INLINE void multiply(int64_t rows, int64_t width, const T* a, const T* b, T* c) {
  constexpr int L = Simd<T>::lanes, R = 8;
  int64_t j = 0;
  for (; j + 2 * L <= width; j += 2 * L)
    for (int64_t i = 0; i < rows; i += R)
      tile<T, R, 2>(width, a + i * width, width, 1, b + j, width, c + i * width + j, width, false);
  for (; j < width; j += L)
    for (int64_t i = 0; i < rows; i += R)
      tile<T, R, 1>(width, a + i * width, width, 1, b + j, width, c + i * width + j, width, false);
}

template <typename T>
inline void mirror(int64_t width, T* c) {
  for (int64_t i = 1; i < width; ++i)
    for (int64_t j = 0; j < i; ++j) c[i * width + j] = c[j * width + i];
}

// Folds `count` = lanes vectors into one whose lane i is the sum of vector i's lanes.
#if defined(__GNUC__) && !defined(__clang__)
template <typename T, int Segment>
FERKIT_INLINE Vec<T> fold(const Vec<T>& a, const Vec<T>& b) {
  constexpr int L = Simd<T>::lanes, half = Segment / 2;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  Indices low = {}, high = {};
  for (int i = 0; i < L; ++i) {
    const int segment = i / half, lane = segment * Segment + i % half;
    low[i] = lane, high[i] = lane + half;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
template <typename T, int Count>
FERKIT_INLINE void fold_all(Vec<T>* v) {
  if constexpr (Count > 1) {
#pragma GCC unroll 8
    for (int i = 0; i < Count / 2; ++i) v[i] = fold<T, Count>(v[2 * i], v[2 * i + 1]);
    fold_all<T, Count / 2>(v);
  }
}
template <typename T>
FERKIT_INLINE void lane_sums(Vec<T>* v) {
  fold_all<T, Simd<T>::lanes>(v);
}
#else
template <typename T>
FERKIT_INLINE void lane_sums(Vec<T>* v) {
  Vec<T> sums;
  for (int i = 0; i < Simd<T>::lanes; ++i) sums[i] = sum_lanes<T>(v[i]);
  v[0] = sums;
}
#endif

// result[4 i + j] = x_i . y_j for four rows x and four rows y.
template <typename T>
FERKIT_INLINE void dots4x4(const T* const x[4], const T* const y[4], int64_t width, T* result) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> acc[16] = {};
  int64_t d = 0;
  for (; d + L <= width; d += L) {
    Vec<T> right[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) load<T>(right[j], y[j] + d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      Vec<T> left;
      load<T>(left, x[i] + d);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[4 * i + j] += left * right[j];
    }
  }
  if (d < width) {
    Vec<T> left[4], right[4];
    for (int j = 0; j < 4; ++j) load_some<T>(left[j], x[j] + d, width - d), load_some<T>(right[j], y[j] + d, width - d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[4 * i + j] += left[i] * right[j];
  }
#pragma GCC unroll 2
  for (int block = 0; block < 16; block += L) {
    lane_sums<T>(acc + block);
    store<T>(result + block, acc[block]);
  }
}

}  // namespace ferkit
