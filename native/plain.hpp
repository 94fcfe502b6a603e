// The plain data of tables and rules: structs that a kernel on any processor can be handed, without
// classes of the standard library.
#pragma once
#include <cstdint>

// Marks a function that is also compiled for a GPU.
#if defined(__CUDACC__)
#define ROWWISE_HD __host__ __device__
#else
#define ROWWISE_HD
#endif

namespace rowwise {

constexpr int kTerms = 8;   // terms of the expansion kept, see clock.hpp
constexpr int kSlots = 3;   // slots a rule can have, at most
constexpr float kAnyY = 2;  // y lies in [0, 1]

// What k missed steps do to a row, for one k.
struct LaggedUpdate {
    float decay_factor = 1;           // of the weight
    float slot_decay[kSlots] = {};    // factor on each slot
    float coefficients[kTerms] = {};  // C_0, -C_1, C_2, ...: the movement, a polynomial in y
    float y_max = kAnyY;       // the expansion holds up to this y; above it, replay the terms
    float epsilon_factor = 1;  // e_{s+1}
    float last_scale = 0;      // scale of the last step
    uint32_t missed = 0;       // k
};

// Hyperparameters; a rule fills those of its formula.
struct Hyperparameters {
    float momentum = 0, rho = 0, one_minus_rho = 0, beta_1 = 0, one_minus_beta_1 = 0, beta_2 = 0,
          one_minus_beta_2 = 0, epsilon = 0, power = 0, l1 = 0, two_l2 = 0, beta = 0,
          horizon_shrink = 0;
    // For the replay, in float64: what a missed step does to a movement's numerator, to its
    // denominator, and what is added to that.
    double exact_beta_1 = 0, exact_shrink = 0, exact_epsilon = 0;
};

// One step, as the arithmetic of a row reads it.
struct Step {
    float learning_rate = 0, decay_factor = 1, scale = 0, gradient_scale = 0, epsilon = 0;
    uint32_t last_step = 0;  // the clock's reading after it
    int64_t iteration = 0;   // counted from 1
};

// The bookkeeping of a row: one cache line gives all of it. Aligned to 4 bytes, as a mapped file
// promises no more.
struct RowState {
    uint32_t last_step;       // the step up to which the row is current
    uint32_t update_count;    // batches that touched it, 2^32 - 1 at most
    uint32_t last_update[2];  // step of the last one, counted from 1; 0: never. Low half first

    ROWWISE_HD void count_update(int64_t iteration) {
        update_count += update_count != UINT32_MAX;
        set_last_update(iteration);
    }
    ROWWISE_HD bool last_update_is(int64_t iteration) const {
        return last_update[0] == static_cast<uint32_t>(iteration) &&
               last_update[1] == static_cast<uint32_t>(static_cast<uint64_t>(iteration) >> 32);
    }
    ROWWISE_HD void set_last_update(int64_t iteration) {
        last_update[0] = static_cast<uint32_t>(iteration);
        last_update[1] = static_cast<uint32_t>(static_cast<uint64_t>(iteration) >> 32);
    }
};
static_assert(sizeof(RowState) == 16 && alignof(RowState) == 4);

// How weights are stored. Slots, and all arithmetic, are float32.
enum class Storage : uint8_t { float32, bfloat16, float16 };

// Where the arrays of a table lie.
struct TableView {
    float* weights;        // (rows, dim), where they are float32
    float* slots[kSlots];  // (rows, slot_dim) each
    RowState* states;      // (rows,)
    int64_t rows, dim, slot_dim;
    bool slots_pristine;  // slots of rows without an update hold what the rule starts with
    Storage storage;
    bool rounds_at_random;   // or to nearest, where weights are not float32
    uint16_t* halves;        // (rows, dim), where they are not
    uint64_t rounding_seed;  // of rounding at random, as is the number of updates so far
    int64_t steps;
};

// Every rule family: X(name, class in rules.hpp). Names are those of src/rowwise/rules/.
#define ROWWISE_FAMILIES(X)                                       \
    X(sgd, Sgd)                                                   \
    X(momentum, Momentum<false>)                                  \
    X(nesterov, Momentum<true>)                                   \
    X(torch_momentum, TorchMomentum<false>)                       \
    X(torch_nesterov, TorchMomentum<true>)                        \
    X(rmsprop, Rmsprop<false, false, false>)                      \
    X(rmsprop_momentum, Rmsprop<true, false, false>)              \
    X(rmsprop_centered, Rmsprop<false, true, false>)              \
    X(rmsprop_centered_momentum, Rmsprop<true, true, false>)      \
    X(torch_rmsprop, Rmsprop<false, false, true>)                 \
    X(torch_rmsprop_momentum, Rmsprop<true, false, true>)         \
    X(torch_rmsprop_centered, Rmsprop<false, true, true>)         \
    X(torch_rmsprop_centered_momentum, Rmsprop<true, true, true>) \
    X(adagrad, Adagrad<false>)                                    \
    X(torch_adagrad, Adagrad<true>)                               \
    X(rowwise_adagrad, RowwiseAdagrad)                            \
    X(adadelta, Adadelta)                                         \
    X(adam, Adam<false>)                                          \
    X(adam_amsgrad, Adam<true>)                                   \
    X(nadam, Nadam)                                               \
    X(adamax, Adamax)                                             \
    X(torch_adamax, TorchAdamax)                                  \
    X(lion, Lion)                                                 \
    X(ftrl, Ftrl)

#define ROWWISE_FAMILY_NAME(name, ...) name,
enum class Family { ROWWISE_FAMILIES(ROWWISE_FAMILY_NAME) };
#undef ROWWISE_FAMILY_NAME

// Whether a slot is one number a row: its slot_dim is 1, and the table's dim otherwise.
constexpr bool has_row_slots(Family family) { return family == Family::rowwise_adagrad; }

struct Rule {
    Family family = Family::sgd;
    Hyperparameters hyper;
};

}  // namespace rowwise
