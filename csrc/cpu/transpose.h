// Rows of a few numbers to one lane per row, and back.
#pragma once

#include "simd.h"

namespace ferkit {

// Rows of `classes` numbers to one vector per class and back, eight classes at a time: with L lanes, vector k holds row
// k (and, in float, row k + 8 in its other half) before, and class k of every row after.
template <typename T>
FERKIT_INLINE void transpose(Vec<T>* v) {
  constexpr int L = Simd<T>::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
#pragma GCC unroll 3
  for (int step = 1; step < 8; step *= 2) {
    Indices low = {}, high = {};
    for (int i = 0; i < L; ++i) {
      low[i] = i & step ? L + i - step : i;
      high[i] = i & step ? L + i : i + step;
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      if (k & step) continue;
      const Vec<T> a = v[k], b = v[k + step];
      v[k] = __builtin_shuffle(a, b, low), v[k + step] = __builtin_shuffle(a, b, high);
    }
  }
#else
  Vec<T> copy[8];
  for (int k = 0; k < 8; ++k) copy[k] = v[k];
  for (int k = 0; k < 8; ++k)
    for (int i = 0; i < L; ++i) v[k][i] = copy[i % 8][i / 8 * 8 + k];
#endif
}

// The halves of sixteen floats at `low` and `high` that are rows of eight; of eight doubles there is one row only.
template <typename T>
FERKIT_INLINE void load_rows(Vec<T>& to, const T* low, const T* high) {
  load<T>(to, low);
#if defined(__GNUC__) && !defined(__clang__)
  if constexpr (Simd<T>::lanes == 16) {
    typedef int32_t Indices __attribute__((vector_size(kVectorBytes)));
    Vec<T> other;
    load<T>(other, high);
    to = __builtin_shuffle(to, other, Indices{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23});
  }
#else
  if constexpr (Simd<T>::lanes == 16) std::memcpy(reinterpret_cast<T*>(&to) + 8, high, 8 * sizeof(T));
#endif
}

// Copies rows [n, n + used) of `logits` into `block` (classes rounded up to 8, lanes), transposed; `total` rows in all.
template <typename T>
FERKIT_INLINE void gather(const T* logits, int64_t n, int used, int64_t total, int64_t classes, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t c = 0; c < classes; c += 8) {
    // Eight numbers are read even of a shorter row, unless that would leave the tensor.
    const bool inside = (n + used - 1) * classes + c + 8 <= total * classes;
    const int64_t count = inside || classes - c >= 8 ? 8 : classes - c;
    Vec<T> v[8];
    if ((n + L - 1) * classes + c + L <= total * classes && used == L) {
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        const T* from = logits + (n + k) * classes + c;
        load_rows<T>(v[k], from, from + 8 * classes);
      }
      transpose<T>(v);
      for (int k = 0; k < 8; ++k) store<T>(block + (c + k) * L, v[k]);
      continue;
    }
    T part[8][L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      const T* from = logits + (n + (i < used ? i : 0)) * classes + c;
      if (count == 8)
        std::memcpy(&part[i % 8][i / 8 * 8], from, 8 * sizeof(T));
      else
        for (int64_t d = 0; d < 8; ++d) part[i % 8][i / 8 * 8 + d] = d < count ? from[d] : T(0);
    }
    for (int k = 0; k < 8; ++k) load<T>(v[k], part[k]);
    transpose<T>(v);
    for (int k = 0; k < 8; ++k) store<T>(block + (c + k) * L, v[k]);
  }
}

// The way back, for rows [n, n + used).
template <typename T>
FERKIT_INLINE void scatter(const T* block, int64_t n, int used, int64_t classes, T* logits) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t c = 0; c < classes; c += 8) {
    Vec<T> v[8];
    for (int k = 0; k < 8; ++k) load<T>(v[k], block + (c + k) * L);
    transpose<T>(v);
    const int64_t count = classes - c < 8 ? classes - c : 8;
    for (int i = 0; i < used; ++i) {
      const T* from = reinterpret_cast<const T*>(&v[i % 8]) + i / 8 * 8;
      T* to = logits + (n + i) * classes + c;
      if (count == 8)
        std::memcpy(to, from, 8 * sizeof(T));
      else
        for (int64_t d = 0; d < count; ++d) to[d] = from[d];
    }
  }
}

}  // namespace ferkit
