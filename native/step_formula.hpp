// The numbers of a step, from its learning rate and iteration, for programs without Python.
#pragma once
#include <cstdint>

#include "table.hpp"

namespace rowwise {

// What a rule makes of a step's learning rate and iteration: constants, but for `kind`. The numbers
// are those of `Rule.step_params` in src/rowwise/rules/.
struct StepFormula {
    enum class Kind {
        constant,  // scale
        rate,      // scale = lr scale
        adam,      // scale = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)
        adam_hat,  // the same; epsilon_factor = sqrt(1 - beta_2^t)
        adamax,    // scale = lr / (1 - beta_1^t)
        nadam,     // see rules/_adam.py
    };
    Kind kind = Kind::constant;
    double scale = 0, gradient_scale = 0, epsilon_factor = 1;
    double beta_1 = 0, beta_2 = 0, weight_decay = 0, momentum_decay = 1;
    bool divides_by_rate = false;  // so that a rate of 0 is refused

    StepParams at(double rate, int64_t iteration) const;
};

}  // namespace rowwise
