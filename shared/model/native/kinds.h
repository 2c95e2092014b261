/* One variant: its lanes, and products and layers for each kind of unit and arithmetic. A variant may have only some kinds. */
#define FUSED 0
#ifndef WITHOUT_CHAIN
#define KIND pairs
#define PAIRS 1
#define GROUPED 0
#include "vector.h"
#include "product.h"
#include "layers.h"
#include "end.h"

#define KIND singles
#define PAIRS 0
#define GROUPED 0
#include "vector.h"
#include "product.h"
#include "layers.h"
#include "end.h"
#endif

#define KIND pairs32
#define PAIRS 1
#define GROUPED 1
#include "vector.h"
#include "product.h"
#include "layers.h"
#include "end.h"
#undef FUSED

#ifndef WITHOUT_FUSED
#define KIND fused16
#define FUSED 16
#define PAIRS 1
#define GROUPED 0
#include "vector.h"
#include "fused.h"
#include "product.h"
#include "layers.h"
#include "end.h"
#undef FUSED

#define KIND fused8
#define FUSED 8
#define PAIRS 1
#define GROUPED 0
#include "vector.h"
#include "fused.h"
#include "product.h"
#include "layers.h"
#include "end.h"
#undef FUSED
#endif

#undef SUFFIX
#undef TARGET
#undef WITHOUT_CHAIN
#undef WITHOUT_FUSED
#undef LANES_PORTABLE
#undef LANES_AVX2
#undef LANES_AVX512
#undef LANES_AVX512BF16
#undef LANES_AMX
