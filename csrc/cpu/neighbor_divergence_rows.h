// The passes of neighbor_divergence, one lane per centre.
// Included by kernels.h, inside the instruction set's namespace.

// `v` where the weight is not 0: what is absent may be NaN, and is replaced, not multiplied by zero.
template <typename T>
FERKIT_INLINE Vec<T> present(const Vec<T>& weight, const Vec<T>& v) {
  return if_equal(weight, Vec<T>{}, Vec<T>{}, v);
}

// r + exp(-r) - 1 for |r| <= 1/4: r^2/2 (1 - r/3 (1 - r/4 (1 - ...))), to the last digit and never negative.
template <typename T>
FERKIT_INLINE Vec<T> excess(const Vec<T>& r) {
  constexpr int last = sizeof(T) == 4 ? 7 : 13;
  Vec<T> inner = Vec<T>::all(1);
#pragma GCC unroll 16
  for (int i = last; i > 2; --i) inner = T(1) - r * inner * (T(1) / i);
  return r * r * T(0.5) * inner;
}

constexpr int apart = 32;  // how far off two largest logits are before differences across them lose digits

// Of the rows in `block`: the largest logit, exp(. - largest) into `shares`, and their sum.
template <typename T>
FERKIT_INLINE void exponentials(const T* block, int64_t classes, T* shares, Vec<T>& top, Vec<T>& total) {
  constexpr int L = Simd<T>::lanes;
  top = Vec<T>::all(-std::numeric_limits<T>::infinity());
  total = Vec<T>{};
  for (int64_t c = 0; c < classes; ++c) {
    Vec<T> v;
    load<T>(v, block + c * L);
    top = if_less(top, v, v, top);
  }
  for (int64_t c = 0; c < classes; ++c) {
    Vec<T> v;
    load<T>(v, block + c * L);
    v = v - top;  // a NaN is passed over by the largest, and shows here
    exp_lanes(v);
    total += v;
    store<T>(shares + c * L, v);
  }
}

// What all neighbours of a block of centres share, and the scratch for one neighbour: (C, lanes) each.
template <typename T>
struct Block {
  T *center, *p, *residual, *neighbor, *shares;
  Vec<T> top, log_total, largest;

  FERKIT_INLINE Block(T* scratch, int64_t classes) {
    const int64_t step = block_numbers<T>(classes) / 5;
    center = scratch, p = center + step, residual = p + step, neighbor = residual + step, shares = neighbor + step;
  }

  FERKIT_INLINE void begin(const T* logits, int used, int64_t room, int64_t classes) {
    constexpr int L = Simd<T>::lanes;
    Vec<T> total;
    gather<T>(logits, classes, used, room, classes, center);
    exponentials<T>(center, classes, p, top, total);
    const Vec<T> share = T(1) / total;
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> v;
      load<T>(v, p + c * L);
      store<T>(p + c * L, v * share);
      store<T>(residual + c * L, Vec<T>{});
    }
    log_lanes(total);
    log_total = total;
  }

  // Of a neighbour: 1 / (sum of exponentials), and how far its largest logit and the sum's logarithm are off the centre's.
  FERKIT_INLINE void next(
      const T* logits, int64_t pitch, int used, int64_t room, int64_t classes, Vec<T>& share, Vec<T>& rise,
      Vec<T>& shift) {
    Vec<T> total;
    gather<T>(logits, pitch, used, room, classes, neighbor);
    exponentials<T>(neighbor, classes, shares, largest, total);
    share = T(1) / total;
    log_lanes(total);
    rise = largest - top;
    shift = total - log_total;
  }

  // q and log q - log p of class c of the present neighbour; any finite number in place of the latter where q is 0.
  FERKIT_INLINE void at(
      int64_t c, const Vec<T>& share, const Vec<T>& rise, const Vec<T>& shift, Vec<T>& q, Vec<T>& ratio) const {
    constexpr int L = Simd<T>::lanes;
    Vec<T> v, z;
    load<T>(v, neighbor + c * L);
    load<T>(z, center + c * L);
    load<T>(q, shares + c * L);
    q = q * share;
    // Exact but for the last step where the logits are close; far apart, the differences within each are.
    ratio = if_less(Vec<T>::all(apart * apart), rise * rise, (v - largest) - (z - top), (v - z) - rise) - shift;
    ratio = if_less(Vec<T>{}, q, ratio, Vec<T>::all(1));
  }
};

template <typename T>
FERKIT_INLINE void loss_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, const T* logits, const T* neighbors,
    const T* weight, T* loss, T* residual, T* divergence, T* scratch) {
  constexpr int L = Simd<T>::lanes;
  Block<T> block(scratch, classes);
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    block.begin(logits + n * classes, used, (end - n) * classes, classes);
    Vec<T> sum = {};
    for (int64_t k = 0; k < count; ++k) {
      T lanes[L] = {};
      Vec<T> w, share, rise, shift, value = {};
      for (int i = 0; i < used; ++i) lanes[i] = weight[(n + i) * count + k];
      load<T>(w, lanes);
      const int64_t room = ((end - n) * count - k) * classes;
      block.next(neighbors + (n * count + k) * classes, count * classes, used, room, classes, share, rise, shift);
      for (int64_t c = 0; c < classes; ++c) {
        Vec<T> q, r, p, d;
        block.at(c, share, rise, shift, q, r);
        load<T>(p, block.p + c * L);
        load<T>(d, block.residual + c * L);
        const Vec<T> near = q * excess<T>(r), far = q * r + (p - q);
        value += if_less(r * r, Vec<T>::all(0.0625), near, far);
        store<T>(block.residual + c * L, d + present<T>(w, w * (p - q)));
      }
      value = present<T>(w, value);
      sum += present<T>(w, w * value);
      store<T>(lanes, value * factor);
      for (int i = 0; i < used; ++i) divergence[(n + i) * count + k] = lanes[i];
    }
    T losses[L];
    store<T>(losses, sum);
    for (int i = 0; i < used; ++i) loss[n + i] = losses[i];
    for (int64_t c = 0; c < classes; ++c) {
      Vec<T> d;
      load<T>(d, block.residual + c * L);
      store<T>(block.residual + c * L, factor * d);
    }
    scatter<T>(block.residual, classes, used, classes, residual + n * classes);
  }
}

template <typename T>
FERKIT_INLINE void gradient_rows(
    int64_t begin, int64_t end, int64_t count, int64_t classes, T factor, int64_t every, const T* grad,
    const T* logits, const T* neighbors, const T* weight, const T* divergence, T* d_neighbors, T* scratch) {
  constexpr int L = Simd<T>::lanes;
  Block<T> block(scratch, classes);
  for (int64_t n = begin; n < end; n += L) {
    const int used = static_cast<int>(end - n < L ? end - n : L);
    block.begin(logits + n * classes, used, (end - n) * classes, classes);
    for (int64_t k = 0; k < count; ++k) {
      T given[L] = {}, along[L] = {}, values[L] = {};
      Vec<T> asked, w, own, share, rise, shift;
      for (int i = 0; i < used; ++i) {
        given[i] = weight[(n + i) * count + k];
        along[i] = given[i] * grad[(n + i) * every];
        values[i] = divergence[(n + i) * count + k];
      }
      load<T>(asked, given), load<T>(w, along), load<T>(own, values);
      const int64_t room = ((end - n) * count - k) * classes;
      block.next(neighbors + (n * count + k) * classes, count * classes, used, room, classes, share, rise, shift);
      for (int64_t c = 0; c < classes; ++c) {
        Vec<T> q, r;
        block.at(c, share, rise, shift, q, r);
        store<T>(block.shares + c * L, present<T>(asked, w * q * (r * factor - own)));
      }
      scatter<T>(block.shares, count * classes, used, classes, d_neighbors + (n * count + k) * classes);
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                           \
  void divergence_rows_##S(                                                                             \
      int64_t b, int64_t e, int64_t k, int64_t c, T f, const T* z, const T* v, const T* w, T* l, T* r, T* d,          \
      T* scratch) {                                                                                                   \
    loss_rows<T>(b, e, k, c, f, z, v, w, l, r, d, scratch);                                                           \
  }                                                                                                                   \
  void divergence_gradient_##S(                                                                         \
      int64_t b, int64_t e, int64_t k, int64_t c, T f, int64_t every, const T* g, const T* z, const T* v, const T* w, \
      const T* d, T* dv, T* scratch) {                                                                                \
    gradient_rows<T>(b, e, k, c, f, every, g, z, v, w, d, dv, scratch);                                               \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE
