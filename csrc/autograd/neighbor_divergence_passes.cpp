// Once more, for the library of the nodes (csrc/cpu/neighbor_divergence.h).
#include "../cpu/neighbor_divergence_passes.cpp"
