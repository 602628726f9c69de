// One instruction set's vectors and kernels; clones.h includes it. No include guard.
namespace ferkit {
namespace FERKIT_SET {
namespace {

// In the order in which they build on each other.
#include "vectors.h"
#include "transpose.h"
#include "tiles.h"

#include FERKIT_KERNELS

}  // namespace
}  // namespace FERKIT_SET
}  // namespace ferkit
