// The passes of concordance over rows.
// Included by kernels.h, inside the instruction set's namespace.

// As many numbers as a vector of doubles has lanes.
template <typename T>
FERKIT_INLINE void load_wide(Vec<double>& to, const T* from) {
  constexpr int W = Vec<double>::width;
  typedef T Narrow __attribute__((vector_size(W * sizeof(T))));
  for (int p = 0; p < Vec<double>::parts; ++p) {
    Narrow part;
    std::memcpy(&part, from + p * W, sizeof(part));
    to.at[p] = __builtin_convertvector(part, Vec<double>::Part);
  }
}

// The sums of one block of `rows` rows. x and y hold `padded` doubles of scratch, spread `padded` of weights;
// lanes 6 * period. `sums` is (kSums, width).
template <typename T, bool kWeighted>
FERKIT_INLINE void block_sums(
    int64_t rows, int64_t width, int64_t period, const T* from_x, const T* from_y, const T* weight, double* x,
    double* y, double* spread, double* lanes, double* total, double* squares, double* sums) {
  constexpr int L = Simd<double>::lanes;
  const int64_t count = rows * width, padded = round_up(count, period), vectors = period / L;
  double *start_x = lanes, *start_y = lanes + period, *sum_x = lanes + 2 * period, *sum_y = lanes + 3 * period;
  int64_t first = 0;
  *total = static_cast<double>(rows), *squares = static_cast<double>(rows);
  if (kWeighted) {
    double part[L] = {}, square[L] = {};
    int64_t n = 0;
    for (; n + L <= rows; n += L)
      for (int j = 0; j < L; ++j) {
        const double w = static_cast<double>(weight[n + j]);
        part[j] += w, square[j] += w * w;
      }
    for (int j = 0; n + j < rows; ++j) {
      const double w = static_cast<double>(weight[n + j]);
      part[j] += w, square[j] += w * w;
    }
    *total = std::accumulate(part, part + L, 0.0), *squares = std::accumulate(square, square + L, 0.0);
    while (first + 1 < rows && weight[first] == T(0)) ++first;
    if (width == 2)  // valence and arousal: a loop that vectorises
      for (n = 0; n < rows; ++n) spread[2 * n] = spread[2 * n + 1] = static_cast<double>(weight[n]);
    else
      for (n = 0; n < rows; ++n)
        for (int64_t t = 0; t < width; ++t) spread[n * width + t] = static_cast<double>(weight[n]);
    for (int64_t i = count; i < padded; ++i) spread[i] = 0;
    if (*total == 0) {
      for (int64_t i = 0; i < kSums * width; ++i) sums[i] = 0;
      return;
    }
  }
  // A row of the block is taken off first: columns that are constant become 0 exactly.
  for (int64_t i = 0, t = 0; i < period; ++i, t = t + 1 == width ? 0 : t + 1) {
    start_x[i] = static_cast<double>(from_x[first * width + t]);
    start_y[i] = static_cast<double>(from_y[first * width + t]);
  }
  if (kWeighted) {  // a row without weight may hold anything: the row taken off stands in for it, and for the padding
    for (int64_t i = 0, k = 0; i < padded; i += L, k = k + L == period ? 0 : k + L) {
      double u[L], v[L];
      for (int j = 0; j < L; ++j) u[j] = start_x[k + j], v[j] = start_y[k + j];
      if (i + L <= count)
        for (int j = 0; j < L; ++j) {
          const bool out = spread[i + j] == 0;
          u[j] = out ? u[j] : static_cast<double>(from_x[i + j]);
          v[j] = out ? v[j] : static_cast<double>(from_y[i + j]);
        }
      else
        for (int64_t j = 0; i + j < count; ++j)
          if (spread[i + j] != 0) u[j] = static_cast<double>(from_x[i + j]), v[j] = static_cast<double>(from_y[i + j]);
      std::memcpy(x + i, u, sizeof(u)), std::memcpy(y + i, v, sizeof(v));
    }
  }
  double apart_of[L];
  for (int64_t t = 0; t < width; ++t) sums[5 * width + t] = 0;
  for (int64_t p = 0; p < vectors; ++p) {
    Vec<double> a, b, total_x = {}, total_y = {}, apart = {};
    load<double>(a, start_x + p * L), load<double>(b, start_y + p * L);
    for (int64_t i = p * L; i < padded; i += period) {
      Vec<double> u, v, gap;
      if (kWeighted) {
        load<double>(u, x + i), load<double>(v, y + i);
      } else if (i + L <= count) {
        load_wide<T>(u, from_x + i), load_wide<T>(v, from_y + i);
      } else {  // the padding repeats the row taken off, and is 0 from here on
        double of_x[L], of_y[L];
        store<double>(of_x, a), store<double>(of_y, b);
        for (int j = 0; i + j < count; ++j)
          of_x[j] = static_cast<double>(from_x[i + j]), of_y[j] = static_cast<double>(from_y[i + j]);
        load<double>(u, of_x), load<double>(v, of_y);
      }
      gap = u - v, u = u - a, v = v - b;
      if (kWeighted) {
        Vec<double> w;
        load<double>(w, spread + i);
        gap = gap * gap * w;
        total_x += u * w, total_y += v * w;
      } else {
        if (i + L > count) {
          double kept[L];
          store<double>(kept, gap);
          load_some<double>(gap, kept, i < count ? count - i : 0);
        }
        gap = gap * gap;
        total_x += u, total_y += v;
      }
      apart += gap;
      store<double>(x + i, u), store<double>(y + i, v);
    }
    store<double>(sum_x + p * L, total_x), store<double>(sum_y + p * L, total_y), store<double>(apart_of, apart);
    for (int j = 0; j < L; ++j) sums[5 * width + (p * L + j) % width] += apart_of[j];
  }
  for (int64_t t = 0; t < width; ++t) {
    double mean_x = 0, mean_y = 0;
    for (int64_t i = t; i < period; i += width) mean_x += sum_x[i], mean_y += sum_y[i];
    mean_x /= *total, mean_y /= *total;
    for (int64_t i = t; i < period; i += width) sum_x[i] = mean_x, sum_y[i] = mean_y;
    sums[t] = start_x[t] + mean_x, sums[width + t] = start_y[t] + mean_y;
    sums[2 * width + t] = sums[3 * width + t] = sums[4 * width + t] = 0;
  }
  for (int64_t i = count, j = count % period; i < padded; ++i, ++j) x[i] = sum_x[j], y[i] = sum_y[j];
  for (int64_t p = 0; p < vectors; ++p) {
    Vec<double> a, b, xx = {}, yy = {}, xy = {};
    load<double>(a, sum_x + p * L), load<double>(b, sum_y + p * L);
    for (int64_t i = p * L; i < padded; i += period) {
      Vec<double> u, v;
      load<double>(u, x + i), load<double>(v, y + i);
      u = u - a, v = v - b;
      if (kWeighted) {
        Vec<double> w;
        load<double>(w, spread + i);
        const Vec<double> wu = u * w;
        xx += wu * u, xy += wu * v, yy += v * v * w;
      } else {
        xx += u * u, xy += u * v, yy += v * v;
      }
    }
    double of_xx[L], of_yy[L], of_xy[L];
    store<double>(of_xx, xx), store<double>(of_yy, yy), store<double>(of_xy, xy);
    for (int j = 0; j < L; ++j) {
      const int64_t t = (p * L + j) % width;
      sums[2 * width + t] += of_xx[j], sums[3 * width + t] += of_yy[j], sums[4 * width + t] += of_xy[j];
    }
  }
}

// Gradients of the numbers [begin, end); begin is a multiple of the period. `of` is (7, period): what is taken off x
// and y, and the coefficients of p, q, x - y and 1 (in d x, then in d y).
template <typename T, bool kWeighted, bool kTarget>
FERKIT_INLINE void gradient_range(
    int64_t begin, int64_t end, int64_t width, int64_t period, const T* x, const T* y, const T* weight, const T* of,
    T* dx, T* dy) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t p = 0; p < period / L; ++p) {
    Vec<T> base_x, base_y, own, other, apart, level_x, level_y;
    const T* from = of + p * L;
    load<T>(base_x, from), load<T>(base_y, from + period), load<T>(own, from + 2 * period);
    load<T>(other, from + 3 * period), load<T>(apart, from + 4 * period), load<T>(level_x, from + 5 * period);
    load<T>(level_y, from + 6 * period);
    for (int64_t i = begin + p * L; i < end; i += period) {
      const int64_t used = end - i < L ? end - i : L;
      Vec<T> u, v;
      if (used == L)
        load<T>(u, x + i), load<T>(v, y + i);
      else
        load_some<T>(u, x + i, used), load_some<T>(v, y + i, used);
      const Vec<T> gap = apart * (u - v);
      u = u - base_x, v = v - base_y;
      Vec<T> to_x = own * u + other * v - gap + level_x, to_y = {};
      if (kTarget) to_y = own * v + other * u + gap + level_y;
      if (kWeighted) {
        T lanes[L] = {};
        Vec<T> w;
        int64_t n = i / width, t = i % width;
        for (int j = 0; j < used; ++j) {
          lanes[j] = weight[n];
          if (++t == width) t = 0, ++n;
        }
        load<T>(w, lanes);
        to_x = if_equal(w, Vec<T>{}, Vec<T>{}, to_x * w);
        if (kTarget) to_y = if_equal(w, Vec<T>{}, Vec<T>{}, to_y * w);
      }
      if (used == L) {
        store<T>(dx + i, to_x);
        if (kTarget) store<T>(dy + i, to_y);
      } else {
        store_some<T>(dx + i, to_x, used);
        if (kTarget) store_some<T>(dy + i, to_y, used);
      }
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                         \
  void block_sums_##S(                                                                                \
      int64_t rows, int64_t width, int64_t period, const T* fx, const T* fy, const T* w, double* x, double* y,      \
      double* spread, double* lanes, double* total, double* squares, double* sums) {                                \
    if (w == nullptr)                                                                                               \
      block_sums<T, false>(rows, width, period, fx, fy, w, x, y, spread, lanes, total, squares, sums);              \
    else                                                                                                            \
      block_sums<T, true>(rows, width, period, fx, fy, w, x, y, spread, lanes, total, squares, sums);               \
  }                                                                                                                 \
  void gradient_range_##S(                                                                            \
      int64_t b, int64_t e, int64_t width, int64_t period, const T* x, const T* y, const T* w, const T* of, T* dx,  \
      T* dy) {                                                                                                      \
    if (w == nullptr && dy == nullptr)                                                                              \
      gradient_range<T, false, false>(b, e, width, period, x, y, w, of, dx, dy);                                    \
    else if (w == nullptr)                                                                                          \
      gradient_range<T, false, true>(b, e, width, period, x, y, w, of, dx, dy);                                     \
    else if (dy == nullptr)                                                                                         \
      gradient_range<T, true, false>(b, e, width, period, x, y, w, of, dx, dy);                                     \
    else                                                                                                            \
      gradient_range<T, true, true>(b, e, width, period, x, y, w, of, dx, dy);                                      \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
