// What every instruction set's kernels share, and the choice between them. The vectors themselves are in vectors.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

// Everything a kernel calls is FERKIT_INLINE: one function for each kernel and instruction set.
#define FERKIT_INLINE inline __attribute__((always_inline))

// Kernels are compiled three times where the compiler can; FERKIT_PICK(f) is the f of the best set that the CPU has.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FERKIT_SETS 3
#define FERKIT_PICK(f) ::ferkit::pick(&::ferkit::v4::f, &::ferkit::v3::f, &::ferkit::base::f)
#else
#define FERKIT_SETS 1
#define FERKIT_PICK(f) (&::ferkit::base::f)
#endif

namespace ferkit {

// The width of a vector in the arithmetic, whatever the registers' is: lanes are summed in the same order everywhere.
constexpr int kVectorBytes = 64;

template <typename T>
struct Simd {
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(T));
};

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// 4, 3 or 0: x86-64-v4 (AVX-512), x86-64-v3 (AVX2, FMA), or what every CPU has. FERKIT_CPU_LEVEL lowers it, for tests.
inline int cpu_level() {
  static const int level = [] {
    int found = 0;
#if FERKIT_SETS == 3
    __builtin_cpu_init();
    found = __builtin_cpu_supports("x86-64-v4") ? 4 : __builtin_cpu_supports("x86-64-v3") ? 3 : 0;
#endif
    const char* asked = std::getenv("FERKIT_CPU_LEVEL");
    const int most = asked != nullptr && *asked != 0 ? std::atoi(asked) : found;
    return most < found ? (most >= 3 ? 3 : 0) : found;
  }();
  return level;
}

template <typename F>
F pick(F v4, F v3, F base) {
  return cpu_level() == 4 ? v4 : cpu_level() == 3 ? v3 : base;
}

}  // namespace ferkit
