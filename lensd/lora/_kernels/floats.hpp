// Float factors of a truncation, of 8 or 16 bits.

#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "inner_products.hpp"
#include "products.hpp"
#include "stored.hpp"
#include "truncation.hpp"
#include "vectors.hpp"

namespace {

Vector<float> round_to_float8(Vector<float> x) {
    constexpr float largest = 448, whole = 0x1.8p20f, smallest = 0x1.8p14f;
    x = x < largest ? x : Vector<float>{} + largest;  // NaN too
    x = x > -largest ? x : Vector<float>{} - largest;
    // Adding 1.5 * 2^20 * 2^e rounds a number with the exponent e to 3 bits of mantissa.
    auto large = (Vector<float>)((Vector<int32_t>)x & 0x7f800000) * whole;
    large = large > smallest ? large : Vector<float>{} + smallest;
    return (x + large) - large;
}

// Numbers that float8 represents.
void encode_float8(Vector<float> x, uint8_t *to) {
    auto bits = (Vector<int32_t>)x, size = bits & 0x7fffffff;
    auto normal = (size - int32_t(F8_BIAS)) >> int32_t(F8_SHIFT);
    auto small = (Vector<int32_t>)((Vector<float>)size + 0x1p14f) & 7;  // steps of 2^-9
    auto found = (size < 0x3c800000 ? small : normal) | ((bits >> 24) & 0x80);
    for (size_t l = 0; l < WIDTH<float>; l++) to[l] = uint8_t(found[l]);
}

#if !defined(__F16C__)
uint16_t float_to_half(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 2^16
    if (size < 0x38800000) {  // steps of 2^-24, which adding 0.5 leaves
        float large;
        std::memcpy(&large, &size, 4);
        large += 0.5f;
        std::memcpy(&size, &large, 4);
        return uint16_t(sign | (size & 0x7ff));
    }
    return uint16_t(sign | (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13);
}
#endif

void encode_half(Vector<float> x, uint16_t *to) {
#if defined(__AVX512F__)
    auto halves = _mm512_cvtps_ph(__m512(x), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), halves);
#elif defined(__F16C__)
    auto halves = _mm256_cvtps_ph(__m256(x), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), halves);
#else
    for (size_t l = 0; l < WIDTH<float>; l++) to[l] = float_to_half(x[l]);
#endif
}

void encode_bfloat16(Vector<float> x, uint16_t *to) {
    auto bits = (Vector<int32_t>)x;
    auto rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    auto found = x == x ? rounded : Vector<int32_t>{} + 0x7fc0;
    for (size_t l = 0; l < WIDTH<float>; l++) to[l] = uint16_t(found[l]);
}

// Round to the nearest numbers of a dtype.
void round_to(Dtype dtype, const float *from, size_t count, void *out) {
    constexpr size_t width = WIDTH<float>;
    size_t size = item_size(dtype);
    float last[width] = {};
    for (size_t i = 0; i < count; i += width) {
        size_t now = std::min(width, count - i);
        if (now < width) std::copy(from + i, from + count, last);
        Vector<float> x = load(now < width ? last : from + i);
        uint16_t found[width];
        if (dtype == F8)
            encode_float8(round_to_float8(x), reinterpret_cast<uint8_t *>(found));
        else if (dtype == F16)
            encode_half(x, found);
        else
            encode_bfloat16(x, found);
        std::memcpy(static_cast<char *>(out) + i * size, found, now * size);
    }
}

// Rounds a factor to float8 with errors that cancel each other: see float8.py.
class Feedback {
  public:
    Feedback(Memory &memory, size_t count)
        : count_(count), metric_(memory.take<double>(count * count)),
          pivots_(memory.take<double>(count)), shares_(memory.take<float>(count * count)),
          row_(memory.take<float>(STEP)), rounded_(memory.take<float>(STEP * count)),
          errors_(memory.take<float>(STEP * count)) {}

    // [count, count]: the metric of the errors, which `prepare` overwrites.
    double *metric() { return metric_; }

    // Decompose the metric into L D L^T with ones on the diagonal of L: its elements are the shares.
    void prepare() {
        double highest = 0;
        for (size_t i = 0; i < count_; i++) highest = std::max(highest, metric_[i * (count_ + 1)]);
        for (size_t i = 0; i < count_; i++) {
            double &own = metric_[i * (count_ + 1)];
            own += DAMPING * highest;
            if (own <= double(FLT_MIN)) own = 1;
        }
        for (size_t j = 0; j < count_; j++) {
            const double *row = metric_ + j * count_;
            double pivot = pivots_[j] = row[j];
            if (!(pivot > 0)) {
                std::fill(shares_, shares_ + count_ * count_, 0.0f);
                return;
            }
            for (size_t i = j + 1; i < count_; i++) {
                double share = row[i] / pivot, *below = metric_ + i * count_;
                shares_[j * count_ + i] = float(share);
                for (size_t l = i; l < count_; l++) below[l] -= share * row[l];
            }
        }
    }

    // x, out [count, longer] or [longer, count].
    void run(const float *x, size_t longer, bool short_first, uint8_t *out) {
        for (size_t start = 0; start < longer; start += STEP) {
            size_t now = std::min(STEP, longer - start);
            if (short_first)
                fill_panels({x, F32}, start, count_, now, longer, row_, rounded_);
            else
                fill_transposed(x + start * count_, now);
            for (size_t end = count_; end > 0;) {
                size_t top = (end - 1) / ROWS * ROWS;
                round_rows(top, end);
                end = top;
            }
            for (size_t i = 0; i < now; i += width) {
                size_t left = std::min(width, now - i);
                if (short_first)
                    write(i, left, out + start + i, longer, 1);
                else
                    write(i, left, out + (start + i) * count_, 1, count_);
            }
        }
    }

  private:
    static constexpr size_t width = WIDTH<float>;
    static constexpr int PAIRS = 2;  // of vectors: more of them hide how long one row takes
    static constexpr size_t STEP = 2 * PAIRS * width;
    static constexpr double DAMPING = 1e-6;

    void fill_transposed(const float *x, size_t now) {
        for (size_t l = 0; l < now; l++)
            for (size_t j = 0; j < count_; j++)
                rounded_[l / width * count_ * width + j * width + l % width] = x[l * count_ + j];
    }

    // Round the rows from `end` - 1 to `top`, ROWS at most.
    void round_rows(size_t top, size_t end) {
        Tile<float, 2> tiles[PAIRS];
        for (int pair = 0; pair < PAIRS; pair++)
            tiles[pair].multiply(shares_ + top * count_ + end, count_, 1,
                                 errors_ + (2 * pair * count_ + end) * width, count_ * width,
                                 count_ - end);
        for (size_t row = end; row-- > top;)
            for (int v = 0; v < 2 * PAIRS; v++) {
                float *own = rounded_ + (v * count_ + row) * width;
                const float *errors = errors_ + v * count_ * width;
                Vector<float> exact = load(own), wanted = exact + tiles[v / 2].sums[row - top][v % 2];
                for (size_t i = row + 1; i < end; i++)
                    wanted += shares_[row * count_ + i] * load(errors + i * width);
                Vector<float> rounded = round_to_float8(wanted);
                store(own, rounded);
                store(errors_ + (v * count_ + row) * width, exact - rounded);
            }
    }

    void write(size_t column, size_t now, uint8_t *out, size_t row_step, size_t column_step) {
        const float *from = rounded_ + column * count_;
        for (size_t j = 0; j < count_; j++) {
            uint8_t found[width];
            encode_float8(load(from + j * width), found);
            for (size_t l = 0; l < now; l++) out[j * row_step + l * column_step] = found[l];
        }
    }

    size_t count_;
    double *metric_, *pivots_;
    float *shares_, *row_, *rounded_, *errors_;
};

template <class T>
class FloatSide : public Side<T> {
  public:
    FloatSide(Memory &memory, size_t rank, size_t longer, size_t count, bool short_first)
        : Side<T>(memory, rank, longer, count, short_first),
          quick_(memory, count, longer, short_first), exact_(memory, count, longer, short_first),
          grams_(memory.take<double>(count * count)), piece_(memory.take<float>(longer + count)),
          other_(memory.take<uint8_t>(longer * count)), errors_(memory.take<double>(count)),
          squares_(memory.take<double>(count)) {}

    bool fits() const { return fits_in_float32(float(largest(this->floats(), this->size()))); }

    double mean_square() const {
        double sum = 0;
        for (size_t j = 0; j < this->count_; j++) sum += squares_[j];
        return sum / double(this->size());
    }

    // [count], of `sum_up`.
    const double *squares() const { return squares_; }
    const double *errors() const { return errors_; }

    void multiply(float number) {
        for (size_t i = 0; i < this->size(); i++) this->x_[i] *= number;
    }

    void gram(Stored factor, double *out) { quick_.run(factor, out); }

    const double *gram(Stored rounded) {
        exact_.run(rounded, grams_);
        return grams_;
    }

    void round(Feedback &feedback, uint8_t *out) const {
        feedback.run(this->x_, this->longer_, this->short_first_, out);
    }

    void round(Dtype dtype, void *out) const { round_to(dtype, this->x_, this->size(), out); }
    uint8_t *other() { return other_; }

    // Sum up the squares of the exact numbers and of their errors for each rank.
    void sum_up(const Stored *rounded) {
        size_t count = this->count_, step = this->short_first_ ? this->longer_ : count;
        std::fill(squares_, squares_ + count, 0.0);
        std::fill(errors_, errors_ + count, 0.0);
        for (size_t start = 0; start < this->size(); start += step) {
            const float *x = this->x_ + start;
            if (rounded) rounded->read(start, step, piece_);
            if (this->short_first_) {
                squares_[start / step] = sum_squares(x, step, nullptr);
                if (rounded) errors_[start / step] = sum_squares(x, step, piece_);
                continue;
            }
            if (rounded)
                for (size_t j = 0; j < count; j++) errors_[j] += square(x[j] - piece_[j]);
            for (size_t j = 0; j < count; j++) squares_[j] += square(x[j]);
        }
    }

  private:
    static float square(float x) { return x * x; }

    static double sum_squares(const float *x, size_t count, const float *from) {
        double sums[WIDTH<double>] = {};
        size_t i = 0;
        for (; i + WIDTH<double> <= count; i += WIDTH<double>)
            for (size_t l = 0; l < WIDTH<double>; l++) {
                double each = from ? x[i + l] - from[i + l] : x[i + l];
                sums[l] += each * each;
            }
        double sum = 0;
        for (; i < count; i++) {
            double each = from ? x[i] - from[i] : x[i];
            sum += each * each;
        }
        for (double each : sums) sum += each;
        return sum;
    }

    Gram<float> quick_;
    Gram<T> exact_;
    double *grams_;
    float *piece_;
    uint8_t *other_;
    double *errors_, *squares_;
};

// Computes a truncation, rounds it to floats, and measures the error. T is the type of the inner
// products with the stored factors, and of the norm.
template <class T>
class FloatRounder {
  public:
    FloatRounder(Memory &memory, size_t m, size_t rank, size_t n, size_t count)
        : m_(m), rank_(rank), n_(n), count_(count), up_(memory, rank, m, count, false),
          down_(memory, rank, n, count, true), feedback_(memory, count),
          row_(memory.take<float>(round_up(count, WIDTH<float>))),
          panels_(memory.take<float>(round_up(count, WIDTH<float>) * count)) {}

    // left, right [rank, stride]: the delta weight is up @ left @ right^T @ down. rotation
    // [count, count]. gains [2]: not 0 if it also is gains[0] * up @ gains[1] * down.
    Quantization run(Stored up, Stored down, const float *left, const float *right, size_t stride,
                     const float *rotation, const double *gains, Dtype dtype, void *down_out,
                     void *up_out) {
        up_.set(up, left, stride);
        down_.set(down, right, stride);
        Stored of_up{up_out, dtype}, of_down{down_out, dtype};
        Quantization found;
        if (dtype == F8) {
            found = round_to_best(rotation, gains, static_cast<uint8_t *>(down_out),
                                  static_cast<uint8_t *>(up_out));
        } else if (compute(0, gains)) {
            up_.round(dtype, up_out);
            down_.round(dtype, down_out);
            found = measure(of_up, of_down);
        }
        if (found.scale != 1) return {};
        found.norm = inner_product(up_.gram(of_up), down_.gram(of_down), count_ * count_);
        found.inner = inner_product(up_.cross(of_up), down_.cross(of_down), rank_ * count_);
        return found;
    }

  private:
    // Compute a candidate, or take the stored factors if gains are given; false if it does not fit.
    bool compute(size_t candidate, const double *gains) {
        if (gains && gains[0] != 0) {
            up_.copy(float(gains[0]));
            down_.copy(float(gains[1]));
        } else {
            up_.compute(candidate);
            down_.compute(candidate);
        }
        return up_.fits() && down_.fits();
    }

    Quantization round_to_best(const float *rotation, const double *gains, uint8_t *down_out,
                               uint8_t *up_out) {
        fill_panels({rotation, F32}, 0, count_, count_, count_, row_, panels_);
        up_.rotate(1, panels_);
        down_.rotate(1, panels_);
        if (!compute(1, nullptr)) return {};
        balance();
        up_.gram(up_.floats(), feedback_.metric());
        feedback_.prepare();
        down_.round(feedback_, down_out);
        down_.gram({down_out, F8}, feedback_.metric());
        feedback_.prepare();
        up_.round(feedback_, up_out);
        Quantization best = measure({up_out, F8}, {down_out, F8});
        for (const double *each : {static_cast<const double *>(nullptr), gains}) {
            if (each == gains && gains[0] == 0) continue;
            if (!compute(0, each)) return {};
            up_.round(F8, up_.other());
            down_.round(F8, down_.other());
            Stored of_up{up_.other(), F8}, of_down{down_.other(), F8};
            if (!(estimate(of_up, of_down) <= best.noise * margin())) continue;
            Quantization found = measure(of_up, of_down);
            if (best.noise <= found.noise) continue;
            best = found;
            std::copy(up_.other(), up_.other() + up_.size(), up_out);
            std::copy(down_.other(), down_.other() + down_.size(), down_out);
        }
        return best;
    }

    // Give the elements of both factors the same size.
    void balance() {
        up_.sum_up(nullptr);
        down_.sum_up(nullptr);
        double balance = std::pow(down_.mean_square() / up_.mean_square(), 0.25);
        if (!(balance > 0 && balance < HUGE_VAL)) return;
        up_.multiply(float(balance));
        down_.multiply(float(1 / balance));
    }

    // The squared error of a product if errors of different ranks are independent of each other.
    double estimate(Stored of_up, Stored of_down) {
        up_.sum_up(&of_up);
        down_.sum_up(&of_down);
        return inner_product(up_.errors(), down_.squares(), count_) +
               inner_product(up_.squares(), down_.errors(), count_);
    }

    // By how much an estimate may be too large: less for a delta weight of many elements.
    double margin() const { return 1.02 + 8 / std::sqrt(double(m_) * double(n_)); }

    Quantization measure(Stored of_up, Stored of_down) {
        double up[3], down[3];
        const Rounding &a = up_.measure_rounding(of_up, 1, up);
        const Rounding &b = down_.measure_rounding(of_down, 1, down);
        Quantization found;
        found.scale = 1;
        found.add_rounding(a, b, 1, 1, count_);
        found.add_elements(up, down, 1);
        return found;
    }

    size_t m_, rank_, n_, count_;
    FloatSide<T> up_, down_;
    Feedback feedback_;
    float *row_, *panels_;
};

// The bytes that a module of the largest rank needs, whatever the type of its inner products is.
template <template <class> class Work>
size_t needed(size_t m, size_t rank, size_t n, size_t count) {
    Memory for_floats(nullptr), for_doubles(nullptr);
    Work<float> quick(for_floats, m, rank, n, count);
    Work<double> slow(for_doubles, m, rank, n, count);
    return std::max(for_floats.used(), for_doubles.used());
}

}  // namespace
