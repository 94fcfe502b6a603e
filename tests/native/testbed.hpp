// Tables without Python, for the native benchmark and the native tests: rowwise::Table over memory
// of its own, and a rule of every family.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "table.hpp"

#define ROWWISE_ISA testbed
#include "rules.hpp"
#undef ROWWISE_ISA

namespace rowwise::testbed {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-7, kRate = 0.01;

// A rule's family and shape, as `rowwise.rules` describes it; all take the same numbers.
struct Kind {
    const char* name;
    int slots;
    LagParams lag;
    double shrink;
};

inline Kind kind_of(const char* name, Family family, int slots, bool moves, bool expands) {
    Kind kind{name, slots, {}, 1};
    LagParams& lag = kind.lag;
    lag.slot_decay.assign(static_cast<std::size_t>(slots), kBeta1);
    if (!moves || family == Family::ftrl) return kind;
    lag.terms = expands ? kTerms : 1;
    lag.ratio = kBeta1;
    if (expands) {
        const bool root = family != Family::adamax && family != Family::torch_adamax;
        kind.shrink = family == Family::adam_amsgrad ? 1 : root ? std::sqrt(kBeta2) : kBeta2;
        lag.ratio = kBeta1 / kind.shrink;
        lag.growth = 1 / kind.shrink;
        lag.slot_decay[1] = kBeta2;
        if (slots == 3) lag.slot_decay[2] = 1;
    }
    if (family == Family::lion) {
        lag.ratio = 1;
        lag.unbounded = true;
        lag.horizon = 64;
    } else {
        lag.horizon = static_cast<uint32_t>(std::ceil(std::log(0x1p-30) / std::log(lag.ratio)));
    }
    return kind;
}

// A kind for every family.
inline std::vector<Kind> kinds() {
    std::vector<Kind> all;
#define ROWWISE_ADD(name, ...)                                                         \
    all.push_back(kind_of(#name, Family::name, __VA_ARGS__::slots, __VA_ARGS__::moves, \
                          __VA_ARGS__::expands));
    ROWWISE_FAMILIES(ROWWISE_ADD)
#undef ROWWISE_ADD
    return all;
}

inline Kind kind(const char* name) {
    for (const Kind& kind : kinds())
        if (std::strcmp(kind.name, name) == 0) return kind;
    throw std::invalid_argument(name);
}

struct Zeros {
    void* memory;
    std::size_t bytes;
    explicit Zeros(std::size_t bytes) : memory(allocate(bytes)), bytes(bytes) {
        if (memory == nullptr) throw std::bad_alloc();
    }
    ~Zeros() { release(memory, bytes); }
    Zeros(const Zeros&) = delete;
    Zeros& operator=(const Zeros&) = delete;
};

// The arrays of a table. row_states may begin 4 bytes off, as in a mapped file.
class Arrays {
  public:
    Arrays(int64_t rows, int64_t dim, int slots, std::size_t offset = 0)
        : floats_(static_cast<std::size_t>(rows * dim) * sizeof(float)), weights_(floats_),
          slots_(floats_ * static_cast<std::size_t>(std::max(slots, 1))),
          states_(static_cast<std::size_t>(rows) * sizeof(RowState) + offset), offset_(offset) {
        for (int64_t i = 0; i < rows * dim; ++i)
            weights()[i] = static_cast<float>(i % 1000) * 1e-3f;
    }
    float* weights() const { return static_cast<float*>(weights_.memory); }
    float* slot(int i) const {
        return static_cast<float*>(slots_.memory) + static_cast<std::size_t>(i) * floats_ / 4;
    }
    RowState* states() const {
        return reinterpret_cast<RowState*>(static_cast<char*>(states_.memory) + offset_);
    }

  private:
    std::size_t floats_;
    Zeros weights_, slots_, states_;
    std::size_t offset_;
};

inline TrainingRule training_rule(const Kind& kind) {
    TrainingRule training;
    training.rule = make_rule(kind.name, {.momentum = kBeta1,
                                          .rho = kBeta1,
                                          .beta_1 = kBeta1,
                                          .beta_2 = kBeta2,
                                          .epsilon = kEpsilon,
                                          .learning_rate_power = -0.5,
                                          .l1 = 1e-4,
                                          .shrink = kind.shrink,
                                          .horizon = kind.lag.horizon});
    training.lag = kind.lag;
    training.slot_starts.assign(static_cast<std::size_t>(kind.slots), 0.0f);
    training.advances = true;
    // An accumulator of 0 would make Ftrl divide 0 by 0 where no gradient came.
    if (std::strcmp(kind.name, "ftrl") == 0) training.slot_starts[0] = 0.1f;
    return training;
}

// A table with memory of its own, trained by a kind of rule.
class OwnTable : public Arrays, public Table {
  public:
    OwnTable(const Kind& kind, int64_t rows, int64_t dim, std::size_t offset = 0)
        : Arrays(rows, dim, kind.slots, offset), Table(weights(), states(), rows, dim) {
        give_rule(kind);
    }

    // The same weights, stored in 16 bits where the first half of them was.
    OwnTable(const Kind& kind, int64_t rows, int64_t dim, Storage storage)
        : Arrays(rows, dim, kind.slots),
          Table(reinterpret_cast<uint16_t*>(weights()), storage, states(), rows, dim) {
        const std::vector<float> wide(weights(), weights() + rows * dim);
        kernels().narrow(storage, wide.data(), rows * dim, reinterpret_cast<uint16_t*>(weights()));
        give_rule(kind);
    }

    StepParams next_step() { return {++steps_, kRate, 1, kRate, kRate, 1}; }

    void train(const BatchPlan& plan, Floats gradients) { update(plan, gradients, next_step()); }

  private:
    void give_rule(const Kind& kind) {
        const TrainingRule training = training_rule(kind);
        std::vector<float*> slots;
        for (int i = 0; i < kind.slots; ++i) slots.push_back(slot(i));
        if (kind.slots > 0) std::fill_n(slots[0], rows() * dim(), training.slot_starts[0]);
        set_rule(training, slots, true);
    }

    int64_t steps_ = 0;
};

// n ids of `rows`: uniform, or the k-th most frequent as often as 1 / k, scattered over the table.
inline std::vector<int64_t> random_ids(int64_t n, int64_t rows, bool zipf,
                                       std::mt19937_64& random) {
    std::vector<int64_t> ids(n);
    for (auto& id : ids) {
        if (zipf) {
            // Not uniform_real_distribution, whose numbers each library chooses.
            const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
            const auto rank = static_cast<uint64_t>(std::pow(static_cast<double>(rows), unit));
            id = static_cast<int64_t>(rank * 2654435761u % static_cast<uint64_t>(rows));
        } else {
            id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
        }
    }
    return ids;
}

}  // namespace rowwise::testbed
