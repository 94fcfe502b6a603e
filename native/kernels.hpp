// What the kernels work on. Plain data: the kernels are compiled once per instruction set.
#pragma once
#include <cstdint>

#include "clock.hpp"
#include "plan.hpp"
#include "word2vec.hpp"

namespace rowwise {

// A row's own bookkeeping: one cache line gives all of it.
struct RowState {
    uint32_t stamp;       // the step up to which the row is current
    uint32_t updates;     // batches that touched it
    int64_t last_update;  // step of the last one, counted from 1; 0: never
};

struct Store {
    float* weights;        // (rows, dim)
    float* slots[kSlots];  // (rows, dim) each
    RowState* states;      // (rows,)
    int64_t rows, dim;
    bool fresh;  // slots of never-updated rows hold what the rule starts with
};

enum class Family {
    sgd,
    momentum,
    nesterov,
    torch_momentum,
    torch_nesterov,
    rmsprop,
    rmsprop_momentum,
    rmsprop_centered,
    rmsprop_centered_momentum,
    torch_rmsprop,
    torch_rmsprop_momentum,
    torch_rmsprop_centered,
    torch_rmsprop_centered_momentum,
    adagrad,
    torch_adagrad,
    adadelta,
    adam,
    adam_amsgrad,
    nadam,
    adamax,
    torch_adamax,
    lion,
    ftrl,
};

// Hyperparameters; a rule fills those of its formula.
struct Hyper {
    float momentum = 0, rho = 0, one_minus_rho = 0, beta_1 = 0, one_minus_beta_1 = 0, beta_2 = 0,
          one_minus_beta_2 = 0, epsilon = 0, power = 0, l1 = 0, two_l2 = 0, beta = 0,
          window_shrink = 0;
    // For the replay, in float64: what a missed step does to a movement's numerator, to its
    // denominator, and what is added to that.
    double exact_beta_1 = 0, exact_shrink = 0, exact_epsilon = 0;
};

struct Rule {
    Family family;
    Hyper hyper;
};

// One step's numbers.
struct Step {
    float lr = 0, keep = 1, scale = 0, gradient_scale = 0, epsilon = 0;
    int64_t number = 0;  // counted from 1
    uint32_t stamp = 0;  // the clock's reading after it
};

struct Kernels {
    const char* name;
    // out (n, dim) <- the present values of rows ids (n,). Writes nothing else.
    void (*lookup)(const Store&, const Rule&, const Clock&, const int64_t* ids, int64_t n,
                   float* out);
    // Rows of the plan: to now, then one step with the sums of their gradients.
    void (*update)(Store&, const Rule&, const Clock&, const Step&, const Plan&,
                   const float* gradients);
    // Every row to now; the caller then restarts the clock.
    void (*sync)(Store&, const Rule&, const Clock&);
    // The rows of the plan to now.
    void (*refresh)(Store&, const Rule&, const Clock&, const Plan&);
    // out (rows, dim) <- the present values of slot `slot`.
    void (*slot_values)(const Store&, const Rule&, const Clock&, int slot, float* out);

    // out (bags, dim) <- the weighted sum of each bag's rows; 0 where it is empty.
    void (*pool)(const Store&, const Rule&, const Clock&, const Bags&, float* out);
    // out (bags, dim) <- the largest of each bag's values, weights aside, and argmax (bags, dim)
    // <- the first position that has it; 0 and -1 where the bag is empty.
    void (*pool_max)(const Store&, const Rule&, const Clock&, const Bags&, float* out,
                     int64_t* argmax);
    // out (n,) <- the product of each row with its bag's gradient, of gradients (bags, dim).
    void (*pool_dots)(const Store&, const Rule&, const Clock&, const Bags&,
                      const float* gradients, float* out);
    // out (distinct, dim) <- the sum of the gradients of each distinct id.
    void (*sum_gradients)(const Plan&, int64_t dim, const float* gradients, float* out);
    // The same for `pool_max`, from gradients (bags, dim), a plan of positions and the bag of each,
    // bag_of (n,).
    void (*pool_max_gradient)(const Plan&, const uint32_t* bag_of, int64_t dim,
                              const int64_t* argmax, const float* gradients, float* out);

    // One pass of word2vec over part of a text.
    void (*train_pairs)(const WordPairs&, const Passage&);
};

const Kernels& kernels();                 // the best this processor runs
bool select_kernels(const char* name);    // for tests and benchmarks; false where it cannot run

}  // namespace rowwise
