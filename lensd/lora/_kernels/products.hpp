// Products of factors and small matrices, along the short side.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "stored.hpp"
#include "vectors.hpp"

namespace {

constexpr size_t PIECE = 64;  // rows of a product that are converted at a time

// Write the first `count` numbers of a vector.
void store_first(float *to, Vector<float> numbers, size_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), __m512(numbers));
#elif defined(__AVX2__)
    static const int32_t bits[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    auto mask = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(bits + 8 - count));
    _mm256_maskstore_ps(to, mask, __m256(numbers));
#else
    for (size_t l = 0; l < count; l++) to[l] = numbers[l];
#endif
}

template <int VECTORS>
void write_tile(const Tile<float, VECTORS> &tile, size_t rows, size_t columns, float *out,
                size_t stride) {
    constexpr size_t width = WIDTH<float>;
    for (size_t i = 0; i < rows; i++, out += stride) {
        for (int v = 0; v + 1 < VECTORS; v++) store(out + v * width, tile.sums[i][v]);
        size_t left = columns - (VECTORS - 1) * width;
        if (left == width)
            store(out + (VECTORS - 1) * width, tile.sums[i][VECTORS - 1]);
        else
            store_first(out + (VECTORS - 1) * width, tile.sums[i][VECTORS - 1], left);
    }
}

// out [rows, columns] = a [rows padded, depth] @ panels [columns / width][depth][width]
void multiply_panels(const float *a, size_t rows, const float *panels, size_t columns, size_t depth,
                     float *out, size_t stride) {
    constexpr size_t width = WIDTH<float>;
    for (size_t column = 0; column < columns; column += 2 * width) {
        const float *b = panels + column * depth;
        size_t left = std::min(columns - column, 2 * width);
        for (size_t row = 0; row < rows; row += ROWS) {
            size_t high = std::min(rows - row, size_t(ROWS));
            float *to = out + row * stride + column;
            if (left > width) {
                Tile<float, 2> tile;
                tile.multiply(a + row * depth, depth, 1, b, depth * width, depth);
                write_tile(tile, high, left, to, stride);
            } else {
                Tile<float, 1> tile;
                tile.multiply(a + row * depth, depth, 1, b, depth * width, depth);
                write_tile(tile, high, left, to, stride);
            }
        }
    }
}

// Write rows [depth, columns], which lie `stride` apart from `start` on, as panels.
void fill_panels(Stored stored, size_t start, size_t depth, size_t columns, size_t stride,
                 float *row, float *panels) {
    constexpr size_t width = WIDTH<float>;
    size_t whole = round_up(columns, width);
    std::fill(row + columns, row + whole, 0.0f);
    for (size_t i = 0; i < depth; i++) {
        stored.read(start + i * stride, columns, row);
        for (size_t column = 0; column < whole; column += width)
            store(panels + column * depth + i * width, load(row + column));
    }
}

// The product of a stored factor and a small matrix.
class Product {
  public:
    Product(Memory &memory, size_t rank, size_t longer, size_t count, bool short_first)
        : rank_(rank), longer_(longer), count_(count), short_first_(short_first),
          a_(memory.take<float>(round_up(short_first ? count : PIECE, ROWS) * rank)),
          row_(memory.take<float>(panel_columns())),
          panels_(memory.take<float>(panel_columns() * rank)) {}

    // out [count, longer] = small [count, rank] @ stored [rank, longer], or
    // out [longer, count] = stored [longer, rank] @ small [rank, count]
    void run(Stored stored, const float *small, float *out) {
        if (short_first_) {
            std::copy(small, small + count_ * rank_, a_);
            std::fill(a_ + count_ * rank_, a_ + round_up(count_, ROWS) * rank_, 0.0f);
            for (size_t start = 0; start < longer_; start += BLOCK) {
                size_t now = std::min(BLOCK, longer_ - start);
                fill_panels(stored, start, rank_, now, longer_, row_, panels_);
                multiply_panels(a_, count_, panels_, now, rank_, out + start, longer_);
            }
            return;
        }
        fill_panels({small, F32}, 0, rank_, count_, count_, row_, panels_);
        for (size_t start = 0; start < longer_; start += PIECE) {
            size_t now = std::min(PIECE, longer_ - start);
            stored.read(start * rank_, now * rank_, a_);
            std::fill(a_ + now * rank_, a_ + round_up(now, ROWS) * rank_, 0.0f);
            multiply_panels(a_, now, panels_, count_, rank_, out + start * count_, count_);
        }
    }

  private:
    size_t panel_columns() const {
        return round_up(short_first_ ? BLOCK : count_, 2 * WIDTH<float>);
    }

    size_t rank_, longer_, count_;
    bool short_first_;
    float *a_, *row_, *panels_;
};

}  // namespace
