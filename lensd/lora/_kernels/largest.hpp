// The largest element of a tensor, and of a product of two factors.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "products.hpp"
#include "stored.hpp"
#include "vectors.hpp"

namespace {

// Without their sign the bits of floats, as whole numbers, have the order of the floats; NaN is above
// infinity.
template <class Bits>
Bits largest_bits(const void *data, size_t count) {
    auto bits = static_cast<const Bits *>(data);
    constexpr Bits magnitude = Bits(~Bits(0)) >> 1;
    Bits found = 0;
    for (size_t i = 0; i < count; i++) found = std::max(found, Bits(bits[i] & magnitude));
    return found;
}

// As `largest_bits`, lane by lane.
void raise(Vector<int32_t> &highest, Vector<float> numbers) {
    auto bits = (Vector<int32_t>)numbers & 0x7fffffff;
    highest = bits > highest ? bits : highest;
}

void raise(float &highest, int32_t bits) {
    int32_t known;
    std::memcpy(&known, &highest, 4);
    bits = std::max(known, bits);
    std::memcpy(&highest, &bits, 4);
}

double largest(Stored stored, size_t count) {
    float found;
    if (stored.dtype == F32) {
        uint32_t bits = largest_bits<uint32_t>(stored.data, count);
        std::memcpy(&found, &bits, 4);
    } else {
        uint16_t bits = largest_bits<uint16_t>(stored.data, count);
        Stored{&bits, stored.dtype}.read(0, 1, &found);
    }
    return double(found);
}

// Put the indices of the norms above the limit into descending order, as far as CLASSES tell them
// apart; return their number.
size_t order_above(const float *norms, size_t count, float limit, float highest,
                   uint32_t *indices) {
    constexpr size_t CLASSES = 256;
    size_t ends[CLASSES] = {};
    float factor = highest > limit ? float(CLASSES - 1) / (highest - limit) : 0.0f;
    auto class_of = [=](float norm) {
        return std::min(size_t((highest - norm) * factor), CLASSES - 1);
    };
    for (size_t i = 0; i < count; i++)
        if (norms[i] > limit) ends[class_of(norms[i])]++;
    size_t total = 0;
    for (auto &end : ends) {
        size_t members = end;
        end = total;
        total += members;
    }
    for (size_t i = 0; i < count; i++)
        if (norms[i] > limit) indices[ends[class_of(norms[i])]++] = uint32_t(i);
    return total;
}

// A factor [longer, rank] or [rank, longer] in floats or int8, as `LargestProduct` reads it. `work`
// has space for a row, and for PIECE rows of `rank` numbers.
struct Plain {
    Stored stored;
    size_t rank, longer;

    // Of the rows of [longer, rank].
    void row_norms(float *out, float *work) const {
        for (size_t start = 0; start < longer; start += PIECE) {
            size_t now = std::min(PIECE, longer - start);
            stored.read(start * rank, now * rank, work);
            for (size_t i = 0; i < now; i++) out[start + i] = norm_of(work + i * rank);
        }
    }

    // Of the columns of [rank, longer].
    void column_norms(float *out, float *work) const {
        std::fill(out, out + longer, 0.0f);
        for (size_t j = 0; j < rank; j++) {
            stored.read(j * longer, longer, work);
            for (size_t i = 0; i < longer; i++) out[i] += work[i] * work[i];
        }
        for (size_t i = 0; i < longer; i++) out[i] = std::sqrt(out[i]);
    }

    void read_row(size_t at, float *to) const { stored.read(at * rank, rank, to); }

    // Columns `indices` of row `row`, `step` apart for each vector of them.
    void read_columns(size_t row, const uint32_t *indices, size_t columns, size_t step, float *to,
                      float *work) const {
        constexpr size_t width = WIDTH<float>;
        stored.read(row * longer, longer, work);
        for (size_t i = 0; i < columns; i++)
            to[i / width * step + i % width] = work[indices[i]];
    }

  private:
    float norm_of(const float *row) const {
        constexpr size_t width = WIDTH<float>;
        Vector<float> squares{};
        size_t j = 0;
        for (; j + width <= rank; j += width) squares += load(row + j) * load(row + j);
        float sum = 0;
        if (j)
            for (size_t l = 0; l < width; l++) sum += squares[l];
        for (; j < rank; j++) sum += row[j] * row[j];
        return std::sqrt(sum);
    }
};

// The largest element of up [m, rank] @ down [rank, n]. Rows and columns of large norm are
// multiplied first; where the product of two norms is not above the largest element so far, no
// element can be.
class LargestProduct {
  public:
    LargestProduct(Memory &memory, size_t m, size_t rank, size_t n)
        : m_(m), rank_(rank), n_(n), row_norms_(memory.take<float>(round_up(m, WIDTH<float>))),
          column_norms_(memory.take<float>(round_up(n, WIDTH<float>))), rows_(memory.take<uint32_t>(m)),
          columns_(memory.take<uint32_t>(n)), piece_(memory.take<float>(std::max(n, PIECE * rank))),
          panels_(memory.take<float>(round_up(n, STEP) * rank)),
          panel_norms_(memory.take<float>(round_up(n, STEP) / STEP)) {}

    // As int8.largest_product: max |up @ down|, or an upper bound that is at most `enough`.
    template <class Source>
    double run(const Source &up, const Source &down, double enough) {
        up.row_norms(row_norms_, piece_);
        down.column_norms(column_norms_, piece_);
        float highest_row = highest_row_ = float(largest({row_norms_, F32}, m_));
        float highest_column = highest_column_ = float(largest({column_norms_, F32}, n_));
        found_ = float(enough * (1 - 1e-5));
        if (highest_row * highest_column <= found_) return found_;
        size_t rows = order_above(row_norms_, m_, found_ / highest_column, highest_row, rows_);
        size_t columns =
            order_above(column_norms_, n_, found_ / highest_row, highest_column, columns_);
        gather_columns(down, columns);
        for (size_t top = 0; top < rows; top += PIECE) {
            size_t now = std::min(PIECE, rows - top);
            float norm = 0;
            for (size_t i = 0; i < now; i++) {
                up.read_row(rows_[top + i], piece_ + i * rank_);
                norm = std::max(norm, row_norms_[rows_[top + i]]);
            }
            std::fill(piece_ + now * rank_, piece_ + round_up(now, ROWS) * rank_, 0.0f);
            for (size_t column = 0; column < columns; column += STEP)
                if (panel_norms_[column / STEP] * norm > found_) search(now, column);
        }
        return found_;
    }

    // The largest norms of the last rows and columns.
    double highest_row() const { return highest_row_; }
    double highest_column() const { return highest_column_; }

  private:
    static constexpr size_t STEP = 2 * WIDTH<float>;

    template <class Source>
    void gather_columns(const Source &down, size_t columns) {
        constexpr size_t width = WIDTH<float>;
        size_t whole = columns / STEP * STEP;
        std::fill(panels_ + whole * rank_, panels_ + round_up(columns, STEP) * rank_, 0.0f);
        for (size_t p = 0; p < rank_; p++)
            down.read_columns(p, columns_, columns, rank_ * width, panels_ + p * width, piece_);
        for (size_t i = 0; i < columns; i += STEP) {
            float norm = 0;
            for (size_t at = i; at < std::min(columns, i + STEP); at++)
                norm = std::max(norm, column_norms_[columns_[at]]);
            panel_norms_[i / STEP] = norm;
        }
    }

    // Multiply the rows in piece_ with two panels.
    void search(size_t rows, size_t column) {
        constexpr size_t width = WIDTH<float>;
        Vector<float> highest{};
        for (size_t row = 0; row < rows; row += ROWS) {
            Tile<float, 2> tile;
            tile.multiply(piece_ + row * rank_, rank_, 1, panels_ + column * rank_, rank_ * width,
                          rank_);
            for (int i = 0; i < ROWS; i++)
                for (int v = 0; v < 2; v++) {
                    Vector<float> sums = tile.sums[i][v], sizes = sums < 0 ? -sums : sums;
                    highest = sizes > highest ? sizes : highest;
                }
        }
        for (size_t l = 0; l < width; l++) found_ = std::max(found_, highest[l]);
    }

    size_t m_, rank_, n_;
    float *row_norms_, *column_norms_;
    uint32_t *rows_, *columns_;
    float *piece_, *panels_, *panel_norms_;
    float found_ = 0, highest_row_ = 0, highest_column_ = 0;
};

}  // namespace
