// Numbers as files store them, converted to float32 or float64.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vectors.hpp"

namespace {

constexpr size_t BLOCK = 256;  // elements of the long side that are converted at a time

enum Dtype : int32_t { F16 = 0, BF16 = 1, F32 = 2, I8 = 3, F8 = 4 };  // F8 is E4M3FN

#if !defined(__F16C__)
float half_to_float(uint16_t half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    if (rest >= 0x7c00) {  // infinity and NaN
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + 0x38000000);
    } else {
        float tiny = float(rest) * 0x1p-24f;
        std::memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}
#endif

void halves_to_floats(const uint16_t *from, size_t count, float *to) {
    size_t at = 0;
#if defined(__AVX512F__)
    for (; at + 16 <= count; at += 16) {
        auto halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + at));
        _mm512_storeu_ps(to + at, _mm512_cvtph_ps(halves));
    }
#endif
#if defined(__F16C__)
    for (; at + 8 <= count; at += 8) {
        auto halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + at));
        _mm256_storeu_ps(to + at, _mm256_cvtph_ps(halves));
    }
    for (; at < count; at++) to[at] = _cvtsh_ss(from[at]);
#else
    for (; at < count; at++) to[at] = half_to_float(from[at]);
#endif
}

// The exponent field of float8 is 120 smaller than that of float32; below 2^-6 its steps are 2^-9.
constexpr uint32_t F8_SHIFT = 20, F8_BIAS = 120u << 23;

Vector<int32_t> load_bytes(const uint8_t *from) {
#if defined(__AVX512F__)
    return (Vector<int32_t>)_mm512_cvtepu8_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#elif defined(__AVX2__)
    return (Vector<int32_t>)_mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)));
#else
    Vector<int32_t> found;
    for (size_t l = 0; l < WIDTH<float>; l++) found[l] = from[l];
    return found;
#endif
}

Vector<float> decode_float8(const uint8_t *from) {
    auto codes = load_bytes(from), size = codes & 0x7f;
    auto normal = (Vector<float>)((size << F8_SHIFT) + int32_t(F8_BIAS));
    // The bits of 2^-6 + size * 2^-9
    auto small = (Vector<float>)((size << F8_SHIFT) + 0x3c800000) - 0x1p-6f;
    auto bits = (Vector<int32_t>)(size < 8 ? small : normal);
    bits = size == 0x7f ? Vector<int32_t>{} + 0x7fc00000 : bits;
    return (Vector<float>)(bits | (codes & 0x80) << 24);
}

void float8_to_floats(const uint8_t *from, size_t count, float *to) {
    constexpr size_t width = WIDTH<float>;
    size_t i = 0;
    for (; i + width <= count; i += width)
        store(to + i, decode_float8(from + i));
    if (i == count) return;
    uint8_t last[width] = {};
    std::copy(from + i, from + count, last);
    Vector<float> found = decode_float8(last);
    for (size_t l = 0; l < count - i; l++) to[i + l] = found[l];
}

struct Stored {
    const void *data;
    Dtype dtype;

    // Convert `count` numbers from index `start` on.
    void read(size_t start, size_t count, float *to) const {
        switch (dtype) {
        case F16:
            halves_to_floats(static_cast<const uint16_t *>(data) + start, count, to);
            break;
        case BF16: {
            auto from = static_cast<const uint16_t *>(data) + start;
            for (size_t i = 0; i < count; i++) {
                uint32_t bits = uint32_t(from[i]) << 16;
                std::memcpy(to + i, &bits, 4);
            }
            break;
        }
        case F32:
            std::memcpy(to, static_cast<const float *>(data) + start, count * 4);
            break;
        case I8: {
            auto from = static_cast<const int8_t *>(data) + start;
            for (size_t i = 0; i < count; i++) to[i] = from[i];
            break;
        }
        case F8:
            float8_to_floats(static_cast<const uint8_t *>(data) + start, count, to);
            break;
        }
    }

    void read(size_t start, size_t count, double *to) const {
        float piece[BLOCK];
        for (size_t done = 0; done < count; done += BLOCK) {
            size_t now = std::min(BLOCK, count - done);
            read(start + done, now, piece);
            for (size_t i = 0; i < now; i++) to[done + i] = piece[i];
        }
    }
};

size_t item_size(Dtype dtype) { return dtype == F32 ? 4 : dtype == I8 || dtype == F8 ? 1 : 2; }

Stored matrix(const void *data, int32_t dtype, size_t at, size_t elements) {
    auto type = static_cast<Dtype>(dtype);
    return {static_cast<const char *>(data) + at * elements * item_size(type), type};
}

}  // namespace
