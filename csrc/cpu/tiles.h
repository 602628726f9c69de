// Register tiles of small matrix products. All sizes that a tile steps through are multiples of its own. Included by
// kernels.h, inside the instruction set's namespace.

// A register or more of each of V vectors: what a tile's accumulators are made of.
template <typename T, int Parts>
struct Strip {
  typename Vec<T>::Part at[Parts];
};
template <typename T, int Parts>
FERKIT_INLINE void load(Strip<T, Parts>& to, const T* from) {
  for (int p = 0; p < Parts; ++p) std::memcpy(&to.at[p], from + p * Vec<T>::width, FERKIT_REGISTER);
}

// c (R x P registers) = a b, or += a b; see tile().
template <typename T, int R, int P>
FERKIT_INLINE void register_tile(
    int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t b_depth, T* c, int64_t c_row,
    bool add) {
  constexpr int W = Vec<T>::width;
  Strip<T, P> acc[R] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Strip<T, P> right;
    load<T, P>(right, b + k * b_depth);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const T left = a[i * a_row + k * a_depth];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[i].at[p] += right.at[p] * left;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    if (add) {
      Strip<T, P> before;
      load<T, P>(before, c + i * c_row);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[i].at[p] += before.at[p];
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(c + i * c_row + p * W, &acc[i].at[p], FERKIT_REGISTER);
  }
}

// c (R x 64 V bytes) = a b, or += a b, with a(i, k) = a[i * a_row + k * a_depth] and b(k, :) = b[k * b_depth ...]. The
// product is summed by itself before it is added: short chains round less. With 32 registers all of c is summed at once,
// with 16 a part of it that they hold; every number of c is the same sum either way.
template <typename T, int R, int V>
FERKIT_INLINE void tile(
    int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t b_depth, T* c, int64_t c_row,
    bool add) {
  constexpr int all = V * Vec<T>::parts, rows = FERKIT_REGISTER == 64 ? R : 4, parts = all < 2 ? all : 2;
  static_assert(R % rows == 0 && all % parts == 0, "tiles that registers hold");
  for (int p = 0; p < all; p += parts)
    for (int i = 0; i < R; i += rows)
      register_tile<T, rows, parts>(
          depth, a + i * a_row, a_row, a_depth, b + p * Vec<T>::width, b_depth, c + i * c_row + p * Vec<T>::width,
          c_row, add);
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

// Folds a and b, of segments of `Segment` lanes, into one vector of segments half as long: sums of their halves.
template <typename T, int Segment>
FERKIT_INLINE Vec<T> fold(const Vec<T>& a, const Vec<T>& b) {
  constexpr int W = Vec<T>::width, parts = Vec<T>::parts, half = Segment / 2;
  typename Vec<T>::Part from[2 * parts];
  for (int p = 0; p < parts; ++p) from[p] = a.at[p], from[parts + p] = b.at[p];
  Vec<T> sum;
  if constexpr (Segment <= W) {
    Places<T> low = {}, high = {};
    for (int i = 0; i < W; ++i) {
      const int segment = i / half, lane = segment * Segment + i % half;
      low[i] = lane, high[i] = lane + half;
    }
    for (int p = 0; p < parts; ++p)
      sum.at[p] = shuffle<T>(from[2 * p], from[2 * p + 1], low) + shuffle<T>(from[2 * p], from[2 * p + 1], high);
  } else {
    constexpr int step = half / W;
    for (int p = 0; p < parts; ++p) {
      const int first = p / step * 2 * step + p % step;
      sum.at[p] = from[first] + from[first + step];
    }
  }
  return sum;
}
// Folds as many vectors as there are lanes into v[0], whose lane i is the sum of vector i's lanes.
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

// acc[Y i + j] = x_i * y_j summed over whole vectors of `width` numbers, lane by lane; with 16 registers a part of each
// vector and a few of the pairs at a time.
template <typename T, int X, int Y>
FERKIT_INLINE void products(const T* const* x, const T* const* y, int64_t width, Vec<T>* acc) {
  constexpr int L = Simd<T>::lanes, W = Vec<T>::width;
  constexpr int xs = FERKIT_REGISTER == 64 || X < 2 ? X : 2, ys = FERKIT_REGISTER == 64 || Y < 4 ? Y : 4;
  static_assert(X % xs == 0 && Y % ys == 0, "blocks that registers hold");
  for (int p = 0; p < Vec<T>::parts; ++p)
    for (int i = 0; i < X; i += xs)
      for (int j = 0; j < Y; j += ys) {
        typename Vec<T>::Part sum[xs][ys] = {};
        for (int64_t d = p * W; d + L - p * W <= width; d += L) {
          typename Vec<T>::Part left[xs];
#pragma GCC unroll 4
          for (int u = 0; u < xs; ++u) std::memcpy(&left[u], x[i + u] + d, FERKIT_REGISTER);
#pragma GCC unroll 8
          for (int v = 0; v < ys; ++v) {
            typename Vec<T>::Part right;
            std::memcpy(&right, y[j + v] + d, FERKIT_REGISTER);
#pragma GCC unroll 4
            for (int u = 0; u < xs; ++u) sum[u][v] += left[u] * right;
          }
        }
#pragma GCC unroll 4
        for (int u = 0; u < xs; ++u)
#pragma GCC unroll 8
          for (int v = 0; v < ys; ++v) acc[Y * (i + u) + j + v].at[p] = sum[u][v];
      }
}

// result[4 i + j] = x_i . y_j for four rows x and four rows y.
template <typename T>
FERKIT_INLINE void dots4x4(const T* const x[4], const T* const y[4], int64_t width, T* result) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> acc[16];
  products<T, 4, 4>(x, y, width, acc);
  const int64_t d = width / L * L;
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
