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
    if (dtype != I8) lensd_largest(dtype, data.data(), b, rank * longer, numbers.data());

    auto small = random_bits<float>(b * count * rank);
    std::vector<float> product(b * count * longer);
    Aligned memory(lensd_product(dtype, data.data(), b, rank, longer, first, nullptr, count,
                                 nullptr, nullptr));
    lensd_product(dtype, data.data(), b, rank, longer, first, small.data(), count, product.data(),
                  memory.data);

    std::vector<float> scales(b, 0.01f);
    scales[0] = 0;
    std::vector<int8_t> rounded(b * count * longer);
    lensd_round(product.data(), b, count * longer, scales.data(), rounded.data());
    std::vector<double> grams(b * 3 * count * count), elements(b * 3);
    Aligned third(lensd_rounding(nullptr, nullptr, b, count, longer, first, nullptr, nullptr,
                                 nullptr, nullptr));
    lensd_rounding(product.data(), rounded.data(), b, count, longer, first, scales.data(),
                   grams.data(), elements.data(), third.data);

    std::vector<double> enough(b, random_below(2) ? 0.0 : 1000.0);
    auto up = random_bits<float>(b * longer * rank), down = random_bits<float>(b * rank * count);
    for (int32_t of : {int32_t(F32), int32_t(I8)}) {
        Aligned fourth(lensd_largest_product(of, nullptr, nullptr, b, longer, rank, count, nullptr,
                                             nullptr, nullptr));
        lensd_largest_product(of, up.data(), down.data(), b, longer, rank, count, enough.data(),
                              numbers.data(), fourth.data);
    }
}

}  // namespace

int main() {
    std::srand(1);
    for (int round = 0; round < 300; round++) {
        size_t rank = 1 + random_below(round % 10 ? 40 : 512);
        size_t longer = 1 + random_below(round % 10 ? 600 : 100), count = 1 + random_below(70);
        try_shape(int32_t(random_below(4)), 1 + random_below(3), rank, longer, count, round % 2);
    }
    std::puts("done");
}
