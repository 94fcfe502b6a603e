// Tables whose weights are stored in 16 bits: bfloat16 or float16. All arithmetic is float32, and
// so are the slots. A row is widened, worked on as any other, and rounded back.
//
// Rounded to nearest, ties to even, a weight is what dense training makes it that rounds after each
// of its steps: the steps that a row missed are gone through one by one, up to where none of those
// that are left can change a weight any more. Rounded at random, it is rounded where a step touches
// its row, not by the steps in between: see docs/exactness.md.
#pragma once
#include <bit>
#include <cstdint>

#include "kernels.hpp"
#include "plain.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

// What a number is stored as. Selections in place of branches: loops over rows become vectors.
struct BFloat16 {
    static float widen(uint16_t h) { return std::bit_cast<float>(uint32_t{h} << 16); }
    static uint16_t narrow(float exact) {
        return static_cast<uint16_t>(std::bit_cast<uint32_t>(exact) >> 16);
    }
    // `noise` below 2^16 is added to what is cut off.
    static float cut(float x, uint32_t noise) {
        const uint32_t u = std::bit_cast<uint32_t>(x);
        const uint32_t cut = (u + noise) & 0xffff0000u, quiet = (u | 0x400000u) & 0xffff0000u;
        return std::bit_cast<float>(x != x ? quiet : cut);
    }
    static float nearest(float x) {
        return cut(x, 0x7fffu + ((std::bit_cast<uint32_t>(x) >> 16) & 1));
    }
    static float random(float x, uint32_t bits) { return cut(x, bits >> 16); }
};

struct Float16 {
    static constexpr float kSmallestNormal16 = 0x1p-14f, kTooLarge = 65536.0f;

    static float widen(uint16_t h) {
        const uint32_t sign = uint32_t{h & 0x8000u} << 16, size = h & 0x7fffu;
        const float small = static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f;
        const uint32_t normal = (size << 13) + (size >= 0x7c00u ? 0x70000000u : 0x38000000u);
        return std::bit_cast<float>((size < 0x400u ? std::bit_cast<uint32_t>(small) : normal) |
                                    sign);
    }
    static uint16_t narrow(float exact) {
        const uint32_t u = std::bit_cast<uint32_t>(exact), size = u & 0x7fffffffu;
        const float positive = std::bit_cast<float>(size);
        const bool is_small = positive < kSmallestNormal16;
        const auto small =
            static_cast<uint32_t>(static_cast<int32_t>((is_small ? positive : 0.0f) * 0x1p24f));
        const uint32_t normal = (size >> 13) - (size >= 0x7f800000u ? 0x38000u : 0x1c000u);
        return static_cast<uint16_t>((is_small ? small : normal) | (u >> 16 & 0x8000u));
    }
    // Rounds a size of x that is at least 2^-14 by cutting `noise` more than it, or takes `small`.
    static float choose(float x, uint32_t noise, float small) {
        const uint32_t u = std::bit_cast<uint32_t>(x), size = u & 0x7fffffffu;
        const float positive = std::bit_cast<float>(size);
        const uint32_t cut = (size + noise) & 0xffffe000u;
        const uint32_t normal = cut >= std::bit_cast<uint32_t>(kTooLarge) ? 0x7f800000u : cut;
        const uint32_t rounded =
            positive < kSmallestNormal16 ? std::bit_cast<uint32_t>(small) : normal;
        return std::bit_cast<float>((x != x ? 0x7fc00000u : rounded) | (u & 0x80000000u));
    }
    static float nearest(float x) {
        const uint32_t u = std::bit_cast<uint32_t>(x);
        const float positive = std::bit_cast<float>(u & 0x7fffffffu);
        // Multiples of 2^-24 are what float32 holds next to 3/4.
        return choose(x, 0xfffu + ((u >> 13) & 1), (positive + 0.75f) - 0.75f);
    }
    static float random(float x, uint32_t bits) {
        const float positive = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
        const float scaled = positive < kSmallestNormal16 ? positive * 0x1p24f : 0.0f;
        const float raised =
            scaled + static_cast<float>(static_cast<int32_t>(bits >> 19)) * 0x1p-13f;
        return choose(x, bits >> 19, static_cast<float>(static_cast<int32_t>(raised)) * 0x1p-24f);
    }
};

// Calls f with the class of a storage that is not float32.
template <class F>
inline void with_half(Storage storage, F&& f) {
    if (storage == Storage::bfloat16)
        f(BFloat16{});
    else
        f(Float16{});
}

// The kernels of such tables, described in kernels.hpp.
void gather_half(const TableView&, const Rule&, const Clock&, const int64_t* ids, int64_t n,
                 float* out);
// out (end - begin, dim) <- those of rows ids[begin..end) of the n, by this thread.
void gather_half_rows(const TableView&, const Rule&, const Clock&, const int64_t* ids, int64_t n,
                      int64_t begin, int64_t end, float* out);
void update_half(const TableView&, const Rule&, const Clock&, const Step&, const Plan&,
                 const float* gradients);
void materialize_half(const TableView&, const Rule&, const Clock&, const Plan&);
void materialize_all_half(const TableView&, const Rule&, const Clock&);

void widen(Storage storage, const uint16_t* stored, int64_t n, float* out);
void narrow(Storage storage, const float* values, int64_t n, uint16_t* out);  // to nearest

}  // namespace ROWWISE_ISA
}  // namespace rowwise
