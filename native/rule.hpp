// A rule as the caller gives it: in float64, and with the way it moves rows in missed steps.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "clock.hpp"
#include "plain.hpp"

namespace rowwise {

struct RuleParams {
    double momentum = 0, rho = 0, beta_1 = 0, beta_2 = 0, epsilon = 0, learning_rate_power = 0,
           l1 = 0, l2 = 0, beta = 0;
    double shrink = 1;     // what a missed step multiplies the denominator of a movement by
    uint32_t horizon = 1;  // how many missed steps matter to the movement
};

// Throws std::invalid_argument if there is no family of that name.
Rule make_rule(const std::string& family, const RuleParams& params);

// What a table is trained by.
struct TrainingRule {
    Rule rule;
    LagParams lag;
    std::vector<float> slot_starts;  // what the slots of a new row hold
    bool advances = false;           // whether a step changes rows that it does not touch
    std::string slot_names;          // so that a rule with other slots is told from this one
};

}  // namespace rowwise
