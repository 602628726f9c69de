// neighbor_divergence on the CPU: one pass over the neighbours, one lane per centre. See docs/math/neighbor_divergence.md.
#include "simd.h"
#include "tensors.h"

namespace ferkit {
namespace {

constexpr int64_t kGrain = 1 << 13;  // logits worth a thread

// One integer a lane, all bits set or none: built by scalar code, because GCC takes a comparison of vectors apart, lane by
// lane, wherever it is not the condition of one `?:`.
template <typename T>
struct MaskOf {
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Int;
  typedef Int type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Mask = typename MaskOf<T>::type;

template <typename T>
FERKIT_INLINE Vec<T> keep(const Mask<T>& mask, const Vec<T>& v) {
  Mask<T> bits;
  std::memcpy(&bits, &v, sizeof(bits));
  bits = bits & mask;
  Vec<T> result;
  std::memcpy(&result, &bits, sizeof(bits));
  return result;
}

// r + exp(-r) - 1 for |r| <= 1/4: r^2/2 (1 - r/3 (1 - r/4 (1 - ...))), to the last digit and never negative.
template <typename T>
FERKIT_INLINE Vec<T> excess(const Vec<T>& r) {
  constexpr int last = sizeof(T) == 4 ? 7 : 13;
  Vec<T> inner = Vec<T>{} + T(1);
#pragma GCC unroll 16
  for (int i = last; i > 2; --i) inner = T(1) - r * inner * (T(1) / i);
  return r * r * T(0.5) * inner;
}

// Copies row i of the lanes from `first + i * pitch` into `block` (C, lanes), transposed; lanes beyond `used` repeat row 0.
template <typename T>
FERKIT_INLINE void gather(const T* first, int64_t pitch, int used, int64_t classes, T* block) {
  constexpr int L = Simd<T>::lanes;
  for (int i = 0; i < L; ++i) {
    const T* from = first + (i < used ? i : 0) * pitch;
    for (int64_t c = 0; c < classes; ++c) block[c * L + i] = from[c];
  }
}

// Of the rows in `block`: the largest logit, exp(. - largest) into `shares`, and their sum.
template <typename T>
FERKIT_INLINE void exponentials(const T* block, int64_t classes, T* shares, Vec<T>& top, Vec<T>& total) {
  constexpr int L = Simd<T>::lanes;
  top = Vec<T>{} - std::numeric_limits<T>::infinity();
  total = Vec<T>{};
  for (int64_t c = 0; c < classes; ++c) {
    Vec<T> v;
    load<T>(v, block + c * L);
    top = v > top ? v : top;
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
  Vec<T> top, log_total;

  FERKIT_INLINE Block(T* scratch, int64_t classes) {
    const int64_t step = classes * Simd<T>::lanes;
    center = scratch, p = center + step, residual = p + step, neighbor = residual + step, shares = neighbor + step;
  }
  static int64_t numbers(int64_t classes) { return 5 * classes * Simd<T>::lanes + 1; }

  FERKIT_INLINE void begin(const T* logits, int used, int64_t classes) {
    constexpr int L = Simd<T>::lanes;
    Vec<T> total;
    gather<T>(logits, classes, used, classes, center);
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
      const T* logits, int64_t pitch, int used, int64_t classes, Vec<T>& share, Vec<T>& rise, Vec<T>& shift) {
    Vec<T> largest, total;
    gather<T>(logits, pitch, used, classes, neighbor);
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
    ratio = ((v - z) - rise) - shift;  // exact but for the last step where the logits are close
    ratio = q > Vec<T>{} ? ratio : Vec<T>{} + T(1);
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
    block.begin(logits + n * classes, used, classes);
    Vec<T> sum = {};
    for (int64_t k = 0; k < count; ++k) {
      T lanes[L] = {};
      Vec<T> w, share, rise, shift, value = {};
      typename MaskOf<T>::Int present[L] = {};
      for (int i = 0; i < used; ++i) {
        lanes[i] = weight[(n + i) * count + k];
        present[i] = lanes[i] == T(0) ? 0 : -1;
      }
      load<T>(w, lanes);
      Mask<T> mask;
      std::memcpy(&mask, present, sizeof(mask));
      block.next(neighbors + (n * count + k) * classes, count * classes, used, classes, share, rise, shift);
      for (int64_t c = 0; c < classes; ++c) {
        Vec<T> q, r, p, d;
        block.at(c, share, rise, shift, q, r);
        load<T>(p, block.p + c * L);
        load<T>(d, block.residual + c * L);
        const Vec<T> near = q * excess<T>(r), far = q * r + (p - q);
        value += r * r < Vec<T>{} + T(0.0625) ? near : far;
        store<T>(block.residual + c * L, d + keep<T>(mask, w * (p - q)));
      }
      value = keep<T>(mask, value);
      sum += keep<T>(mask, w * value);
      store<T>(lanes, value * factor);
      for (int i = 0; i < used; ++i) divergence[(n + i) * count + k] = lanes[i];
    }
    T losses[L];
    store<T>(losses, sum);
    for (int i = 0; i < used; ++i) {
      loss[n + i] = losses[i];
      for (int64_t c = 0; c < classes; ++c) residual[(n + i) * classes + c] = factor * block.residual[c * L + i];
    }
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
    block.begin(logits + n * classes, used, classes);
    for (int64_t k = 0; k < count; ++k) {
      T along[L] = {}, values[L] = {};
      Vec<T> w, own, share, rise, shift;
      for (int i = 0; i < used; ++i) {
        along[i] = weight[(n + i) * count + k] * grad[(n + i) * every];
        values[i] = divergence[(n + i) * count + k];
      }
      load<T>(w, along), load<T>(own, values);
      block.next(neighbors + (n * count + k) * classes, count * classes, used, classes, share, rise, shift);
      for (int64_t c = 0; c < classes; ++c) {
        Vec<T> q, r;
        block.at(c, share, rise, shift, q, r);
        store<T>(block.shares + c * L, w * q * (r * factor - own));
      }
      for (int i = 0; i < used; ++i) {
        const bool absent = weight[(n + i) * count + k] == T(0);
        T* to = d_neighbors + ((n + i) * count + k) * classes;
        for (int64_t c = 0; c < classes; ++c) to[c] = absent ? T(0) : block.shares[c * L + i];
      }
    }
  }
}

#define FERKIT_DEFINE(T, S)                                                                                           \
  FERKIT_CLONES void divergence_rows_##S(                                                                             \
      int64_t b, int64_t e, int64_t k, int64_t c, T f, const T* z, const T* v, const T* w, T* l, T* r, T* d,          \
      T* scratch) {                                                                                                   \
    loss_rows<T>(b, e, k, c, f, z, v, w, l, r, d, scratch);                                                           \
  }                                                                                                                   \
  FERKIT_CLONES void divergence_gradient_##S(                                                                         \
      int64_t b, int64_t e, int64_t k, int64_t c, T f, int64_t every, const T* g, const T* z, const T* v, const T* w, \
      const T* d, T* dv, T* scratch) {                                                                                \
    gradient_rows<T>(b, e, k, c, f, every, g, z, v, w, d, dv, scratch);                                               \
  }
FERKIT_DEFINE(float, f32)
FERKIT_DEFINE(double, f64)
#undef FERKIT_DEFINE

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto loss = divergence_rows_f32;
  static constexpr auto gradient = divergence_gradient_f32;
};
template <>
struct Rows<double> {
  static constexpr auto loss = divergence_rows_f64;
  static constexpr auto gradient = divergence_gradient_f64;
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& logits, const Tensor& neighbors, const Tensor& weight, bool mean) {
  const int64_t size = logits.size(0), classes = logits.size(1), count = weight.size(1);
  Tensor loss = make(mean ? Shape{} : Shape{size}, logits.scalar_type());
  Tensor residual = make({size, classes}, logits.scalar_type());
  Tensor divergence = make({size, count}, logits.scalar_type());
  const T *z = in<T>(logits), *v = in<T>(neighbors), *w = in<T>(weight);
  const T factor = mean && size > 0 ? T(1) / static_cast<T>(size) : T(1);
  T *l = out<T>(loss), *r = out<T>(residual), *d = out<T>(divergence);
  std::vector<T> rows(mean ? size : 0);
  if (mean) l = rows.data();
  parallel(size, (count + 1) * classes, kGrain, [&](int64_t b, int64_t e) {
    std::vector<T> scratch(Block<T>::numbers(classes));
    Rows<T>::loss(b, e, count, classes, factor, z, v, w, l, r, d, scratch.data());
  });
  if (mean) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) sum += l[i];
    *out<T>(loss) = static_cast<T>(size == 0 ? 0 : sum / size);
  }
  return {loss, residual, divergence};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& logits, const Tensor& neighbors, const Tensor& weight, const Tensor& residual,
    const Tensor& divergence, bool mean, bool asked) {
  const int64_t size = logits.size(0), classes = logits.size(1), count = weight.size(1);
  Tensor d_logits = make({size, classes}, logits.scalar_type());
  Tensor d_weight = make({size, count}, logits.scalar_type());
  const Shape shape = asked ? Shape{size, count, classes} : Shape{0};
  Tensor d_neighbors = make(shape, logits.scalar_type());
  const T *g = in<T>(grad), *z = in<T>(logits), *v = in<T>(neighbors), *w = in<T>(weight);
  const T *r = in<T>(residual), *d = in<T>(divergence);
  T *dz = out<T>(d_logits), *dw = out<T>(d_weight), *dv = out<T>(d_neighbors);
  const int64_t every = mean ? 0 : 1;  // one gradient for all, or one each
  const T factor = mean && size > 0 ? T(1) / static_cast<T>(size) : T(1);
  parallel(size, (count + 1) * classes, kGrain, [&](int64_t b, int64_t e) {
    for (int64_t n = b; n < e; ++n) {
      for (int64_t c = 0; c < classes; ++c) dz[n * classes + c] = g[n * every] * r[n * classes + c];
      for (int64_t k = 0; k < count; ++k) dw[n * count + k] = g[n * every] * d[n * count + k];
    }
    if (!asked) return;
    std::vector<T> scratch(Block<T>::numbers(classes));
    Rows<T>::gradient(b, e, count, classes, factor, every, g, z, v, w, d, dv, scratch.data());
  });
  return {d_logits, d_neighbors, d_weight};
}

void check(const Tensor& logits, const Tensor& neighbors, const Tensor& weight) {
  check_floating(logits, "logits");
  require(logits.dim() == 2, "logits: expected shape (N, C)");
  require(weight.dim() == 2, "weight: expected shape (N, K)");
  check_same(neighbors, logits, "neighbor_logits"), check_same(weight, logits, "weight");
  check_shape(weight, {logits.size(0), weight.size(1)}, "weight");
  check_shape(neighbors, {logits.size(0), weight.size(1), logits.size(1)}, "neighbor_logits");
}

std::tuple<Tensor, Tensor, Tensor> neighbor_divergence(Tensor logits, Tensor neighbors, Tensor weight, bool mean) {
  check(logits, neighbors, weight);
  logits = dense(logits), neighbors = dense(neighbors), weight = dense(weight);
  return logits.scalar_type() == ScalarType::Float ? forward<float>(logits, neighbors, weight, mean)
                                                   : forward<double>(logits, neighbors, weight, mean);
}

std::tuple<Tensor, Tensor, Tensor> neighbor_divergence_backward(
    Tensor grad, Tensor logits, Tensor neighbors, Tensor weight, Tensor residual, Tensor divergence, bool mean,
    bool asked) {
  check(logits, neighbors, weight);
  check_same(grad, logits, "grad"), check_same(residual, logits, "residual");
  check_same(divergence, logits, "divergence");
  check_shape(grad, mean ? Shape{} : Shape{logits.size(0)}, "grad");
  check_shape(residual, {logits.size(0), logits.size(1)}, "residual");
  check_shape(divergence, {logits.size(0), weight.size(1)}, "divergence");
  grad = dense(grad), logits = dense(logits), neighbors = dense(neighbors), weight = dense(weight);
  residual = dense(residual), divergence = dense(divergence);
  return logits.scalar_type() == ScalarType::Float
             ? backward<float>(grad, logits, neighbors, weight, residual, divergence, mean, asked)
             : backward<double>(grad, logits, neighbors, weight, residual, divergence, mean, asked);
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("neighbor_divergence", TORCH_BOX(&ferkit::neighbor_divergence));
  m.impl("neighbor_divergence_backward", TORCH_BOX(&ferkit::neighbor_divergence_backward));
}
