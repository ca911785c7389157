// Rounding to int8, and its error.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "inner_products.hpp"
#include "stored.hpp"
#include "vectors.hpp"

namespace {

constexpr float LEVELS = 127.0f;

// Adding 1.5 * 2^23 rounds to a whole number, ties to even, which the low bits then are.
constexpr float WHOLE = 0x1.8p23f;

Vector<float> clamp(Vector<float> level) {
    level = level < LEVELS ? level : Vector<float>{} + LEVELS;  // NaN too
    return level > -LEVELS ? level : Vector<float>{} - LEVELS;
}

Vector<float> to_level(Vector<float> number) { return (clamp(number) + WHOLE) - WHOLE; }

typedef int8_t Bytes __attribute__((vector_size(WIDTH<float>)));

Bytes to_bytes(Vector<float> level) {
    auto bits = (Vector<int32_t>)(level + WHOLE);
#if defined(__AVX512F__)
    return (Bytes)_mm512_cvtepi32_epi8((__m512i)bits);
#else
    Bytes found;
    for (size_t l = 0; l < WIDTH<float>; l++) found[l] = int8_t(bits[l]);
    return found;
#endif
}

void round_to_int8(const float *from, size_t count, float scale, int8_t *to) {
    constexpr size_t width = WIDTH<float>;
    float inverse = scale > 0 ? 1 / scale : 0.0f, last[width] = {};
    for (size_t i = 0; i < count; i += width) {
        size_t now = std::min(width, count - i);
        if (now < width) std::copy(from + i, from + count, last);
        Bytes found = to_bytes(clamp(load(now < width ? last : from + i) * inverse));
        std::memcpy(to + i, &found, now);
    }
}

// Write errors = x - scale * q, and add to elements [3] the sums of x^2, errors^2 and |errors|.
void subtract(const float *x, const float *q, size_t vectors, float scale, float *errors,
              double *elements) {
    constexpr size_t width = WIDTH<float>;
    Vector<float> signal{}, squared{}, absolute{};
    for (size_t i = 0; i < vectors * width; i += width) {
        Vector<float> exact = load(x + i), error = exact - load(q + i) * scale;
        store(errors + i, error);
        signal += exact * exact;
        squared += error * error;
        absolute += error < 0 ? -error : error;
    }
    for (size_t l = 0; l < width; l++) {
        elements[0] += double(signal[l]);
        elements[1] += double(squared[l]);
        elements[2] += double(absolute[l]);
    }
}

// The error of rounding one factor: x are the exact numbers, q the rounded, and e = x - scale * q.
class Rounding {
  public:
    Rounding(Memory &memory, size_t shorter, size_t longer, bool short_first)
        : longer_(longer), e_(memory, shorter, longer, short_first),
          q_(memory, shorter, longer, short_first) {
        for (auto &sums : sums_) sums = memory.take<double>(e_.padded() * e_.padded());
    }

    // Fill the grams and add to elements [3] the sums of x^2, e^2 and |e|.
    void run(Stored exact, Stored rounded, float scale, double *elements) {
        size_t padded = e_.padded();
        for (auto sums : sums_) std::fill(sums, sums + padded * padded, 0.0);
        for (size_t start = 0; start < longer_; start += BLOCK) {
            size_t now = std::min(BLOCK, longer_ - start);
            e_.fill(exact, start, now);
            q_.fill(rounded, start, now);
            for (size_t p = 0; p < e_.count(); p++)
                subtract(e_.panel(p), q_.panel(p), now, scale, e_.panel(p), elements);
            add_inner(e_, e_, now, true, sums_[0]);
            add_inner(q_, q_, now, true, sums_[1]);
            add_inner(e_, q_, now, false, sums_[2]);
        }
    }

    double ee(size_t i, size_t j) const { return symmetric(sums_[0], i, j); }
    double qq(size_t i, size_t j) const { return symmetric(sums_[1], i, j); }
    double eq(size_t i, size_t j) const { return sums_[2][i * e_.padded() + j]; }

  private:
    double symmetric(const double *sums, size_t i, size_t j) const {
        return sums[std::min(i, j) * e_.padded() + std::max(i, j)];
    }

    size_t longer_;
    Panels<float> e_, q_;
    double *sums_[3];
};

}  // namespace
