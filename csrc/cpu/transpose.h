// Rows of a few numbers to one lane per row, and back. Included by kernels.h, inside the instruction set's namespace.

// Lane i of the result is number index[i] of a, then b: `I` are known when it is compiled.
#if defined(__GNUC__) && !defined(__clang__)
template <typename T>
using Places = typename Register<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>::type;
template <typename T>
FERKIT_INLINE auto shuffle(const typename Vec<T>::Part& a, const typename Vec<T>::Part& b, const Places<T>& index) {
  return __builtin_shuffle(a, b, index);
}
#else
template <typename T>
struct Places {
  int at[Vec<T>::width];
  int& operator[](int i) { return at[i]; }
};
template <typename T>
FERKIT_INLINE auto shuffle(const typename Vec<T>::Part& a, const typename Vec<T>::Part& b, const Places<T>& index) {
  constexpr int W = Vec<T>::width;
  typename Vec<T>::Part v;
  for (int i = 0; i < W; ++i) v[i] = index.at[i] < W ? a[index.at[i]] : b[index.at[i] - W];
  return v;
}
#endif

// Rows of `classes` numbers to one vector per class and back, eight classes at a time: with L lanes, vector k holds row
// k (and, in float, row k + 8 in its other half) before, and class k of every row after.
template <typename T>
FERKIT_INLINE void transpose(Vec<T>* v) {
  constexpr int W = Vec<T>::width, parts = Vec<T>::parts;
#pragma GCC unroll 3
  for (int step = 1; step < 8; step *= 2) {
    Places<T> low = {}, high = {};
    for (int i = 0; i < W; ++i) {
      low[i] = i & step ? W + i - step : i;
      high[i] = i & step ? W + i : i + step;
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      if (k & step) continue;
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) {
        auto &a = v[k].at[p], &b = v[k + step].at[p];
        if (step < W) {
          const auto upper = shuffle<T>(a, b, high);
          a = shuffle<T>(a, b, low), b = upper;
        } else if ((p & (step / W)) == 0) {  // whole registers change places
          auto& other = v[k].at[p + (step < W ? 0 : step / W)];
          const auto moved = other;
          other = b, b = moved;
        }
      }
    }
  }
}

// Eight numbers at `low` and, of sixteen floats, eight at `high`.
template <typename T>
FERKIT_INLINE void load_rows(Vec<T>& to, const T* low, const T* high) {
  constexpr int W = Vec<T>::width;
  if constexpr (W > 8) {
    typedef T Half __attribute__((vector_size(8 * sizeof(T))));
    Half a, b;
    std::memcpy(&a, low, sizeof(a)), std::memcpy(&b, high, sizeof(b));
    to.at[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  } else {
    for (int p = 0; p < Vec<T>::parts; ++p)
      std::memcpy(&to.at[p], p * W < 8 ? low + p * W : high + (p * W - 8), FERKIT_REGISTER);
  }
}

// Copies eight numbers of each of L rows from `first + i * pitch`, rows beyond `used` repeating the first, to one vector
// a number; `count` of them are read, the rest are 0.
template <typename T>
FERKIT_INLINE void gather_eight(const T* first, int64_t pitch, int used, int64_t count, T* block) {
  constexpr int L = Simd<T>::lanes;
  T copy[8 * L];
  if (used != L || count != 8) {
    for (int i = 0; i < L; ++i)
      for (int64_t d = 0; d < 8; ++d) copy[8 * i + d] = d < count ? first[(i < used ? i : 0) * pitch + d] : T(0);
    first = copy, pitch = 8;
  }
  Vec<T> v[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) load_rows<T>(v[k], first + k * pitch, first + (L == 16 ? k + 8 : k) * pitch);
  transpose<T>(v);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) store<T>(block + k * L, v[k]);
}

// Copies L rows of `classes` numbers from `first + i * pitch` into `block` (classes rounded up to 8, lanes), transposed.
// `room`: how many numbers may be read from `first` on; rows beyond `used` repeat the first.
template <typename T>
FERKIT_INLINE void gather(const T* first, int64_t pitch, int used, int64_t room, int64_t classes, T* block) {
  for (int64_t c = 0; c < classes; c += 8) {
    // Eight numbers are read even of a shorter row, unless that would leave the tensor.
    const bool inside = (used - 1) * pitch + c + 8 <= room;
    const int64_t count = inside || classes - c >= 8 ? 8 : classes - c;
    gather_eight<T>(first + c, pitch, used, count, block + c * Simd<T>::lanes);
  }
}

// The way back, to rows at `first + i * pitch`.
template <typename T>
FERKIT_INLINE void scatter(const T* block, int64_t pitch, int used, int64_t classes, T* first) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t c = 0; c < classes; c += 8) {
    Vec<T> v[8];
    T part[8][L];
    for (int k = 0; k < 8; ++k) load<T>(v[k], block + (c + k) * L);
    transpose<T>(v);
    for (int k = 0; k < 8; ++k) store<T>(part[k], v[k]);
    const int64_t count = classes - c < 8 ? classes - c : 8;
    for (int i = 0; i < used; ++i) {
      const T* from = &part[i % 8][i / 8 * 8];
      T* to = first + i * pitch + c;
      if (count == 8)
        std::memcpy(to, from, 8 * sizeof(T));
      else
        for (int64_t d = 0; d < count; ++d) to[d] = from[d];
    }
  }
}
