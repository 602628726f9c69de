// Compiles the file that FERKIT_KERNELS names once for each instruction set, in a namespace of its own.
// No include guard.
#include "simd.h"

// Registers of 64, 32 and 16 bytes. A vector that is wider than the set's registers would live in memory, and be taken
// apart number by number wherever it is compared or shuffled: vectors.h cuts it to their width.
#if FERKIT_SETS == 3
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define FERKIT_SET v4
#define FERKIT_REGISTER 64
#include "kernels.h"
#undef FERKIT_SET
#undef FERKIT_REGISTER
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define FERKIT_SET v3
#define FERKIT_REGISTER 32
#include "kernels.h"
#undef FERKIT_SET
#undef FERKIT_REGISTER
#pragma GCC pop_options
#endif

#define FERKIT_SET base
#define FERKIT_REGISTER 16
#include "kernels.h"
#undef FERKIT_SET
#undef FERKIT_REGISTER
#undef FERKIT_KERNELS
