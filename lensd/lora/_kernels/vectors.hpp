// Vectors of the instruction set, pieces of memory, and the two operations on squares of registers.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ROWS = 8;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32, ROWS = 4;
#else  // the compiler splits these vectors into what the processor has
constexpr int VECTOR_BYTES = 32, ROWS = 4;
#endif
static_assert(ROWS * sizeof(double) <= VECTOR_BYTES, "a tile's rows lie in one panel");

constexpr size_t ALIGNMENT = 64;  // bytes

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

// The transposition of a square of registers

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

// Write [width, count] with rows of `stride` numbers as [count, width]; it reads one vector more.
template <class T>
void transpose(const T *from, size_t stride, size_t count, T *to) {
    constexpr size_t width = WIDTH<T>;
    for (size_t column = 0; column < count; column += width) {
        size_t now = std::min(width, count - column);
#if HAS_SHUFFLE
        Vector<T> rows[width];
        for (size_t i = 0; i < width; i++) rows[i] = load(from + i * stride + column);
        exchange<T, 1>(rows, std::make_index_sequence<width>());
        if (now == width)
            for (size_t i = 0; i < width; i++) store(to + (column + i) * width, rows[i]);
        else
            for (size_t i = 0; i < now; i++) store(to + (column + i) * width, rows[i]);
#else
        for (size_t i = 0; i < width; i++)
            for (size_t j = 0; j < now; j++)
                to[(column + j) * width + i] = from[i * stride + column + j];
#endif
    }
}

// The one product: a tile of ROWS x (vectors * width) sums

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

}  // namespace
