// Vectors of 64 bytes as registers of the instruction set. Included by kernels.h, inside the set's namespace.

template <typename T>
struct Register {
  typedef T type __attribute__((vector_size(FERKIT_REGISTER)));
};

// As many lanes as Simd<T> says, in one register or several side by side.
template <typename T>
struct Vec {
  static constexpr int parts = kVectorBytes / FERKIT_REGISTER, width = FERKIT_REGISTER / static_cast<int>(sizeof(T));
  using Part = typename Register<T>::type;
  Part at[parts];

  static FERKIT_INLINE Vec all(T value) {
    Vec v;
    for (int i = 0; i < parts; ++i) v.at[i] = Part{} + value;
    return v;
  }

#define FERKIT_OPERATOR(op)                                         \
  friend FERKIT_INLINE Vec operator op(const Vec& a, const Vec& b) { \
    Vec v;                                                          \
    for (int i = 0; i < parts; ++i) v.at[i] = a.at[i] op b.at[i];   \
    return v;                                                       \
  }                                                                 \
  friend FERKIT_INLINE Vec operator op(const Vec& a, T b) {          \
    Vec v;                                                          \
    for (int i = 0; i < parts; ++i) v.at[i] = a.at[i] op b;         \
    return v;                                                       \
  }                                                                 \
  friend FERKIT_INLINE Vec operator op(T a, const Vec& b) {          \
    Vec v;                                                          \
    for (int i = 0; i < parts; ++i) v.at[i] = a op b.at[i];         \
    return v;                                                       \
  }
  FERKIT_OPERATOR(+)
  FERKIT_OPERATOR(-)
  FERKIT_OPERATOR(*)
  FERKIT_OPERATOR(/)
#undef FERKIT_OPERATOR

  FERKIT_INLINE Vec operator-() const {
    Vec v;
    for (int i = 0; i < parts; ++i) v.at[i] = -at[i];
    return v;
  }
  FERKIT_INLINE Vec& operator+=(const Vec& b) {
    for (int i = 0; i < parts; ++i) at[i] += b.at[i];
    return *this;
  }
  FERKIT_INLINE Vec& operator-=(const Vec& b) {
    for (int i = 0; i < parts; ++i) at[i] -= b.at[i];
    return *this;
  }
};

// A comparison and the choice it makes are one expression: compilers take a comparison that stands alone apart.
template <typename K, typename T>
FERKIT_INLINE Vec<T> if_less(const Vec<K>& a, const Vec<K>& b, const Vec<T>& yes, const Vec<T>& no) {
  Vec<T> v;
  for (int i = 0; i < Vec<T>::parts; ++i) v.at[i] = a.at[i] < b.at[i] ? yes.at[i] : no.at[i];
  return v;
}
template <typename K, typename T>
FERKIT_INLINE Vec<T> if_equal(const Vec<K>& a, const Vec<K>& b, const Vec<T>& yes, const Vec<T>& no) {
  Vec<T> v;
  for (int i = 0; i < Vec<T>::parts; ++i) v.at[i] = a.at[i] == b.at[i] ? yes.at[i] : no.at[i];
  return v;
}

template <typename T>
FERKIT_INLINE void load(Vec<T>& to, const T* from) {
  for (int i = 0; i < Vec<T>::parts; ++i) std::memcpy(&to.at[i], from + i * Vec<T>::width, FERKIT_REGISTER);
}
template <typename T>
FERKIT_INLINE void store(T* to, const Vec<T>& from) {
  for (int i = 0; i < Vec<T>::parts; ++i) std::memcpy(to + i * Vec<T>::width, &from.at[i], FERKIT_REGISTER);
}
// The first `count` lanes, which may be none; the others are 0.
template <typename T>
FERKIT_INLINE void load_some(Vec<T>& to, const T* from, int64_t count) {
  T lanes[Simd<T>::lanes] = {};
  std::memcpy(lanes, from, sizeof(T) * count);
  load<T>(to, lanes);
}
template <typename T>
FERKIT_INLINE void store_some(T* to, const Vec<T>& from, int64_t count) {
  T lanes[Simd<T>::lanes];
  store<T>(lanes, from);
  std::memcpy(to, lanes, sizeof(T) * count);
}

// Asks for vectors that will be read or written soon; the address need not be valid.
template <bool write, int count, typename T>
FERKIT_INLINE void fetch(const T* from) {
#if defined(__GNUC__)
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  for (int i = 0; i < count; ++i) __builtin_prefetch(reinterpret_cast<const char*>(address + kVectorBytes * i), write);
#endif
}

template <typename T, int bytes>
struct Lanes {
  typedef T type __attribute__((vector_size(bytes)));
};

// The lanes are summed in a fixed tree, halves first, so that the result does not depend on the instruction set's width.
template <typename T, int bytes>
FERKIT_INLINE T sum_halves(const typename Lanes<T, bytes>::type& v) {
  typename Lanes<T, bytes / 2>::type low, high;
  std::memcpy(&low, &v, sizeof(low));
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
  if constexpr (sizeof(low) == sizeof(T))
    return low[0] + high[0];
  else
    return sum_halves<T, bytes / 2>(low + high);
}
template <typename T>
FERKIT_INLINE T sum_lanes(const Vec<T>& v) {
  Vec<T> part = v;
  for (int width = Vec<T>::parts / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part.at[i] += part.at[i + width];
  return sum_halves<T, FERKIT_REGISTER>(part.at[0]);
}

// exp for float lanes, 1 ulp or so; NaN stays NaN, below -87.3 the result is 0.
FERKIT_INLINE void exp_part(Register<float>::type& x) {
  typedef Register<float>::type Floats;
  typedef Register<int32_t>::type Ints;
  Floats y = x < -87.3f ? Floats{} - 87.3f : x;
  y = x > 88.7f ? Floats{} + 88.7f : y;
  const Floats magic = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = y * 1.44269504088896341f + magic;
  const Floats n = shifted - magic;
  const Floats r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = Floats{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const Ints scale_bits = (bits << 23) + (127 << 23);  // the low bits of `shifted` hold n
  Floats scale;
  std::memcpy(&scale, &scale_bits, sizeof(scale));
  p = p * scale;
  p = x > 88.7f ? Floats{} + std::numeric_limits<float>::infinity() : p;
  x = x < -87.3f ? Floats{} : p;
}
// log for float lanes of normal positive numbers, 1 ulp or so; NaN and infinity stay themselves.
FERKIT_INLINE void log_part(Register<float>::type& x) {
  typedef Register<float>::type Floats;
  typedef Register<int32_t>::type Ints;
  Ints bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const Ints above = bits - 0x3f3504f3;  // sqrt(1/2): the mantissa m is taken from [sqrt(1/2), sqrt(2))
  const Floats e = __builtin_convertvector(above >> 23, Floats);
  const Ints mantissa = (above & 0x007fffff) + 0x3f3504f3;
  Floats m;
  std::memcpy(&m, &mantissa, sizeof(m));
  const Floats r = m - 1.0f;
  Floats p = Floats{} + 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const Floats square = r * r;
  const Floats tail = (p * r * square + e * -2.12194440e-4f) - square * 0.5f;
  const Floats result = (r + tail) + e * 0.693359375f;
  x = x < std::numeric_limits<float>::infinity() ? result : x;
}
FERKIT_INLINE void exp_part(Register<double>::type& x) {
  for (int i = 0; i < Vec<double>::width; ++i) x[i] = std::exp(x[i]);
}
FERKIT_INLINE void log_part(Register<double>::type& x) {
  for (int i = 0; i < Vec<double>::width; ++i) x[i] = std::log(x[i]);
}
template <typename T>
FERKIT_INLINE void exp_lanes(Vec<T>& x) {
  for (int i = 0; i < Vec<T>::parts; ++i) exp_part(x.at[i]);
}
template <typename T>
FERKIT_INLINE void log_lanes(Vec<T>& x) {
  for (int i = 0; i < Vec<T>::parts; ++i) log_part(x.at[i]);
}
