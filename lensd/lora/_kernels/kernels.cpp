// The loops over the weights of a LoRA file: Gram matrices, products, rounding to int8, errors.
//
// The build compiles this file once per instruction set. All functions take b modules whose
// matrices lie one after the other, and memory for intermediate results; they allocate nothing and
// know no threads. lensd/lora/_kernels/calls.py checks all sizes before it calls them. The Python
// functions in lensd/lora compute the same and are the reference.
//
// A factor has a short side, its rank, and a long one. `down` is stored "short first" ([rank, n]),
// `up` "long first" ([m, rank]). Sums over the long side are taken in float32 over BLOCK elements
// and in float64 over the blocks; the sums of squares on a diagonal are float64 throughout, because
// their rounding errors all have one sign.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ROWS = 8;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32, ROWS = 4;
#else  // the compiler splits these vectors into what the processor has
constexpr int VECTOR_BYTES = 32, ROWS = 4;
#endif
static_assert(ROWS * sizeof(double) <= VECTOR_BYTES, "a tile's rows lie in one panel");

constexpr size_t BLOCK = 256;      // elements of the long side that are converted at a time
constexpr size_t PIECE = 64;       // rows of a product that are converted at a time
constexpr size_t ALIGNMENT = 64;   // bytes
constexpr float LEVELS = 127.0f;

enum Dtype : int32_t { F16 = 0, BF16 = 1, F32 = 2, I8 = 3 };

template <class T>
struct Simd {
    static constexpr size_t width = VECTOR_BYTES / sizeof(T);
    typedef T vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vector = typename Simd<T>::vector;
template <class T>
constexpr size_t WIDTH = Simd<T>::width;

template <class T>
Vector<T> load(const T *from) {
    return *reinterpret_cast<const Vector<T> *>(from);
}

template <class T>
void store(T *to, Vector<T> numbers) {
    *reinterpret_cast<Vector<T> *>(to) = numbers;
}

constexpr size_t round_up(size_t number, size_t step) { return (number + step - 1) / step * step; }

// Hands out pieces of the caller's memory; `begin` may be null to find out how much is needed.
class Memory {
  public:
    explicit Memory(void *begin) : begin_(static_cast<char *>(begin)) {}
    template <class T>
    T *take(size_t count) {
        T *found = begin_ ? reinterpret_cast<T *>(begin_ + used_) : nullptr;
        used_ += round_up(count * sizeof(T), ALIGNMENT);
        return found;
    }
    size_t used() const { return used_; }

  private:
    char *begin_;
    size_t used_ = 0;
};

// ---- stored numbers to float32 or float64

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

// ---- the transposition of a square of registers

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif

#if HAS_SHUFFLE
constexpr int low_lane(int lane, int step, int width) {
    return lane & step ? width + lane - step : lane;
}
constexpr int high_lane(int lane, int step, int width) {
    return lane & step ? width + lane : lane + step;
}

template <class T, int STEP, size_t... LANES>
void exchange(Vector<T> *rows, std::index_sequence<LANES...>) {
    constexpr int width = int(WIDTH<T>);
    for (int i = 0; i < width; i++) {
        if (i & STEP) continue;
        Vector<T> low = rows[i], high = rows[i + STEP];
        rows[i] = __builtin_shufflevector(low, high, low_lane(LANES, STEP, width)...);
        rows[i + STEP] = __builtin_shufflevector(low, high, high_lane(LANES, STEP, width)...);
    }
    if constexpr (STEP * 2 < width)
        exchange<T, STEP * 2>(rows, std::index_sequence<LANES...>());
}
#endif

// Write [width, count] with rows of BLOCK numbers as [count, width]; `count` is rounded up.
template <class T>
void transpose(const T *from, size_t count, T *to) {
    constexpr size_t width = WIDTH<T>;
    for (size_t column = 0; column < count; column += width) {
#if HAS_SHUFFLE
        Vector<T> rows[width];
        for (size_t i = 0; i < width; i++) rows[i] = load(from + i * BLOCK + column);
        exchange<T, 1>(rows, std::make_index_sequence<width>());
        for (size_t i = 0; i < width; i++) store(to + (column + i) * width, rows[i]);
#else
        for (size_t i = 0; i < width; i++)
            for (size_t j = 0; j < width; j++)
                to[(column + j) * width + i] = from[i * BLOCK + column + j];
#endif
    }
}

// ---- the one product: a tile of ROWS x (vectors * width) sums

template <class T, int VECTORS>
struct Tile {
    Vector<T> sums[ROWS][VECTORS];

    // sums[i][v] = sum over p < depth of a[i * a_row + p * a_step] * b[v * b_panel + p * width ...]
    void multiply(const T *a, size_t a_row, size_t a_step, const T *b, size_t b_panel,
                  size_t depth) {
        Vector<T> found[ROWS][VECTORS];
        for (int i = 0; i < ROWS; i++)
            for (int v = 0; v < VECTORS; v++) found[i][v] = Vector<T>{};
        for (size_t p = 0; p < depth; p++, a += a_step, b += WIDTH<T>) {
            Vector<T> right[VECTORS];
            for (int v = 0; v < VECTORS; v++) right[v] = load(b + v * b_panel);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                T left = a[i * a_row];
                for (int v = 0; v < VECTORS; v++) found[i][v] += left * right[v];
            }
        }
        for (int i = 0; i < ROWS; i++)
            for (int v = 0; v < VECTORS; v++) sums[i][v] = found[i][v];
    }
};

// ---- inner products along the long side

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
            transpose(rows_, whole, panel(p));
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
        bool pair = panel + 1 < b.count();
        size_t end = symmetric ? std::min(a.shorter(), (panel + 1 + pair) * WIDTH<T>) : a.shorter();
        for (size_t row = 0; row < end; row += ROWS) {
            if (pair)
                add_tile<T, 2>(a, row, b, panel, depth, sums);
            else
                add_tile<T, 1>(a, row, b, panel, depth, sums);
        }
    }
}

template <class T>
void add_squares(Panels<T> &a, size_t depth, double *squares) {
    for (size_t p = 0; p < a.count(); p++) {
        double even[WIDTH<T>] = {}, odd[WIDTH<T>] = {};
        const T *panel = a.panel(p);
        size_t i = 0;
        for (; i + 2 <= depth; i += 2, panel += 2 * WIDTH<T>)
            for (size_t l = 0; l < WIDTH<T>; l++) {
                double first = panel[l], second = panel[WIDTH<T> + l];
                even[l] += first * first;
                odd[l] += second * second;
            }
        if (i < depth)
            for (size_t l = 0; l < WIDTH<T>; l++) even[l] += double(panel[l]) * double(panel[l]);
        for (size_t l = 0; l < WIDTH<T>; l++) squares[p * WIDTH<T> + l] += even[l] + odd[l];
    }
}

// Copy sums [.., padded] to out [rows, columns]; if symmetric, from the upper half alone.
void copy_sums(const double *sums, size_t padded, size_t rows, size_t columns, bool symmetric,
               double *out) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            out[i * columns + j] = symmetric && j < i ? sums[j * padded + i] : sums[i * padded + j];
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

size_t item_size(Dtype dtype) { return dtype == F32 ? 4 : dtype == I8 ? 1 : 2; }

Stored matrix(const void *data, int32_t dtype, size_t at, size_t elements) {
    auto type = static_cast<Dtype>(dtype);
    return {static_cast<const char *>(data) + at * elements * item_size(type), type};
}

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

// ---- products along the short side

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

// ---- int8

void round_to_int8(const float *from, size_t count, float scale, int8_t *to) {
    // Adding and subtracting 1.5 * 2^23 rounds to a whole number, ties to even.
    constexpr float whole = 0x1.8p23f;
    for (size_t i = 0; i < count; i++) {
        float level = scale > 0 ? from[i] / scale : 0.0f;
        level = level < LEVELS ? level : LEVELS;  // NaN too, so that the conversion is defined
        level = level > -LEVELS ? level : -LEVELS;
        to[i] = static_cast<int8_t>((level + whole) - whole);
    }
}

// The error of rounding one factor: x are the exact numbers, y = scale * int8, and e = x - y.
class Rounding {
  public:
    Rounding(Memory &memory, size_t shorter, size_t longer, bool short_first)
        : longer_(longer), e_(memory, shorter, longer, short_first),
          y_(memory, shorter, longer, short_first) {
        for (auto &sums : sums_) sums = memory.take<double>(e_.padded() * e_.padded());
    }

    // grams [3, shorter, shorter]: e e^T, y y^T, e y^T. elements [3]: sums of x^2, e^2 and |e|.
    void run(Stored exact, Stored rounded, float scale, double *grams, double *elements) {
        size_t padded = e_.padded(), shorter = e_.shorter();
        for (auto sums : sums_) std::fill(sums, sums + padded * padded, 0.0);
        std::fill(elements, elements + 3, 0.0);
        for (size_t start = 0; start < longer_; start += BLOCK) {
            size_t now = std::min(BLOCK, longer_ - start);
            e_.fill(exact, start, now);
            y_.fill(rounded, start, now);
            for (size_t p = 0; p < e_.count(); p++)
                subtract(e_.panel(p), y_.panel(p), now, scale, elements);
            add_inner(e_, e_, now, true, sums_[0]);
            add_inner(y_, y_, now, true, sums_[1]);
            add_inner(e_, y_, now, false, sums_[2]);
        }
        for (size_t which = 0; which < 3; which++)
            copy_sums(sums_[which], padded, shorter, shorter, which < 2,
                      grams + which * shorter * shorter);
    }

  private:
    static void subtract(float *x, float *y, size_t depth, float scale, double *elements) {
        constexpr size_t width = WIDTH<float>;
        Vector<float> signal{}, squared{}, absolute{};
        for (size_t i = 0; i < depth; i++, x += width, y += width) {
            Vector<float> exact = load(x), decoded = load(y) * scale, error = exact - decoded;
            store(y, decoded);
            store(x, error);
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

    size_t longer_;
    Panels<float> e_, y_;
    double *sums_[3];
};

// ---- the largest element

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

// The largest element of up [m, rank] @ down [rank, n]. Rows and columns of large norm are
// multiplied first; where the product of two norms is not above the largest element so far, no
// element can be.
class LargestProduct {
  public:
    LargestProduct(Memory &memory, size_t m, size_t rank, size_t n)
        : m_(m), rank_(rank), n_(n), row_norms_(memory.take<float>(m)),
          column_norms_(memory.take<float>(n)), rows_(memory.take<uint32_t>(m)),
          columns_(memory.take<uint32_t>(n)), piece_(memory.take<float>(std::max(n, PIECE * rank))),
          panels_(memory.take<float>(round_up(n, STEP) * rank)),
          panel_norms_(memory.take<float>(round_up(n, STEP) / STEP)) {}

    // As int8.largest_product: max |up @ down|, or an upper bound that is at most `enough`.
    double run(Stored up, Stored down, double enough) {
        measure_norms(up, down);
        float highest_row = *std::max_element(row_norms_, row_norms_ + m_);
        float highest_column = *std::max_element(column_norms_, column_norms_ + n_);
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
                up.read(rows_[top + i] * rank_, rank_, piece_ + i * rank_);
                norm = std::max(norm, row_norms_[rows_[top + i]]);
            }
            std::fill(piece_ + now * rank_, piece_ + round_up(now, ROWS) * rank_, 0.0f);
            for (size_t column = 0; column < columns; column += STEP)
                if (panel_norms_[column / STEP] * norm > found_) search(now, column);
        }
        return found_;
    }

  private:
    static constexpr size_t STEP = 2 * WIDTH<float>;

    void measure_norms(Stored up, Stored down) {
        for (size_t start = 0; start < m_; start += PIECE) {
            size_t now = std::min(PIECE, m_ - start);
            up.read(start * rank_, now * rank_, piece_);
            for (size_t i = 0; i < now; i++) row_norms_[start + i] = norm_of(piece_ + i * rank_);
        }
        std::fill(column_norms_, column_norms_ + n_, 0.0f);
        for (size_t j = 0; j < rank_; j++) {
            down.read(j * n_, n_, piece_);
            for (size_t i = 0; i < n_; i++) column_norms_[i] += piece_[i] * piece_[i];
        }
        for (size_t i = 0; i < n_; i++) column_norms_[i] = std::sqrt(column_norms_[i]);
    }

    float norm_of(const float *row) const {
        constexpr size_t width = WIDTH<float>;
        Vector<float> squares{};
        size_t j = 0;
        for (; j + width <= rank_; j += width) squares += load(row + j) * load(row + j);
        float sum = 0;
        if (j)
            for (size_t l = 0; l < width; l++) sum += squares[l];
        for (; j < rank_; j++) sum += row[j] * row[j];
        return std::sqrt(sum);
    }

    void gather_columns(Stored down, size_t columns) {
        constexpr size_t width = WIDTH<float>;
        for (size_t p = 0; p < rank_; p++) {
            down.read(p * n_, n_, piece_);
            for (size_t i = 0; i < round_up(columns, STEP); i += width) {
                float *to = panels_ + i * rank_ + p * width;
                size_t now = i < columns ? std::min(width, columns - i) : 0;
                for (size_t l = 0; l < now; l++) to[l] = piece_[columns_[i + l]];
                for (size_t l = now; l < width; l++) to[l] = 0.0f;
            }
        }
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
    float found_ = 0;
};

}  // namespace

// ---- the interface. Each function returns the bytes of `memory` (aligned to 64) that it needs, and
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

// out [b, count], int8: exact / scale, rounded.
EXPORT size_t lensd_round(const float *exact, size_t b, size_t count, const float *scales,
                          int8_t *out) {
    for (size_t at = 0; at < b; at++)
        round_to_int8(exact + at * count, count, scales[at], out + at * count);
    return 0;
}

// grams [b, 3, shorter, shorter] and elements [b, 3] as `Rounding::run` says.
EXPORT size_t lensd_rounding(const float *exact, const int8_t *rounded, size_t b, size_t shorter,
                             size_t longer, int32_t short_first, const float *scales, double *grams,
                             double *elements, void *memory) {
    Memory given(memory);
    Rounding work(given, shorter, longer, short_first);
    for (size_t at = 0; memory && at < b; at++)
        work.run(matrix(exact, F32, at, shorter * longer),
                 matrix(rounded, I8, at, shorter * longer), scales[at],
                 grams + at * 3 * shorter * shorter, elements + at * 3);
    return given.used();
}

// out [b]: the largest |element| of up [m, rank] @ down [rank, n], or a bound below enough [b].
EXPORT size_t lensd_largest_product(int32_t dtype, const void *up, const void *down, size_t b,
                                    size_t m, size_t rank, size_t n, const double *enough,
                                    double *out, void *memory) {
    Memory given(memory);
    LargestProduct work(given, m, rank, n);
    for (size_t at = 0; memory && at < b; at++)
        out[at] = work.run(matrix(up, dtype, at, m * rank), matrix(down, dtype, at, rank * n),
                           enough[at]);
    return given.used();
}
