// One factor of a truncation: its largest elements in each gauge, its numbers, and what rounding
// changed.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "inner_products.hpp"
#include "int8.hpp"
#include "largest.hpp"
#include "products.hpp"
#include "stored.hpp"
#include "vectors.hpp"

namespace {

constexpr size_t ROTATIONS = 4;  // of int8.py; the first is none

// The largest |element| of each product of one factor with several small matrices [rank, count].
class Largest {
  public:
    Largest(Memory &memory, size_t rank, size_t longer, size_t count, bool short_first)
        : rank_(rank), longer_(longer), count_(count), short_first_(short_first),
          padded_(round_up(count, short_first ? size_t(ROWS) : WIDTH<float>)),
          a_(memory.take<float>(rank * (short_first ? AT_ONCE * padded_ : PIECE))),
          row_(memory.take<float>(columns())), panels_(memory.take<float>(rank * columns())),
          highest_(memory.take<int32_t>(AT_ONCE * padded_ * WIDTH<float>)) {}

    static constexpr size_t AT_ONCE = 2;

    // Raise found [candidates] to the largest elements from `start` to `end` of the long side; to NaN
    // if an element is.
    void run(Stored stored, const float *const *small, size_t candidates, size_t start, size_t end,
             float *found) {
        std::fill(highest_, highest_ + AT_ONCE * padded_ * WIDTH<float>, 0);
        short_first_ ? run_short_first(stored, small, candidates, start, end)
                     : run_long_first(stored, small, candidates, start, end);
        size_t vectors = padded_ / (short_first_ ? size_t(ROWS) : WIDTH<float>);
        for (size_t c = 0; c < candidates; c++) {
            const int32_t *bits = highest_ + c * vectors * WIDTH<float>;
            raise(found[c], *std::max_element(bits, bits + vectors * WIDTH<float>));
        }
    }

  private:
    static constexpr size_t STEP = 2 * WIDTH<float>;

    size_t columns() const { return round_up(short_first_ ? BLOCK : AT_ONCE * padded_, STEP); }

    void run_long_first(Stored stored, const float *const *small, size_t candidates, size_t start,
                        size_t end) {
        constexpr size_t width = WIDTH<float>;
        std::fill(panels_, panels_ + rank_ * columns(), 0.0f);
        for (size_t c = 0; c < candidates; c++)
            fill_panels({small[c], F32}, 0, rank_, count_, count_, row_,
                        panels_ + c * padded_ * rank_);
        for (; start < end; start += PIECE) {
            size_t now = std::min(PIECE, end - start);
            stored.read(start * rank_, now * rank_, a_);
            std::fill(a_ + now * rank_, a_ + round_up(now, ROWS) * rank_, 0.0f);
            for (size_t column = 0; column < candidates * padded_; column += STEP) {
                Vector<int32_t> highest[2] = {load(highest_ + column),
                                              load(highest_ + column + width)};
                for (size_t row = 0; row < now; row += ROWS) {
                    Tile<float, 2> tile;
                    tile.multiply(a_ + row * rank_, rank_, 1, panels_ + column * rank_,
                                  rank_ * width, rank_);
                    for (const auto &sums : tile.sums)
                        for (int v = 0; v < 2; v++) raise(highest[v], sums[v]);
                }
                store(highest_ + column, highest[0]);
                store(highest_ + column + width, highest[1]);
            }
        }
    }

    void run_short_first(Stored stored, const float *const *small, size_t candidates, size_t start,
                         size_t end) {
        constexpr size_t width = WIDTH<float>;
        std::fill(a_, a_ + candidates * padded_ * rank_, 0.0f);
        for (size_t c = 0; c < candidates; c++)
            for (size_t i = 0; i < count_; i++)
                for (size_t j = 0; j < rank_; j++)
                    a_[(c * padded_ + i) * rank_ + j] = small[c][j * count_ + i];
        for (; start < end; start += BLOCK) {
            size_t now = std::min(BLOCK, end - start);
            if (now < BLOCK) std::fill(panels_, panels_ + rank_ * columns(), 0.0f);
            fill_panels(stored, start, rank_, now, longer_, row_, panels_);
            for (size_t row = 0; row < candidates * padded_; row += ROWS) {
                int32_t *to = highest_ + row / ROWS * width;
                Vector<int32_t> highest = load(to);
                for (size_t column = 0; column < now; column += STEP) {
                    Tile<float, 2> tile;
                    tile.multiply(a_ + row * rank_, rank_, 1, panels_ + column * rank_,
                                  rank_ * width, rank_);
                    for (const auto &row_sums : tile.sums)
                        for (const auto &sums : row_sums) raise(highest, sums);
                }
                store(to, highest);
            }
        }
    }

    size_t rank_, longer_, count_;
    bool short_first_;
    size_t padded_;
    float *a_, *row_, *panels_;
    int32_t *highest_;
};

// Small matrices [rank, count] whose products with one factor are the candidates of the gauge.
class Candidates {
  public:
    Candidates(Memory &memory, size_t rank, size_t count) : rank_(rank), count_(count) {
        for (auto &small : small_) small = memory.take<float>(round_up(rank, ROWS) * count);
    }

    void rotate(size_t candidate, const float *panels) {
        multiply_panels(small_[0], rank_, panels, count_, count_, small_[candidate], count_);
    }

  protected:
    // half [rank, stride]: the candidate without a rotation.
    void set_half(const float *half, size_t stride) {
        for (size_t i = 0; i < rank_; i++)
            std::copy(half + i * stride, half + i * stride + count_, small_[0] + i * count_);
        std::fill(small_[0] + rank_ * count_, small_[0] + round_up(rank_, ROWS) * count_, 0.0f);
    }

    size_t rank_, count_;
    float *small_[ROTATIONS];
};

// One factor of a module: its candidates, and one of them in floats.
template <class T>
class Side : public Candidates {
  public:
    Side(Memory &memory, size_t rank, size_t longer, size_t count, bool short_first)
        : Candidates(memory, rank, count), longer_(longer), short_first_(short_first),
          largest_(memory, rank, longer, count, short_first),
          product_(memory, rank, longer, count, short_first),
          cross_(memory, rank, short_first, count, short_first, longer),
          rounding_(memory, count, longer, short_first), x_(memory.take<float>(longer * count)),
          transposed_(memory.take<float>(rank * count)),
          crossed_(memory.take<double>(rank * count)) {}

    void set(Stored stored, const float *half, size_t stride) {
        stored_ = stored;
        set_half(half, stride);
    }

    // Raise highest [candidates] to the largest |element| of the candidates from `first` on, from
    // `start` to `end` of the long side. There are Largest::AT_ONCE candidates at most.
    void measure(size_t first, size_t candidates, size_t start, size_t end, float *highest) {
        largest_.run(stored_, small_ + first, candidates, start, std::min(end, longer_), highest);
    }

    double largest_computed() const { return largest(floats(), size()); }

    double largest_stored() const { return largest(stored_, longer_ * rank_); }

    void compute(size_t candidate) {
        const float *small = small_[candidate];
        if (short_first_) {
            for (size_t i = 0; i < rank_; i++)
                for (size_t j = 0; j < count_; j++) transposed_[j * rank_ + i] = small[i * count_ + j];
            small = transposed_;
        }
        product_.run(stored_, small, x_);
    }

    void copy(float scale) {
        stored_.read(0, longer_ * count_, x_);
        for (size_t i = 0; i < longer_ * count_; i++) x_[i] *= scale;
    }

    size_t size() const { return longer_ * count_; }
    Stored floats() const { return {x_, F32}; }
    Plain exact() const { return {floats(), count_, longer_}; }
    Plain rounded(const int8_t *numbers) const { return {{numbers, I8}, count_, longer_}; }
    void round(float scale, int8_t *out) const { round_to_int8(x_, size(), scale, out); }

    // elements [3]: of this side alone.
    const Rounding &measure_rounding(Stored rounded, float scale, double *elements) {
        std::fill(elements, elements + 3, 0.0);
        rounding_.run(floats(), rounded, scale, elements);
        return rounding_;
    }

    // Return [rank, count]: the inner products of stored and rounded numbers.
    const double *cross(Stored rounded) {
        cross_.run(stored_, rounded, crossed_);
        return crossed_;
    }

  protected:
    size_t longer_;
    bool short_first_;
    Stored stored_{};
    Largest largest_;
    Product product_;
    Cross<T> cross_;
    Rounding rounding_;
    float *x_, *transposed_;
    double *crossed_;
};

// Whether float32 holds numbers and their products, given the largest of them.
bool fits_in_float32(float largest) { return largest == 0 || (largest > 1e-15f && largest < 1e15f); }

// What was measured of one module.
struct Quantization {
    double scale = NAN, noise = 0;  // the scale is NaN where float32 cannot hold the factors
    double signal = 0, squared = 0, absolute = 0;  // sums over the elements of balanced factors
    double inner = 0, norm = 0;  // <delta, q> and <q, q> for q = the product of the rounded factors

    // Add what rounding both factors changed: with the errors E and F of the scaled up Y and down Z
    // that is the norm of E F + E Z + Y F.
    template <class Grams>
    void add_rounding(const Grams &a, const Grams &b, double u, double d, size_t count) {
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < count; j++) {
                double ff = b.ee(i, j), zz = d * d * b.qq(i, j);
                double fz = d * b.eq(i, j), zf = d * b.eq(j, i);
                noise += a.ee(i, j) * (ff + zz + fz + zf) + u * u * a.qq(i, j) * ff +
                         2 * u * a.eq(i, j) * (ff + zf);
                norm += a.qq(i, j) * b.qq(i, j);
            }
        noise = std::max(noise, 0.0);
    }

    void add_elements(const double *of_up, const double *of_down, double balance) {
        signal = of_up[0] * balance * balance + of_down[0] / (balance * balance);
        squared = of_up[1] * balance * balance + of_down[1] / (balance * balance);
        absolute = of_up[2] * balance + of_down[2] / balance;
    }
};

double inner_product(const double *a, const double *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

}  // namespace
