/* One variant: its lanes, and the tiles for both kinds of unit. */
#define UNITS pairs
#define PAIRS 1
#include "vector.h"
#include "product.h"
#include "layers.h"
#undef UNITS
#undef PAIRS
#undef V16
#undef U16
#undef FN
#undef BOTH
#define UNITS singles
#define PAIRS 0
#include "vector.h"
#include "product.h"
#include "layers.h"
#undef UNITS
#undef PAIRS
#undef V16
#undef U16
#undef FN
#undef BOTH
#undef SUFFIX
#undef TARGET
#undef LANES_PORTABLE
#undef LANES_AVX2
#undef LANES_AVX512
#undef LANES_AVX512BF16
