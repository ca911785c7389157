// The loops over the weights of a LoRA file: Gram matrices, products, rounding, errors.
//
// The build compiles this file, which includes all others, once per instruction set. All functions
// take b modules whose matrices lie one after the other, and memory for intermediate results; they
// allocate nothing and know no threads. lensd/lora/_kernels/calls.py checks all sizes before it
// calls them. The Python functions in lensd/lora compute the same and are the reference.
//
// A factor has a short side, its rank, and a long one. `down` is stored "short first" ([rank, n]),
// `up` "long first" ([m, rank]). Sums over the long side are taken in float32 over BLOCK elements
// and in float64 over the blocks; the sums of squares on a diagonal are float64 throughout, because
// their rounding errors all have one sign.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "floats.hpp"
#include "inner_products.hpp"
#include "largest.hpp"
#include "products.hpp"
#include "quantizer.hpp"
#include "small_ranks.hpp"
#include "stored.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

// The interface. Each function returns the bytes of `memory` (aligned to 64) that it needs, and
// does nothing else if `memory` is null.

// out [b, shorter, shorter]: the Gram matrices of factors [b, ...].
EXPORT size_t lensd_gram(int32_t dtype, const void *data, size_t b, size_t shorter, size_t longer,
                         int32_t short_first, int32_t exact, double *out, void *memory) {
    return exact ? gram<double>(dtype, data, b, shorter, longer, short_first, out, memory)
                 : gram<float>(dtype, data, b, shorter, longer, short_first, out, memory);
}

// out [b, rows, columns]: the inner products of factors with `rows` and with `columns` ranks.
EXPORT size_t lensd_cross(int32_t dtype_a, const void *a, size_t rows, int32_t rows_first,
                          int32_t dtype_b, const void *b, size_t columns, int32_t columns_first,
                          size_t modules, size_t longer, int32_t exact, double *out, void *memory) {
    auto work = exact ? cross<double> : cross<float>;
    return work(matrix(a, dtype_a, 0, 0), rows, rows_first, matrix(b, dtype_b, 0, 0), columns,
                columns_first, modules, longer, out, memory);
}

// out [b, count, longer] or [b, longer, count]: small matrices times factors, float32.
EXPORT size_t lensd_product(int32_t dtype, const void *data, size_t b, size_t rank, size_t longer,
                            int32_t short_first, const float *small, size_t count, float *out,
                            void *memory) {
    Memory given(memory);
    Product work(given, rank, longer, count, short_first);
    for (size_t at = 0; memory && at < b; at++)
        work.run(matrix(data, dtype, at, rank * longer), small + at * rank * count,
                 out + at * count * longer);
    return given.used();
}

// out [b]: max |element| of each matrix of `count` elements; NaN if any is NaN.
EXPORT size_t lensd_largest(int32_t dtype, const void *data, size_t b, size_t count, double *out) {
    for (size_t at = 0; at < b; at++) out[at] = largest(matrix(data, dtype, at, count), count);
    return 0;
}

// out: the int8 numbers of down [count, n] and up [m, count] of each of b modules, one after the
// other; found [b]. counts [b] are at most `stride`. exact [b]: whether inner products with the
// stored factors are float64, as they always are for small ranks. The other arguments are those of
// Quantizer::run.
EXPORT size_t lensd_quantize(int32_t dtype, const void *up, const void *down, size_t b, size_t m,
                             size_t rank, size_t n, const size_t *counts, const float *left,
                             const float *right, size_t stride, const float *const *rotations,
                             const double *stored_scales, const bool *exact, double guard,
                             double slack, int8_t *out, double *found, void *memory) {
    if (!memory) {
        Memory for_small(nullptr);
        if (rank <= SMALL_RANK)
            Quantizer<SmallSide>(for_small, m, rank, n, std::min(stride, SMALL_COUNT));
        return std::max(for_small.used(), needed<SideQuantizer>(m, rank, n, stride));
    }
    for (size_t at = 0; at < b; at++) {
        auto one = [&](auto work, int8_t *up_out) {
            return work.run(matrix(up, dtype, at, m * rank), matrix(down, dtype, at, rank * n),
                            left + at * rank * stride, right + at * rank * stride, stride,
                            rotations[at], stored_scales[at], guard, slack, out, up_out);
        };
        Memory given(memory);
        int8_t *up_out = out + counts[at] * n;
        bool is_small = rank <= SMALL_RANK && counts[at] <= SMALL_COUNT;
        reinterpret_cast<Quantization *>(found)[at] =
            is_small    ? one(Quantizer<SmallSide>(given, m, rank, n, counts[at]), up_out)
            : exact[at] ? one(Quantizer<Side<double>>(given, m, rank, n, counts[at]), up_out)
                        : one(Quantizer<Side<float>>(given, m, rank, n, counts[at]), up_out);
        out = up_out + m * counts[at];
    }
    return 0;
}

// As lensd_quantize, for floats of the dtype `to`: F16, BF16 or F8. gains [b, 2]; the other
// arguments are those of FloatRounder::run.
EXPORT size_t lensd_round(int32_t dtype, const void *up, const void *down, size_t b, size_t m,
                          size_t rank, size_t n, const size_t *counts, const float *left,
                          const float *right, size_t stride, const float *const *rotations,
                          const double *gains, const bool *exact, int32_t to, char *out,
                          double *found, void *memory) {
    if (!memory) return needed<FloatRounder>(m, rank, n, stride);
    for (size_t at = 0; at < b; at++) {
        auto one = [&](auto work, char *up_out) {
            return work.run(matrix(up, dtype, at, m * rank), matrix(down, dtype, at, rank * n),
                            left + at * rank * stride, right + at * rank * stride, stride,
                            rotations[at], gains + 2 * at, static_cast<Dtype>(to), out, up_out);
        };
        Memory given(memory);
        size_t size = item_size(static_cast<Dtype>(to));
        char *up_out = out + counts[at] * n * size;
        reinterpret_cast<Quantization *>(found)[at] =
            exact[at] ? one(FloatRounder<double>(given, m, rank, n, counts[at]), up_out)
                      : one(FloatRounder<float>(given, m, rank, n, counts[at]), up_out);
        out = up_out + m * counts[at] * size;
    }
    return 0;
}
