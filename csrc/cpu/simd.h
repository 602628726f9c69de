// Portable SIMD: 64-byte vectors that the compiler lowers to what each clone has, and the clones themselves.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// The hot loops sit inside functions marked FERKIT_CLONES; everything they call is FERKIT_INLINE, because a helper that
// is not inlined would be compiled for the baseline.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FERKIT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FERKIT_CLONES
#endif
#define FERKIT_INLINE inline __attribute__((always_inline))

namespace ferkit {

constexpr int kVectorBytes = 64;

template <typename T>
struct Simd {
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(T));
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vec = typename Simd<T>::type;

template <typename T>
FERKIT_INLINE void load(Vec<T>& to, const T* from) {
  std::memcpy(&to, from, sizeof(to));
}
template <typename T>
FERKIT_INLINE void store(T* to, const Vec<T>& from) {
  std::memcpy(to, &from, sizeof(from));
}
template <typename T>
FERKIT_INLINE void load_some(Vec<T>& to, const T* from, int64_t count) {
  to = Vec<T>{};
  std::memcpy(&to, from, sizeof(T) * count);
}

// Asks for vectors that will be read or written soon; the address need not be valid.
template <bool write, int count, typename T>
FERKIT_INLINE void fetch(const T* from) {
#if defined(__GNUC__)
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  for (int i = 0; i < count; ++i) __builtin_prefetch(reinterpret_cast<const char*>(address + kVectorBytes * i), write);
#endif
}

// The lanes are summed in a fixed tree, so that the result does not depend on the instruction set's width.
template <typename T>
FERKIT_INLINE T sum_lanes(const Vec<T>& v) {
  constexpr int n = Simd<T>::lanes;
  T part[n];
  std::memcpy(part, &v, sizeof(part));
  for (int width = n / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// exp for float lanes, 1 ulp or so; NaN stays NaN, below -87.3 the result is 0.
FERKIT_INLINE void exp_lanes(Vec<float>& x) {
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  const Ints tiny = x < -87.3f, huge = x > 88.7f;
  Vec<float> y = tiny ? Vec<float>{} - 87.3f : x;
  y = huge ? Vec<float>{} + 88.7f : y;
  const Vec<float> magic = Vec<float>{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = y * 1.44269504088896341f + magic;
  const Vec<float> n = shifted - magic;
  const Vec<float> r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec<float> p = Vec<float>{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const Ints scale_bits = (bits << 23) + (127 << 23);  // the low bits of `shifted` hold n
  Vec<float> scale;
  std::memcpy(&scale, &scale_bits, sizeof(scale));
  p = p * scale;
  p = huge ? Vec<float>{} + std::numeric_limits<float>::infinity() : p;
  x = tiny ? Vec<float>{} : p;
}
// log for float lanes of normal positive numbers, 1 ulp or so; NaN and infinity stay themselves.
FERKIT_INLINE void log_lanes(Vec<float>& x) {
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  Ints bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const Ints above = bits - 0x3f3504f3;  // sqrt(1/2): the mantissa m is taken from [sqrt(1/2), sqrt(2))
  const Vec<float> e = __builtin_convertvector(above >> 23, Vec<float>);
  const Ints mantissa = (above & 0x007fffff) + 0x3f3504f3;
  Vec<float> m;
  std::memcpy(&m, &mantissa, sizeof(m));
  const Vec<float> r = m - 1.0f;
  Vec<float> p = Vec<float>{} + 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const Vec<float> square = r * r;
  const Vec<float> tail = (p * r * square + e * -2.12194440e-4f) - square * 0.5f;
  const Vec<float> result = (r + tail) + e * 0.693359375f;
  x = x < std::numeric_limits<float>::infinity() ? result : x;
}
FERKIT_INLINE void log_lanes(Vec<double>& x) {
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = std::log(x[i]);
}
FERKIT_INLINE void exp_lanes(Vec<double>& x) {
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = std::exp(x[i]);
}

}  // namespace ferkit
