// int8 factors of a truncation of small rank.
//
// A factor of small rank is converted once, as a whole, into panels [longer / WIDTH][rank][WIDTH]
// of float32, whatever its layout is. Its long side then lies along the vectors: no lane is unused
// because the rank is small, and inner products need no transposition. Zeros fill the last panels.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "largest.hpp"
#include "truncation.hpp"
#include "vectors.hpp"

namespace {

constexpr size_t SMALL_RANK = 32, SMALL_COUNT = 16;  // before and after the truncation
constexpr size_t PANELS_AT_ONCE = 512 / WIDTH<float>;  // whose sums are float32
constexpr size_t PANELS_OF_DOUBLES = 256 / WIDTH<float>;  // they fit into the processor's first cache

// Add to sums [rows][stride][WIDTH] the products of the vectors of a [depth][a_step] and b.
template <class T, int ROWS_, int COLUMNS>
void add_dots(const T *a, size_t a_step, const T *b, size_t b_step, size_t depth, double *sums,
              size_t stride) {
    constexpr size_t width = WIDTH<T>;
    Vector<T> found[ROWS_][COLUMNS];
    for (auto &row : found)
        for (auto &sum : row) sum = Vector<T>{};
    for (size_t p = 0; p < depth; p++, a += a_step, b += b_step) {
        Vector<T> right[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) right[j] = load(b + j * width);
        for (int i = 0; i < ROWS_; i++) {
            Vector<T> left = load(a + i * width);
            for (int j = 0; j < COLUMNS; j++) found[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < ROWS_; i++)
        for (int j = 0; j < COLUMNS; j++) {
            T numbers[width];
            store(numbers, found[i][j]);
            double *to = sums + (i * stride + j) * width;
            for (size_t l = 0; l < width; l++) to[l] += numbers[l];
        }
}

// Inner products along the long side of factors a and b with few rows, in panels of T.
template <class T>
class Dots {
  public:
    Dots(Memory &memory, size_t rows, size_t columns, bool symmetric)
        : rows_(rows), columns_(columns), symmetric_(symmetric),
          sums_(memory.take<double>(rows * columns * WIDTH<T>)) {}

    void clear() { std::fill(sums_, sums_ + rows_ * columns_ * WIDTH<T>, 0.0); }

    // Add the products of `depth` panels; where it is symmetric, of what is not below the diagonal.
    void add(const T *a, const T *b, size_t depth) {
        size_t row = 0;
        for (; row + 4 <= rows_; row += 4) add_rows<4>(a, row, b, depth);
        for (; row + 2 <= rows_; row += 2) add_rows<2>(a, row, b, depth);
        for (; row < rows_; row++) add_rows<1>(a, row, b, depth);
    }

    double at(size_t i, size_t j) const {
        if (symmetric_ && j < i) std::swap(i, j);
        const double *from = sums_ + (i * columns_ + j) * WIDTH<T>;
        Vector<double> sums = load(from);
        for (size_t l = WIDTH<double>; l < WIDTH<T>; l += WIDTH<double>) sums += load(from + l);
        double sum = 0;
        for (size_t l = 0; l < WIDTH<double>; l++) sum += sums[l];
        return sum;
    }

  private:
    template <int COUNT>
    void add_rows(const T *a, size_t row, const T *b, size_t depth) {
        size_t column = symmetric_ ? row : 0;
        for (; column + 4 <= columns_; column += 4) add_tile<COUNT, 4>(a, row, b, column, depth);
        for (; column + 2 <= columns_; column += 2) add_tile<COUNT, 2>(a, row, b, column, depth);
        for (; column < columns_; column++) add_tile<COUNT, 1>(a, row, b, column, depth);
    }

    template <int COUNT, int COLUMNS>
    void add_tile(const T *a, size_t row, const T *b, size_t column, size_t depth) {
        constexpr size_t width = WIDTH<T>;
        add_dots<T, COUNT, COLUMNS>(a + row * width, rows_ * width, b + column * width,
                                    columns_ * width, depth,
                                    sums_ + (row * columns_ + column) * width, columns_);
    }

    size_t rows_, columns_;
    bool symmetric_;
    double *sums_;
};

// Panels [longer / WIDTH][count][WIDTH] of floats, as `LargestProduct` reads them.
struct FloatPanels {
    const float *data;
    size_t count, longer;

    const float *panel(size_t at) const { return data + at * count * WIDTH<float>; }

    float number(size_t at, size_t row) const {
        return panel(at / WIDTH<float>)[row * WIDTH<float> + at % WIDTH<float>];
    }

    void norms(float *out) const {
        constexpr size_t width = WIDTH<float>;
        for (size_t start = 0; start < longer; start += width) {
            const float *from = panel(start / width);
            Vector<float> squares{};
            for (size_t i = 0; i < count; i++) {
                Vector<float> row = load(from + i * width);
                squares += row * row;
            }
            store(out + start, squares);
            for (size_t l = 0; l < width; l++) out[start + l] = std::sqrt(out[start + l]);
        }
    }

    // As a factor [longer, count] and as a factor [count, longer].
    void row_norms(float *out, float *) const { norms(out); }
    void column_norms(float *out, float *) const { norms(out); }

    void read_row(size_t at, float *to) const {
        for (size_t i = 0; i < count; i++) to[i] = number(at, i);
    }

    // Columns `indices` of row `row`, `step` apart for each vector of them.
    void read_columns(size_t row, const uint32_t *indices, size_t columns, size_t step, float *to,
                      float *) const {
        constexpr size_t width = WIDTH<float>;
        for (size_t i = 0; i < columns; i++)
            to[i / width * step + i % width] = number(indices[i], row);
    }
};

// One factor of a module of small rank; it does what `Side` does.
class SmallSide : public Candidates {
  public:
    SmallSide(Memory &memory, size_t rank, size_t longer, size_t count, bool short_first)
        : Candidates(memory, rank, count), longer_(longer), short_first_(short_first),
          panels_(round_up(longer, 2 * width) / width), rows_(round_up(2 * count, ROWS)),
          stored_(memory.take<float>(panels_ * rank * width)),
          x_(memory.take<float>(panels_ * count * width)),
          q_(memory.take<float>(panels_ * count * width + width * width)),
          e_(memory.take<float>(PANELS_AT_ONCE * count * width)),
          piece_(memory.take<float>(std::max((rank + 1) * width, BLOCK))),
          a_(memory.take<float>(rows_ * rank)),
          doubles_(memory.take<double>(PANELS_OF_DOUBLES * rank * width)),
          q_doubles_(memory.take<double>(PANELS_OF_DOUBLES * count * width)),
          ee_(memory, count, count, true), qq_(memory, count, count, true),
          eq_(memory, count, count, false), crossed_(memory, rank, count, false) {}

    void set(Stored stored, const float *half, size_t stride) {
        set_half(half, stride);
        std::fill(stored_ + longer_ / width * rank_ * width, stored_ + panels_ * rank_ * width, 0.0f);
        short_first_ ? fill_short_first(stored) : fill_long_first(stored);
    }

    // As Side::measure.
    void measure(size_t first, size_t candidates, size_t start, size_t end, float *highest) {
        size_t rows = candidates * count_;
        size_t first_panel = start / width;
        size_t panels = round_up(std::min(end, longer_), 2 * width) / width;
        for (size_t c = 0; c < candidates; c++)
            transpose_small(first + c, a_ + c * count_ * rank_);
        std::fill(a_ + rows * rank_, a_ + round_up(rows, ROWS) * rank_, 0.0f);
        for (size_t row = 0; row < rows; row += ROWS) {
            Vector<int32_t> of_rows[ROWS] = {};
            for (size_t panel = first_panel; panel < panels; panel += 2) {
                Tile<float, 2> tile = multiply(row, panel);
                for (int i = 0; i < ROWS; i++)
                    for (auto &sums : tile.sums[i]) raise(of_rows[i], sums);
            }
            for (size_t i = 0; i < ROWS && row + i < rows; i++)
                for (size_t l = 0; l < width; l++)
                    raise(highest[(row + i) / count_], int32_t(of_rows[i][l]));
        }
    }

    double largest_stored() const { return largest({stored_, F32}, panels_ * rank_ * width); }
    double largest_computed() const { return largest({x_, F32}, panels_ * count_ * width); }

    void compute(size_t candidate) {
        transpose_small(candidate, a_);
        std::fill(a_ + count_ * rank_, a_ + round_up(count_, ROWS) * rank_, 0.0f);
        for (size_t row = 0; row < count_; row += ROWS)
            for (size_t panel = 0; panel < panels_; panel += 2) {
                Tile<float, 2> tile = multiply(row, panel);
                for (size_t i = 0; i < std::min(size_t(ROWS), count_ - row); i++)
                    for (size_t v = 0; v < 2; v++)
                        store(x_ + ((panel + v) * count_ + row + i) * width, tile.sums[i][v]);
            }
    }

    void copy(float scale) {
        for (size_t i = 0; i < panels_ * rank_ * width; i++) x_[i] = stored_[i] * scale;
    }

    FloatPanels exact() const { return {x_, count_, longer_}; }
    FloatPanels rounded(const int8_t *) const { return {q_, count_, longer_}; }

    void round(float scale, int8_t *out) {
        float inverse = scale > 0 ? 1 / scale : 0.0f;
        for (size_t i = 0; i < panels_ * count_ * width; i += width)
            store(q_ + i, to_level(load(x_ + i) * inverse));
        for (size_t start = 0; start < longer_; start += width) {
            const float *panel = q_ + start * count_;
            size_t now = std::min(width, longer_ - start);
            short_first_ ? write_short_first(panel, start, now, out)
                         : write_long_first(panel, start, now, out);
        }
    }

    // elements [3]: of this side alone.
    const SmallSide &measure_rounding(Stored, float scale, double *elements) {
        std::fill(elements, elements + 3, 0.0);
        for (auto sums : {&ee_, &qq_, &eq_}) sums->clear();
        for (size_t panel = 0; panel < panels_; panel += PANELS_AT_ONCE) {
            size_t depth = std::min(PANELS_AT_ONCE, panels_ - panel), at = panel * count_ * width;
            subtract(x_ + at, q_ + at, depth * count_, scale, e_, elements);
            ee_.add(e_, e_, depth);
            qq_.add(q_ + at, q_ + at, depth);
            eq_.add(e_, q_ + at, depth);
        }
        return *this;
    }

    double ee(size_t i, size_t j) const { return ee_.at(i, j); }
    double qq(size_t i, size_t j) const { return qq_.at(i, j); }
    double eq(size_t i, size_t j) const { return eq_.at(i, j); }

    // Return [rank, count]: the inner products of stored and int8 numbers.
    const double *cross(Stored) {
        crossed_.clear();
        for (size_t panel = 0; panel < panels_; panel += PANELS_OF_DOUBLES) {
            size_t depth = std::min(PANELS_OF_DOUBLES, panels_ - panel);
            widen(stored_ + panel * rank_ * width, depth, rank_, doubles_);
            widen(q_ + panel * count_ * width, depth, count_, q_doubles_);
            crossed_.add(doubles_, q_doubles_, depth * 2);
        }
        for (size_t i = 0; i < rank_; i++)
            for (size_t j = 0; j < count_; j++) doubles_[i * count_ + j] = crossed_.at(i, j);
        return doubles_;
    }

  private:
    static constexpr size_t width = WIDTH<float>;
    static_assert(WIDTH<double> * 2 == width, "a panel of floats is two of doubles");
    static_assert(PANELS_OF_DOUBLES * width >= SMALL_COUNT, "doubles_ holds all products");
    static_assert(width * width <= BLOCK, "piece_ holds a square of vectors");

    void fill_short_first(Stored stored) {
        for (size_t row = 0; row < rank_; row++)
            for (size_t start = 0; start < longer_; start += BLOCK) {
                size_t now = std::min(BLOCK, longer_ - start);
                stored.read(row * longer_ + start, now, piece_);
                for (size_t i = 0; i < now; i += width) {
                    float *to = stored_ + ((start + i) * rank_ + row * width);
                    std::copy(piece_ + i, piece_ + i + std::min(width, now - i), to);
                }
            }
    }

    void fill_long_first(Stored stored) {
        for (size_t start = 0; start < longer_; start += width) {
            size_t now = std::min(width, longer_ - start);
            stored.read(start * rank_, now * rank_, piece_);
            std::fill(piece_ + now * rank_, piece_ + width * rank_, 0.0f);
            transpose(piece_, rank_, rank_, stored_ + start * rank_);
        }
    }

    // to [count, rank]
    void transpose_small(size_t candidate, float *to) const {
        for (size_t j = 0; j < count_; j++)
            for (size_t i = 0; i < rank_; i++) to[j * rank_ + i] = small_[candidate][i * count_ + j];
    }

    Tile<float, 2> multiply(size_t row, size_t panel) const {
        Tile<float, 2> tile;
        tile.multiply(a_ + row * rank_, rank_, 1, stored_ + panel * rank_ * width, rank_ * width,
                      rank_);
        return tile;
    }

    // Write `now` columns of one panel to down [count, longer].
    void write_short_first(const float *panel, size_t start, size_t now, int8_t *out) const {
        for (size_t i = 0; i < count_; i++) {
            Bytes numbers = to_bytes(load(panel + i * width));
            int8_t *to = out + i * longer_ + start;
            now == width ? std::memcpy(to, &numbers, width) : std::memcpy(to, &numbers, now);
        }
    }

    // Write `now` columns of one panel as rows of up [longer, count].
    void write_long_first(const float *panel, size_t start, size_t now, int8_t *out) const {
        for (size_t column = 0; column < count_; column += width) {
            size_t size = std::min(width, count_ - column);
            transpose(panel + column * width, width, width, piece_);  // reads behind the panel
            for (size_t l = 0; l < now; l++) {
                Bytes numbers = to_bytes(load(piece_ + l * width));
                size_t at = (start + l) * count_ + column;
                // What is too much of one row, the next one overwrites.
                bool whole = count_ <= width && at + width <= longer_ * count_;
                whole ? std::memcpy(out + at, &numbers, width)
                      : std::memcpy(out + at, &numbers, size);
            }
        }
    }

    // Write panels [depth][count][width] as [2 depth][count][width / 2].
    static void widen(const float *from, size_t depth, size_t count, double *to) {
        constexpr size_t half = WIDTH<double>;
        for (size_t p = 0; p < depth; p++, from += count * width)
            for (size_t h = 0; h < 2; h++, to += count * half)
                for (size_t i = 0; i < count; i++)
                    for (size_t l = 0; l < half; l++)
                        to[i * half + l] = from[i * width + h * half + l];
    }

    size_t longer_;
    bool short_first_;
    size_t panels_, rows_;
    float *stored_, *x_, *q_, *e_, *piece_, *a_;
    double *doubles_, *q_doubles_;
    Dots<float> ee_, qq_, eq_;
    Dots<double> crossed_;
};

}  // namespace
