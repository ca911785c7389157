// Calls every kernel with random shapes and memory of exactly the size that it asks for. The test
// compiles it with AddressSanitizer and UBSan, which end the process at the first fault.

#include "../../../lensd/lora/_kernels/kernels.cpp"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

size_t random_below(size_t end) { return size_t(std::rand()) % end; }

// Numbers of any bits: NaN, infinity and subnormal ones too.
template <class T>
std::vector<T> random_bits(size_t count) {
    std::vector<T> found(count);
    auto bytes = reinterpret_cast<unsigned char *>(found.data());
    for (size_t i = 0; i < count * sizeof(T); i++) bytes[i] = (unsigned char)(std::rand() >> 7);
    return found;
}

struct Aligned {
    explicit Aligned(size_t size) : data(std::aligned_alloc(64, round_up(size, 64))) {}
    ~Aligned() { std::free(data); }
    void *data;
};

void try_shape(int32_t dtype, size_t b, size_t rank, size_t longer, size_t count, int32_t first) {
    auto data = random_bits<unsigned char>(b * rank * longer * item_size(Dtype(dtype)));
    auto other = random_bits<int8_t>(b * count * longer);
    for (int32_t exact = 0; exact < 2; exact++) {
        std::vector<double> square(b * rank * rank), crossed(b * rank * count);
        Aligned one(lensd_gram(dtype, data.data(), b, rank, longer, first, exact, nullptr, nullptr));
        lensd_gram(dtype, data.data(), b, rank, longer, first, exact, square.data(), one.data);
        Aligned two(lensd_cross(dtype, data.data(), rank, first, I8, other.data(), count, !first, b,
                                longer, exact, nullptr, nullptr));
        lensd_cross(dtype, data.data(), rank, first, I8, other.data(), count, !first, b, longer,
                    exact, crossed.data(), two.data);
    }
    std::vector<double> numbers(b);
    if (dtype < I8) lensd_largest(dtype, data.data(), b, rank * longer, numbers.data());

    auto small = random_bits<float>(b * count * rank);
    std::vector<float> product(b * count * longer);
    Aligned memory(lensd_product(dtype, data.data(), b, rank, longer, first, nullptr, count,
                                 nullptr, nullptr));
    lensd_product(dtype, data.data(), b, rank, longer, first, small.data(), count, product.data(),
                  memory.data);

}

// Give float32 and bfloat16 exponents near 0.
void make_sound(std::vector<unsigned char> &numbers, size_t size) {
    for (size_t i = size - 1; i < numbers.size(); i += size)
        numbers[i] = numbers[i] % 2 ? 0x3d : 0xbd;
}

void make_sound(std::vector<float> &numbers) {
    for (auto &number : numbers) number = float(random_below(100)) / 100 - 0.3f;
}

// Modules to be truncated, of numbers of any bits or of sound ones.
struct Modules {
    Modules(int32_t dtype, size_t b, size_t m, size_t rank, size_t n, bool sound)
        : stride(1 + random_below(rank)), size(item_size(Dtype(dtype))),
          up(random_bits<unsigned char>(b * m * rank * size)),
          down(random_bits<unsigned char>(b * rank * n * size)),
          left(random_bits<float>(b * rank * stride)), right(random_bits<float>(b * rank * stride)),
          rotations(random_bits<float>((ROTATIONS - 1) * stride * stride)), counts(b),
          addresses(b, rotations.data()), gains(2 * b, 0.0),
          found(b * sizeof(Quantization) / sizeof(double)), exact(b) {
        if (sound) {
            make_sound(up, size), make_sound(down, size);
            for (auto numbers : {&left, &right, &rotations}) make_sound(*numbers);
        }
        for (auto &count : counts) elements += (m + n) * (count = 1 + random_below(stride));
        if (counts[0] == rank) gains[0] = gains[1] = random_below(2) ? 0.5 : 0.0;
        for (auto &each : exact) each = (unsigned char)random_below(2);
    }

    size_t stride, size, elements = 0;
    std::vector<unsigned char> up, down;
    std::vector<float> left, right, rotations;
    std::vector<size_t> counts;
    std::vector<const float *> addresses;
    std::vector<double> gains, found;
    std::vector<unsigned char> exact;
};

// With sound numbers the search for the best gauge goes on to its end.
void try_quantize(int32_t dtype, size_t b, size_t m, size_t rank, size_t n, bool sound) {
    Modules of(dtype, b, m, rank, n, sound);
    std::vector<int8_t> out(of.elements);
    Aligned memory(lensd_quantize(dtype, nullptr, nullptr, b, m, rank, n, nullptr, nullptr, nullptr,
                                  of.stride, nullptr, nullptr, nullptr, 0, 0, nullptr, nullptr,
                                  nullptr));
    lensd_quantize(dtype, of.up.data(), of.down.data(), b, m, rank, n, of.counts.data(),
                   of.left.data(), of.right.data(), of.stride, of.addresses.data(),
                   of.gains.data(), reinterpret_cast<bool *>(of.exact.data()), 45000, 1.002,
                   out.data(), of.found.data(), memory.data);
}

void try_round(int32_t dtype, size_t b, size_t m, size_t rank, size_t n, bool sound) {
    static const int32_t formats[] = {F16, BF16, F8, F8};
    int32_t to = formats[random_below(4)];
    Modules of(dtype, b, m, rank, n, sound);
    std::vector<char> out(of.elements * item_size(Dtype(to)));
    Aligned memory(lensd_round(dtype, nullptr, nullptr, b, m, rank, n, nullptr, nullptr, nullptr,
                               of.stride, nullptr, nullptr, nullptr, to, nullptr, nullptr, nullptr));
    lensd_round(dtype, of.up.data(), of.down.data(), b, m, rank, n, of.counts.data(),
                of.left.data(), of.right.data(), of.stride, of.addresses.data(), of.gains.data(),
                reinterpret_cast<bool *>(of.exact.data()), to, out.data(), of.found.data(),
                memory.data);
}

}  // namespace

int main() {
    std::srand(1);
    for (int round = 0; round < 300; round++) {
        size_t rank = 1 + random_below(round % 10 ? 40 : 512);
        size_t longer = 1 + random_below(round % 10 ? 600 : 100), count = 1 + random_below(70);
        try_shape(int32_t(random_below(5)), 1 + random_below(3), rank, longer, count, round % 2);
        auto work = round % 2 ? try_quantize : try_round;
        work(int32_t(random_below(3)), 1 + random_below(3), longer, rank, count, round % 8 > 1);
    }
    std::puts("done");
}
