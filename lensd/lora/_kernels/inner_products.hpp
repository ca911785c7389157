// Inner products along the long side of factors: Gram matrices, and those of two factors.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "stored.hpp"
#include "vectors.hpp"

namespace {

// A block of a factor as panels [short / width][BLOCK][width] of T.
template <class T>
class Panels {
  public:
    Panels(Memory &memory, size_t shorter, size_t longer, bool short_first)
        : shorter_(shorter), longer_(longer), short_first_(short_first),
          panels_(round_up(shorter, WIDTH<T>) / WIDTH<T>),
          data_(memory.take<T>(panels_ * PANEL)),
          rows_(memory.take<T>(std::max(WIDTH<T> * BLOCK, shorter) + WIDTH<T>)) {}

    static constexpr size_t PANEL = BLOCK * WIDTH<T>;

    size_t count() const { return panels_; }
    size_t padded() const { return panels_ * WIDTH<T>; }
    size_t shorter() const { return shorter_; }
    T *panel(size_t at) { return data_ + at * PANEL; }

    // Convert `now` elements from `start` on; the rest up to a whole vector becomes 0.
    void fill(Stored stored, size_t start, size_t now) {
        short_first_ ? fill_short_first(stored, start, now) : fill_long_first(stored, start, now);
    }

  private:
    void fill_short_first(Stored stored, size_t start, size_t now) {
        size_t whole = round_up(now, WIDTH<T>);
        for (size_t p = 0; p < panels_; p++) {
            for (size_t i = 0; i < WIDTH<T>; i++) {
                T *row = rows_ + i * BLOCK;
                size_t at = p * WIDTH<T> + i, filled = 0;
                if (at < shorter_) {
                    stored.read(at * longer_ + start, now, row);
                    filled = now;
                }
                std::fill(row + filled, row + whole, T(0));
            }
            transpose(rows_, BLOCK, whole, panel(p));
        }
    }

    void fill_long_first(Stored stored, size_t start, size_t now) {
        size_t last = panels_ - 1, whole = last * WIDTH<T>, step = rows_at_once();
        decltype(Vector<T>{} == Vector<T>{}) inside;
        for (size_t l = 0; l < WIDTH<T>; l++) inside[l] = l < shorter_ - whole ? -1 : 0;
        for (size_t first = 0; first < now; first += step) {
            size_t count = std::min(step, now - first);
            stored.read((start + first) * shorter_, count * shorter_, rows_);
            for (size_t i = 0; i < count; i++) {
                const T *row = rows_ + i * shorter_;
                for (size_t p = 0; p < last; p++)
                    store(panel(p) + (first + i) * WIDTH<T>, load(row + p * WIDTH<T>));
                Vector<T> end = load(row + whole);  // reads into the next row
                store(panel(last) + (first + i) * WIDTH<T>, inside ? end : Vector<T>{});
            }
        }
    }

    size_t rows_at_once() const { return std::max(size_t(1), WIDTH<T> * BLOCK / shorter_); }

    size_t shorter_, longer_;
    bool short_first_;
    size_t panels_;
    T *data_, *rows_;
};

template <class T, int VECTORS>
void add_tile(Panels<T> &a, size_t row, Panels<T> &b, size_t panel, size_t depth, double *sums) {
    constexpr size_t width = WIDTH<T>;
    Tile<T, VECTORS> tile;
    tile.multiply(a.panel(row / width) + row % width, 1, width, b.panel(panel), Panels<T>::PANEL,
                  depth);
    for (int i = 0; i < ROWS; i++) {
        T found[VECTORS * width];
        for (int v = 0; v < VECTORS; v++) store(found + v * width, tile.sums[i][v]);
        double *to = sums + (row + i) * b.padded() + panel * width;
        for (size_t l = 0; l < VECTORS * width; l++) to[l] += found[l];
    }
}

// Add a b^T of one block to sums [padded a, padded b]; if symmetric, only what is not below the
// diagonal is complete.
template <class T>
void add_inner(Panels<T> &a, Panels<T> &b, size_t depth, bool symmetric, double *sums) {
    for (size_t panel = 0; panel < b.count(); panel += 2) {
        size_t first_end = symmetric ? (panel + 1) * WIDTH<T> : a.shorter();
        size_t row = 0, end = std::min(a.shorter(), first_end);
        if (panel + 1 == b.count()) {
            for (; row < end; row += ROWS) add_tile<T, 1>(a, row, b, panel, depth, sums);
            continue;
        }
        for (; row < end; row += ROWS) add_tile<T, 2>(a, row, b, panel, depth, sums);
        if (symmetric) end = std::min(a.shorter(), (panel + 2) * WIDTH<T>);
        for (; row < end; row += ROWS) add_tile<T, 1>(a, row, b, panel + 1, depth, sums);
    }
}

// Add the sums of squares of each lane over `depth` vectors, in float64. Even and odd vectors have
// sums of their own, so that the processor need not wait for the addition before.
template <class T>
void add_squares(Panels<T> &a, size_t depth, double *squares) {
    constexpr size_t half = WIDTH<double>, halves = WIDTH<T> / half;
    typedef T Half __attribute__((vector_size(half * sizeof(T)), aligned(sizeof(T)), may_alias));
    for (size_t p = 0; p < a.count(); p++) {
        Vector<double> sums[2][halves] = {};
        for (size_t i = 0; i < depth; i++)
            for (size_t h = 0; h < halves; h++) {
                auto from = reinterpret_cast<const Half *>(a.panel(p) + i * WIDTH<T> + h * half);
                auto wide = __builtin_convertvector(*from, Vector<double>);
                sums[i % 2][h] += wide * wide;
            }
        for (size_t h = 0; h < halves; h++) {
            double *to = squares + p * WIDTH<T> + h * half;
            store(to, load(to) + (sums[0][h] + sums[1][h]));
        }
    }
}

// Copy sums [.., padded] to out [rows, columns]; if symmetric, from the upper half alone.
void copy_sums(const double *sums, size_t padded, size_t rows, size_t columns, bool symmetric,
               double *out) {
    for (size_t i = 0; i < rows; i++) {
        size_t first = symmetric ? i : 0;
        const double *row = sums + i * padded;
        std::copy(row + first, row + columns, out + i * columns + first);
    }
    if (!symmetric) return;
    // Few columns at a time: those that lie a power of two apart evict each other from the cache.
    constexpr size_t STEP = ALIGNMENT / sizeof(double);
    for (size_t left = 0; left < columns; left += STEP)
        for (size_t i = left + 1; i < rows; i++)
            for (size_t j = left; j < std::min(left + STEP, i); j++)
                out[i * columns + j] = sums[j * padded + i];
}

template <class T>
class Gram {
  public:
    Gram(Memory &memory, size_t shorter, size_t longer, bool short_first)
        : longer_(longer), panels_(memory, shorter, longer, short_first),
          sums_(memory.take<double>(panels_.padded() * panels_.padded())),
          squares_(memory.take<double>(panels_.padded())) {}

    void run(Stored stored, double *out) {
        size_t padded = panels_.padded(), shorter = panels_.shorter();
        std::fill(sums_, sums_ + padded * padded, 0.0);
        std::fill(squares_, squares_ + padded, 0.0);
        for (size_t start = 0; start < longer_; start += BLOCK) {
            size_t now = std::min(BLOCK, longer_ - start);
            panels_.fill(stored, start, now);
            add_inner(panels_, panels_, now, true, sums_);
            if (sizeof(T) < sizeof(double)) add_squares(panels_, now, squares_);
        }
        copy_sums(sums_, padded, shorter, shorter, true, out);
        if (sizeof(T) < sizeof(double))
            for (size_t i = 0; i < shorter; i++) out[i * shorter + i] = squares_[i];
    }

  private:
    size_t longer_;
    Panels<T> panels_;
    double *sums_, *squares_;
};

template <class T>
class Cross {
  public:
    Cross(Memory &memory, size_t rows, bool rows_first, size_t columns, bool columns_first,
          size_t longer)
        : longer_(longer), a_(memory, rows, longer, rows_first),
          b_(memory, columns, longer, columns_first),
          sums_(memory.take<double>(a_.padded() * b_.padded())) {}

    void run(Stored a, Stored b, double *out) {
        std::fill(sums_, sums_ + a_.padded() * b_.padded(), 0.0);
        for (size_t start = 0; start < longer_; start += BLOCK) {
            size_t now = std::min(BLOCK, longer_ - start);
            a_.fill(a, start, now);
            b_.fill(b, start, now);
            add_inner(a_, b_, now, false, sums_);
        }
        copy_sums(sums_, b_.padded(), a_.shorter(), b_.shorter(), false, out);
    }

  private:
    size_t longer_;
    Panels<T> a_, b_;
    double *sums_;
};

template <class T>
size_t cross(Stored a, size_t rows, bool rows_first, Stored b, size_t columns, bool columns_first,
             size_t modules, size_t longer, double *out, void *memory) {
    Memory given(memory);
    Cross<T> work(given, rows, rows_first, columns, columns_first, longer);
    for (size_t at = 0; memory && at < modules; at++)
        work.run(matrix(a.data, a.dtype, at, rows * longer),
                 matrix(b.data, b.dtype, at, columns * longer), out + at * rows * columns);
    return given.used();
}

template <class T>
size_t gram(int32_t dtype, const void *data, size_t b, size_t shorter, size_t longer,
            bool short_first, double *out, void *memory) {
    Memory given(memory);
    Gram<T> work(given, shorter, longer, short_first);
    for (size_t at = 0; memory && at < b; at++)
        work.run(matrix(data, dtype, at, shorter * longer), out + at * shorter * shorter);
    return given.used();
}

}  // namespace
