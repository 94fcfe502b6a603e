// Random numbers by counter: each depends on (seed, row id, place in the row) alone, not on what
// was drawn before. Integer arithmetic, +, *, / and the root only, so that every processor gives
// the same bits.
#pragma once
#include <cmath>
#include <cstdint>

#include "plain.hpp"

namespace rowwise {

struct Random4 {
    uint32_t word[4];
};

// Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011): 128 bits for
// each counter (block, row) and seed.
ROWWISE_HD inline Random4 philox(uint64_t seed, uint64_t row, uint64_t block) {
    uint32_t c[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                     static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32)};
    auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
        const uint32_t c1 = c[1], c3 = c[3];
        c[0] = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
        c[1] = static_cast<uint32_t>(b);
        c[2] = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
        c[3] = static_cast<uint32_t>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
}

// Uniform in [0, 1), a multiple of 2^-24.
ROWWISE_HD inline float uniform(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// The natural logarithm of 0 < x < 1, to float64 rounding times a few; x is not subnormal.
ROWWISE_HD inline double logarithm(double x) {
    int exponent = 0;
    double m = frexp(x, &exponent);  // x = m 2^exponent, m in [1/2, 1)
    if (m < 0.70710678118654752) {
        m *= 2;
        --exponent;
    }
    // log m = 2 artanh(t), |t| < 0.172: terms up to t^21 leave less than 2^-53.
    const double t = (m - 1) / (m + 1), square = t * t;
    double sum = 1.0 / 21;
    for (int n = 19; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2 * t * sum + exponent * 0.69314718055994531;
}

// Standard normal: the inverse of the distribution function at (bits + 1/2) / 2^32, within 1e-6 of
// it (Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, 1988, PPND7).
// Lies within -6.3..6.3.
ROWWISE_HD inline float normal(uint32_t bits) {
    const double p = (static_cast<double>(bits) + 0.5) * 0x1p-32, q = p - 0.5;
    if (q >= -0.425 && q <= 0.425) {
        const double r = 0.180625 - q * q;
        const double above =
            ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179;
        const double below = ((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1;
        return static_cast<float>(q * above / below);
    }
    const double r = sqrt(-logarithm(q < 0 ? p : 1 - p)) - 1.6;
    const double above = ((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777;
    const double below = (0.12021132975 * r + 0.73700164250) * r + 1;
    return static_cast<float>(q < 0 ? -above / below : above / below);
}

// Fills weights (rows, dim), row i with the numbers of row ids[i], or of first_id + i where ids is
// null: uniform in [low, high), or high itself where rounding says so.
void fill_uniform(float* weights, int64_t rows, int64_t dim, int64_t first_id, const int64_t* ids,
                  uint64_t seed, float low, float high);
// The same, normal with this mean and deviation.
void fill_normal(float* weights, int64_t rows, int64_t dim, int64_t first_id, const int64_t* ids,
                 uint64_t seed, float mean, float deviation);

}  // namespace rowwise
