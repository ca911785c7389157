// A truncation in its best gauge, rounded to int8, and the error of that.

#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "largest.hpp"
#include "truncation.hpp"
#include "vectors.hpp"

namespace {

// Computes a truncation in its best gauge, rounds it to int8, and measures the error. A is the type
// of both factors.
template <class A>
class Quantizer {
  public:
    Quantizer(Memory &memory, size_t m, size_t rank, size_t n, size_t count)
        : longest_(std::max(m, n)), rank_(rank), count_(count), up_(memory, rank, m, count, false),
          down_(memory, rank, n, count, true), product_(memory, m, count, n),
          row_(memory.take<float>(round_up(count, WIDTH<float>))),
          panels_(memory.take<float>(round_up(count, WIDTH<float>) * count)) {}

    // left, right [rank, stride]: the delta weight is up @ left @ right^T @ down. rotations
    // [ROTATIONS - 1, count, count]. stored_scale: not 0 if it also is stored_scale * up @ down.
    Quantization run(Stored up, Stored down, const float *left, const float *right, size_t stride,
                     const float *rotations, double stored_scale, double guard, double slack,
                     int8_t *down_out, int8_t *up_out) {
        up_.set(up, left, stride);
        down_.set(down, right, stride);
        compute_rotated(rotations);
        measure(0, 1, 1);
        size_t best = step(0) < step(1) ? 0 : 1;
        if (stored_scale != 0) {
            highest_[0][STORED] = float(std::abs(stored_scale) * up_.largest_stored());
            highest_[1][STORED] = float(down_.largest_stored());
            if (step(STORED) < step(best)) best = STORED;
        }
        if (!fits(0) || !fits(1) || (stored_scale != 0 && !fits(STORED))) return {};
        double found = guarded(best, stored_scale, guard, slack);
        if (0 < found && found == step(best)) {  // a larger step is no better for smaller elements
            for (size_t c = 2; c < ROTATIONS; c++) rotate(c, rotations);
            size_t before = best;
            measure(2, 2, best);
            for (size_t c = 2; c < ROTATIONS; c++)
                if (step(c) < step(best)) best = c;
            if (!fits(2) || !fits(3)) return {};
            if (best != before) found = guarded(best, stored_scale, guard, slack);
        }
        float high_up = highest_[0][best], high_down = highest_[1][best];
        balance_ = high_up > 0 && high_down > 0 ? std::sqrt(double(high_down) / high_up) : 1.0;
        double scale = round(found, guard, slack, down_out, up_out);
        return measure_rounding(scale, down_out, up_out);
    }

  private:
    static constexpr size_t STORED = ROTATIONS;

    void rotate(size_t candidate, const float *rotations) {
        const float *rotation = rotations + (candidate - 1) * count_ * count_;
        fill_panels({rotation, F32}, 0, count_, count_, count_, row_, panels_);
        up_.rotate(candidate, panels_);
        down_.rotate(candidate, panels_);
    }

    // Compute the first rotated candidate, which is the best one in most modules.
    void compute_rotated(const float *rotations) {
        rotate(1, rotations);
        compute(1);
        highest_[0][1] = float(up_.largest_computed());
        highest_[1][1] = float(down_.largest_computed());
    }

    void compute(size_t candidate) {
        up_.compute(candidate);
        down_.compute(candidate);
        computed_ = candidate;
    }

    // Measure some candidates from `first` on, until a part of them shows that no step is smaller
    // than that of the candidate `best`.
    void measure(size_t first, size_t candidates, size_t best) {
        bool smaller = true;
        for (size_t start = 0, end = PIECE; smaller && start < longest_; start = end, end *= 4) {
            up_.measure(first, candidates, start, end, highest_[0] + first);
            down_.measure(first, candidates, start, end, highest_[1] + first);
            smaller = false;
            for (size_t c = first; c < first + candidates; c++)
                smaller |= !(fits(c) && step(c) >= step(best));
        }
    }

    // The square of the quantization step.
    double step(size_t candidate) const {
        return double(highest_[0][candidate]) * highest_[1][candidate] / (LEVELS * LEVELS);
    }

    bool fits(size_t candidate) const {
        return fits_in_float32(highest_[0][candidate]) && fits_in_float32(highest_[1][candidate]);
    }

    // Compute a candidate, and return its squared step, enlarged where a product is too large.
    double guarded(size_t candidate, double stored_scale, double guard, double slack) {
        if (candidate == STORED) {
            up_.copy(float(stored_scale));
            down_.copy(1.0f);
            computed_ = STORED;
        } else if (candidate != computed_) {
            compute(candidate);
        }
        double enough = guard * step(candidate);
        double found = product_.run(up_.exact(), down_.exact(), enough);
        return found <= enough ? step(candidate) : found / guard * slack * slack;
    }

    double round(double step, double guard, double slack, int8_t *down_out, int8_t *up_out) {
        // If the alpha would be too small for float32, the delta becomes zero.
        double scale = step >= double(FLT_MIN) ? std::sqrt(step) : 0.0;
        bool fits = is_within(guard, scale);
        for (;;) {
            up_.round(float(scale / balance_), up_out);
            down_.round(float(scale * balance_), down_out);
            if (fits) return scale;
            double found = product_.run(up_.rounded(up_out), down_.rounded(down_out), guard);
            if (!(found > guard)) return scale;
            scale *= std::sqrt(found / guard) * slack;
        }
    }

    // Whether the norms before rounding, which changes a number by 1/2 at most, leave no product of
    // int8 numbers above the guard.
    bool is_within(double guard, double scale) const {
        double change = 0.5 * std::sqrt(double(count_));
        double row = product_.highest_row() / scale * balance_ + change;
        double column = product_.highest_column() / scale / balance_ + change;
        return row * column < guard * (1 - 1e-5);  // not for a scale of 0
    }

    Quantization measure_rounding(double scale, const int8_t *down_out, const int8_t *up_out) {
        double of_up[3], of_down[3], u = scale / balance_, d = scale * balance_;
        Stored up_i8{up_out, I8}, down_i8{down_out, I8};
        const auto &a = up_.measure_rounding(up_i8, float(u), of_up);
        const auto &b = down_.measure_rounding(down_i8, float(d), of_down);
        Quantization found;
        found.scale = scale;
        found.add_rounding(a, b, u, d, count_);
        found.add_elements(of_up, of_down, balance_);
        found.inner = inner_product(up_.cross(up_i8), down_.cross(down_i8), rank_ * count_);
        return found;
    }

    size_t longest_, rank_, count_;
    A up_, down_;
    LargestProduct product_;
    float *row_, *panels_;
    float highest_[2][ROTATIONS + 1] = {};
    size_t computed_ = 0;
    double balance_ = 1;
};

template <class T>
using SideQuantizer = Quantizer<Side<T>>;

}  // namespace
